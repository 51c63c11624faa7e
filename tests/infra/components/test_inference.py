"""Azure ML on the cluster: the extension's identity, the attached compute, the router's address."""

import uuid
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks, rpc

from cli.changes.mock_program import Graph
from infra.aks import attachment
from infra.aks.attachment import AttachFailed, _AttachmentProvider
from infra.components import inference_router
from infra.components.inference_router import require_inside
from testing.sandbox.machine_learning import EXTENSION, ROLE, Cloud, cluster_properties, extension_properties, key_vault
from testing.sandbox.process import in_environment, running_sandbox
from testing.stack.infra_graph import graph

PRIVATE = {"network__mode": "private", "personalization__production": "true", "release__enabled": "false"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A workspace, and a cluster with the extension and trusted access, on which the workspace has no role."""
    folder = tmp_path_factory.mktemp("cloud")
    with running_sandbox(folder) as running, in_environment(running.environment):
        cloud = Cloud(running.folder, running.variables)
        cloud.put(cloud.group)
        storage = f"{cloud.group}/providers/Microsoft.Storage/storageAccounts/mlstorage"
        cloud.put(storage, kind="StorageV2", sku={"name": "Standard_LRS"}, properties={})
        linked = {"storageAccount": storage, "keyVault": key_vault(cloud)}
        cloud.put(cloud.workspace, identity={"type": "SystemAssigned"}, properties=linked)
        cloud.put(cloud.cluster, properties=cluster_properties("aks"))
        cloud.put(f"{cloud.cluster}/providers/{EXTENSION}/azureml", properties=extension_properties())
        binding = {"roles": [ROLE], "sourceResourceId": cloud.workspace}
        cloud.put(f"{cloud.cluster}/trustedAccessRoleBindings/ml", properties=binding)
        yield cloud
        cloud.http.close()


@pytest.fixture
def props(cloud: Cloud) -> Iterator[dict[str, Any]]:
    """Inputs of an attachment, with another name in each test; the workspace has its role on the cluster."""
    cloud.contribute(cloud.cluster)
    cloud.settings(role_propagation=0)
    compute = f"{cloud.workspace}/computes/c{uuid.uuid4().hex[:8]}"
    yield {
        "compute_id": compute,
        "workspace_uid": "workspace",
        "cluster_id": cloud.cluster,
        "cluster_uid": "cluster",
        "location": "westeurope",
        "namespace": "azureml",
        "extension_uid": "principal",
    }
    cloud.delete(f"{compute}?underlyingResourceAction=Detach")


def attached(cloud: Cloud, props: dict[str, Any]) -> Any:
    answer = cloud.arm("GET", props["compute_id"])
    return answer.json()["properties"] if answer.is_success else None


def test_cluster_is_attached_with_the_principal_of_its_extension_and_detached(
    cloud: Cloud, props: dict[str, Any]
) -> None:
    made = _AttachmentProvider().create(props)
    assert made.id == props["compute_id"]
    held = attached(cloud, props)
    assert (held["provisioningState"], held["resourceId"]) == ("Succeeded", cloud.cluster)
    assert held["properties"]["extensionPrincipalId"] == "principal"
    assert _AttachmentProvider().read(made.id, made.outs).outs == made.outs
    _AttachmentProvider().delete(made.id, made.outs)
    assert attached(cloud, props) is None
    assert cloud.arm("GET", cloud.cluster).status_code == 200
    assert _AttachmentProvider().read(made.id, made.outs).id == ""
    _AttachmentProvider().delete(made.id, made.outs)


def test_compute_left_by_a_killed_up_is_attached_again(cloud: Cloud, props: dict[str, Any]) -> None:
    _AttachmentProvider().create({**props})
    first = cloud.arm("GET", props["compute_id"]).json()["systemData"]["createdAt"]
    _AttachmentProvider().create({**props})
    assert cloud.arm("GET", props["compute_id"]).json()["systemData"]["createdAt"] > first


def test_attach_waits_for_the_role_of_the_workspace(cloud: Cloud, props: dict[str, Any]) -> None:
    role = f"{cloud.cluster}/providers/Microsoft.Authorization/roleAssignments"
    (held,) = [it["id"] for it in cloud.arm("GET", f"{role}?$filter=atScope()").json()["value"]]
    assert cloud.delete(held) == ""
    cloud.contribute(cloud.cluster)
    cloud.settings(role_propagation=1.5)
    _AttachmentProvider().create(props)
    assert attached(cloud, props)["provisioningState"] == "Succeeded"


def test_attach_that_cannot_succeed_later_fails_at_once(cloud: Cloud, props: dict[str, Any]) -> None:
    with pytest.raises(AttachFailed, match=r"managedClusters/none was not attached as .*ClusterNotFound"):
        _AttachmentProvider().create({**props, "cluster_id": cloud.cluster.replace("aks-test", "none")})
    assert attached(cloud, props) is None


def test_role_that_never_takes_effect_ends_the_wait(
    cloud: Cloud, props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment, "_ACCESS_SECONDS", 0.5)
    cloud.settings(role_propagation=3600)
    with pytest.raises(AttachFailed, match=r"not installed on the cluster.*without the role Contributor"):
        _AttachmentProvider().create(props)


def test_compute_attached_to_another_cluster_is_found(cloud: Cloud, props: dict[str, Any]) -> None:
    made = _AttachmentProvider().create(props)
    found = _AttachmentProvider().read(made.id, {**made.outs, "cluster_id": f"{cloud.cluster}-other"})
    assert found.outs is not None
    assert found.outs["cluster_id"] == cloud.cluster


def answered(monkeypatch: pytest.MonkeyPatch, suffix: str, **outputs: Any) -> None:
    """Have the mocks answer other outputs of one type."""
    known = Graph.new_resource

    def new_resource(self: Graph, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        id_, found = known(self, args)
        return id_, {**found, **outputs} if args.typ.endswith(suffix) else found

    monkeypatch.setattr(Graph, "new_resource", new_resource)


def test_identity_of_the_extension_is_the_one_that_aks_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: MicrosoftDocs/azure-docs#120348"""
    answered(monkeypatch, ":Extension", aksAssignedIdentity={"type": "SystemAssigned", "principalId": "p"})
    program = graph(release__enabled="false")
    (extension,) = program.of(":Extension")
    assert "identity" not in extension.inputs
    assert program.of(":KubernetesCompute")[0].inputs["extension_uid"] == "p"
    granted = [it.inputs["principalId"] for it in program.of(":RoleAssignment") if it.name.startswith("extension")]
    assert set(granted) == {"p"}


def test_extension_without_an_identity_stops_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, ":Extension", aksAssignedIdentity=None)
    with pytest.raises(pulumi.RunError, match="returned no aksAssignedIdentity"):
        graph(release__enabled="false")


