"""The real Pulumi engine with the stand-in on PATH, against a running sandbox."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.arm.store import ResourceStore
from testing.arm.azure_native import Engine, engine
from testing.sandbox.process import RunningSandbox, running_sandbox

__all__ = ["engine"]

pytestmark = pytest.mark.stack

# Only required names are set, so that the provider chooses the others.
PROGRAM = """
import pulumi
from pulumi_azure_native import applicationinsights, authorization, containerservice, managedidentity
from pulumi_azure_native import resources, storage

settings = pulumi.Config().require_object("settings")
who = authorization.get_client_config()
group = resources.ResourceGroup("group", resource_group_name="g", location="westeurope", tags=settings["tags"])
here = {"resource_group_name": group.name}
account = storage.StorageAccount(
    "account", **here, account_name=settings["account"], kind="StorageV2", sku={"name": "Standard_LRS"},
    is_hns_enabled=True, enable_https_traffic_only=True, tags=settings["tags"],
)
container = storage.BlobContainer("raw", **here, account_name=account.name)
identity = managedidentity.UserAssignedIdentity("identity", **here)
authorization.RoleAssignment(
    "grant", scope=account.id, principal_id=identity.principal_id, principal_type="ServicePrincipal",
    role_definition_id=f"/subscriptions/{who.subscription_id}/providers/Microsoft.Authorization/roleDefinitions/r",
)
insights = applicationinsights.Component(
    "insights", **here, kind="web", application_type="web", opts=pulumi.ResourceOptions(ignore_changes=["flowType"]))
cluster = containerservice.ManagedCluster(
    "cluster", **here, dns_prefix="cluster", oidc_issuer_profile={"enabled": True},
    identity={"type": "UserAssigned", "user_assigned_identities": [identity.id]},
    agent_pool_profiles=[{"name": "system", "mode": "System", "count": 2, "vm_size": "Standard_D4s_v5"}],
    auto_scaler_profile={"scan_interval": "10s"},
    # Azure lists every pool of the cluster here, also those that are separate resources.
    opts=pulumi.ResourceOptions(ignore_changes=["agentPoolProfiles"]),
)
containerservice.AgentPool(
    "scoring", **here, resource_name_=cluster.name, count=1, vm_size="Standard_D4s_v5", tags=settings["tags"],
)
pulumi.export("dfs", account.primary_endpoints.dfs)
pulumi.export("issuer", cluster.oidc_issuer_profile.issuer_url)
pulumi.export("component", insights.id)
"""
SETTINGS = {"tags": {"owner": "a"}, "account": "lake"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("cloud") / "sandbox") as running:
        yield running


@pytest.fixture
def stack(engine: Engine, cloud: RunningSandbox) -> Engine:
    engine.environment = {**engine.environment, **cloud.environment}
    engine.program(PROGRAM)
    engine("stack", "init", "test")
    configure(engine)
    return engine


def configure(stack: Engine, **settings: object) -> None:
    stack("config", "set", "settings", json.dumps({**SETTINGS, **settings}))


def steps(stack: Engine) -> dict[str, str]:
    """Operation by resource in a preview, without unchanged resources."""
    steps = json.loads(stack("preview", "--json"))["steps"]
    return {step["urn"].rpartition("::")[2]: step["op"] for step in steps if step["op"] != "same"}


def resources(cloud: RunningSandbox) -> dict[str, Any]:
    store = ResourceStore(cloud.folder / "resources.sqlite")
    try:
        return dict(store.below(""))
    finally:
        store.close()


def test_stack_lifecycle_with_the_real_engine(stack: Engine, cloud: RunningSandbox) -> None:
    assert set(steps(stack).values()) == {"create"}
    assert not resources(cloud), "a preview writes nothing"

    stack("up", "--yes", "--skip-preview")
    outputs = json.loads(stack("stack", "output", "--json"))
    assert outputs["dfs"] == f"{cloud.url}/blob/lake/"
    assert outputs["issuer"].startswith("https://")

    configure(stack, tags={"owner": "b"})
    assert steps(stack) == {"group": "update", "account": "update", "scoring": "update"}
    configure(stack)

    # A property that the program ignores, changed by another tool, is neither reverted nor shown.
    address = outputs["component"]
    component = cloud.arm("GET", address).json()
    component["properties"]["Flow_Type"] = "by hand"
    assert cloud.arm("PUT", address, component).status_code == 200
    stack("refresh", "--yes", "--skip-preview")
    stack("up", "--yes", "--skip-preview", "--expect-no-changes")

    configure(stack, account="pond")
    replaced = steps(stack)
    assert replaced["account"] == replaced["raw"] == replaced["grant"] == "replace"
    assert "cluster" not in replaced
    stack("up", "--yes", "--skip-preview")
    accounts = {body["name"] for body in resources(cloud).values() if body["type"].endswith("/storageAccounts")}
    assert "pond" in accounts
    assert "lake" not in accounts

    stack("destroy", "--yes", "--skip-preview")
    assert not resources(cloud)
