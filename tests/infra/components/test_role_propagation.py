"""Roles that take effect late: AKS refuses to create the cluster until then, and the program waits."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pulumi.runtime import rpc

from infra.components import role_propagation
from infra.components.identities import ASSIGN_IDENTITY
from infra.components.role_propagation import RolesNotInEffect, _RolesInEffectProvider
from infra.components.roles import Role
from testing.sandbox.process import RunningSandbox, in_environment, running_sandbox
from testing.stack.infra_graph import graph

UNKNOWN = rpc.deserialize_property(rpc.UNKNOWN, keep_unknowns=True)
POOL = {"name": "system", "mode": "System", "count": 1, "vmSize": "Standard_D4s_v5"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("cloud")) as running, in_environment(running.environment):
        running.arm("PUT", "resourcegroups/rg", {"location": "westeurope"})
        yield running


@pytest.fixture
def principal(cloud: RunningSandbox) -> str:
    """Principal of the control plane's identity, without a role: it and the nodes' identity are created again."""
    cloud.settings()
    for name in ("kubelet", "control-plane"):
        cloud.arm("DELETE", identity(cloud, name))
        created = cloud.arm("PUT", identity(cloud, name), {"location": "westeurope"}).json()
    return str(created["properties"]["principalId"])


def identity(cloud: RunningSandbox, name: str) -> str:
    return f"{cloud.subscription}/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


def assign(cloud: RunningSandbox, principal: str, role: str = Role.MANAGED_IDENTITY_OPERATOR) -> str:
    path = f"{identity(cloud, 'kubelet')}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
    definition = f"{cloud.subscription}/providers/Microsoft.Authorization/roleDefinitions/{role}"
    properties = {"principalId": principal, "roleDefinitionId": definition, "principalType": "ServicePrincipal"}
    assert cloud.arm("PUT", path, {"properties": properties}).status_code == 201
    return path


def create_cluster(cloud: RunningSandbox) -> dict[str, Any]:
    """Empty if AKS accepts it, else its refusal."""
    body = {
        "location": "westeurope",
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {identity(cloud, "control-plane"): {}}},
        "properties": {
            "dnsPrefix": "c",
            "agentPoolProfiles": [POOL],
            "identityProfile": {"kubeletidentity": {"resourceId": identity(cloud, "kubelet")}},
        },
    }
    path = "resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/c"
    answer = cloud.arm("PUT", path, body)
    if answer.is_success:
        cloud.settle(answer)
        cloud.settle(cloud.arm("DELETE", path))
        return {}
    return {"status": answer.status_code, **answer.json()["error"]}


def wanted(cloud: RunningSandbox, principal: str) -> dict[str, Any]:
    return {"access": [{"principal_id": principal, "action": ASSIGN_IDENTITY, "scope": identity(cloud, "kubelet")}]}


def test_aks_refuses_a_kubelet_identity_whose_role_is_not_in_effect_yet(cloud: RunningSandbox, principal: str) -> None:
    """Code and words of aztfmod/terraform-azurerm-caf#928."""
    kubelet = identity(cloud, "kubelet")
    refusal = {
        "status": 400,
        "code": "CustomKubeletIdentityMissingPermissionError",
        "message": "The cluster user assigned identity must be given permission to assign kubelet identity "
        f"{kubelet}. Check access result not allowed for action {ASSIGN_IDENTITY}.",
    }
    assert create_cluster(cloud) == refusal
    assign(cloud, principal, Role.NETWORK_CONTRIBUTOR)
    cloud.settings(role_propagation=0)
    assert create_cluster(cloud) == refusal
    cloud.settings(role_propagation=60)
    assign(cloud, principal)
    assert create_cluster(cloud) == refusal
    cloud.settings(role_propagation=0)
    assert create_cluster(cloud) == {}


def test_wait_ends_when_the_role_is_in_effect(cloud: RunningSandbox, principal: str) -> None:
    assign(cloud, principal)
    assert create_cluster(cloud)["code"] == "CustomKubeletIdentityMissingPermissionError"
    _RolesInEffectProvider().create(wanted(cloud, principal))
    assert create_cluster(cloud) == {}


def test_role_that_never_takes_effect_is_named(
    cloud: RunningSandbox, principal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_propagation, "_SECONDS", 0.1)
    with pytest.raises(RolesNotInEffect, match=f"{principal} may not .*assign/action on .*/kubelet.* run `up` again"):
        _RolesInEffectProvider().create(wanted(cloud, principal))


def test_role_removed_by_hand_is_found_by_refresh(cloud: RunningSandbox, principal: str) -> None:
    cloud.settings(role_propagation=0)
    assignment, provider = assign(cloud, principal), _RolesInEffectProvider()
    made = provider.create(wanted(cloud, principal))
    assert provider.read(made.id, made.outs).id == made.id
    cloud.arm("DELETE", assignment)
    assert provider.read(made.id, made.outs).id == ""


def test_wait_is_fixed_if_the_check_is_unavailable(
    cloud: RunningSandbox, principal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_propagation, "_WITHOUT_CHECK_SECONDS", 1.2)
    assign(cloud, principal)
    refused = {"error": {"code": "AuthorizationFailed", "message": "no right to read Microsoft.Authorization"}}
    cloud.faults({"method": "POST", "path": "checkaccess$", "status": 403, "body": refused, "times": 1})
    _RolesInEffectProvider().create(wanted(cloud, principal))
    assert create_cluster(cloud) == {}


def test_identity_with_an_unknown_id_in_preview_is_not_a_change() -> None:
    olds = {"access": [{"principal_id": "p", "action": ASSIGN_IDENTITY, "scope": "/kubelet"}]}
    for changed, replaces in (({}, False), ({"principal_id": UNKNOWN}, False), ({"principal_id": "q"}, True)):
        news = {"access": [{**olds["access"][0], **changed}]}
        assert _RolesInEffectProvider().diff("in-effect", olds, news).changes is replaces


def test_cluster_waits_for_every_role_that_it_needs() -> None:
    for network, actions in (("public", ["assign"]), ("private", ["assign", "join"])):
        program = graph(network__mode=network, personalization__production="true", serving__system_nodes="3")
        (waiting,) = [it for it in program.of("authorization:RolesInEffect") if it.name == "identity-cluster-roles"]
        assert [access["action"].split("/")[-2] for access in waiting.inputs["access"]] == actions