def test_private_stack_with_a_public_router_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    public = {"authMode": "Key", "scoringUri": "http://192.0.2.10/api/v1/endpoint/e/score"}
    answered(monkeypatch, ":OnlineEndpoint", properties=public)
    with pytest.raises(pulumi.RunError, match=r"is at 192.0.2.10 .*not in its network 10.40.0.0/20.*azureml-fe"):
        graph(**PRIVATE)
    assert graph(release__enabled="false").outputs["scoring_uri"] == public["scoringUri"]


@pytest.mark.parametrize(
    ("uri", "addresses", "inside"),
    [
        ("http://10.40.0.9/api/v1/endpoint/e/score", [], True),
        ("http://10.41.0.9/api/v1/endpoint/e/score", [], False),
        ("https://scores.example.com/score", ["10.40.0.9"], True),
        ("https://scores.example.com/score", ["10.40.0.9", "203.0.113.7"], False),
        ("https://scores.example.com/score", [], True),
    ],
)
def test_router_address_is_checked_after_name_resolution(
    monkeypatch: pytest.MonkeyPatch, uri: str, addresses: list[str], inside: bool
) -> None:
    def look_up(*_: Any, **__: Any) -> list[Any]:
        if not addresses:
            raise OSError("Name or service not known")
        return [(None, None, None, "", (address, 0)) for address in addresses]

    warnings: list[str] = []
    monkeypatch.setattr(inference_router.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(pulumi, "warn", warnings.append)
    if inside:
        assert require_inside(uri, IPv4Network("10.40.0.0/20")) == uri
    else:
        with pytest.raises(pulumi.RunError):
            require_inside(uri, IPv4Network("10.40.0.0/20"))
    assert bool(warnings) is (uri.startswith("https") and not addresses)


def test_recreated_cluster_is_attached_again_and_an_unknown_id_changes_nothing() -> None:
    olds = {"cluster_uid": "a", "extension_uid": "p", "workspace_uid": "w", "compute_id": "c", "cluster_id": "i"}
    unknown = rpc.deserialize_property(rpc.UNKNOWN, keep_unknowns=True)
    for changed, replaced in (({"cluster_uid": "b"}, True), ({"extension_uid": unknown}, False), ({}, False)):
        found = _AttachmentProvider().diff("c", {**olds, "namespace": "n"}, {**olds, "namespace": "n", **changed})
        assert bool(found.replaces) is replaced
