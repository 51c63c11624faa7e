"""The real Pulumi engine with the stand-in on PATH, against a running sandbox: what a user of `pulumi` sees."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from azure_native_fixtures import Engine, engine
from sandbox_fixtures import RunningSandbox, running_sandbox

from sandbox.azure_native.resource_type import by_token
from sandbox.store import ResourceStore

__all__ = ["engine"]

pytestmark = pytest.mark.stack

# One resource of every type that the provider knows.
PROGRAM = """
import pulumi
from pulumi_azure_native import (
    applicationinsights, authorization, containerregistry, containerservice, databricks, keyvault,
    kubernetesconfiguration, machinelearningservices, managedidentity, operationalinsights, resources, storage,
)

settings = pulumi.Config().require_object("settings")
who = authorization.get_client_config()
group = resources.ResourceGroup("group", resource_group_name="g", location="westeurope", tags=settings["tags"])
here = {"resource_group_name": group.name}
account = storage.StorageAccount(
    "account", **here, account_name=settings["account"], kind="StorageV2", sku={"name": "Standard_LRS"},
    is_hns_enabled=True, enable_https_traffic_only=True, tags=settings["tags"],
)
storage.BlobServiceProperties(
    "blobs", **here, account_name=account.name, blob_services_name="default",
    delete_retention_policy={"enabled": True, "days": 7},
)
container = storage.BlobContainer("raw", **here, account_name=account.name)
identity = managedidentity.UserAssignedIdentity("identity", **here)
authorization.RoleAssignment(
    "grant", scope=account.id, principal_id=identity.principal_id, principal_type="ServicePrincipal",
    role_definition_id=f"/subscriptions/{who.subscription_id}/providers/Microsoft.Authorization/roleDefinitions/r",
)
vault = keyvault.Vault("vault", **here, properties={
    "tenant_id": who.tenant_id, "sku": {"family": "A", "name": "standard"}, "enable_rbac_authorization": True,
})
logs = operationalinsights.Workspace("logs", **here, sku={"name": "PerGB2018"})
insights = applicationinsights.Component(
    "insights", **here, kind="web", application_type="web", workspace_resource_id=logs.id)
registry = containerregistry.Registry("registry", **here, sku={"name": "Standard"})
databricks.AccessConnector("connector", **here, identity={"type": "SystemAssigned"})
bricks = databricks.Workspace(
    "bricks", **here, compute_mode="Hybrid", sku={"name": "premium"},
    managed_resource_group_id=f"/subscriptions/{who.subscription_id}/resourceGroups/managed",
    parameters={"enable_no_public_ip": {"value": True}},
)
own = storage.StorageAccount("own", **here, kind="StorageV2", sku={"name": "Standard_LRS"})
learning = machinelearningservices.Workspace(
    "learning", **here, identity={"type": "SystemAssigned"}, storage_account=own.id, key_vault=vault.id,
    application_insights=insights.id,
)
cluster = containerservice.ManagedCluster(
    "cluster", **here, dns_prefix="cluster", oidc_issuer_profile={"enabled": True},
    identity={"type": "UserAssigned", "user_assigned_identities": [identity.id]},
    agent_pool_profiles=[{"name": "system", "mode": "System", "count": 2, "vm_size": "Standard_D4s_v5"}],
    auto_scaler_profile={"scan_interval": "10s"},
)
containerservice.AgentPool(
    "scoring", **here, resource_name_=cluster.name, count=settings["count"], vm_size="Standard_D4s_v5",
    tags=settings["tags"],
)
extension = kubernetesconfiguration.Extension(
    "extension", **here, cluster_rp="Microsoft.ContainerService", cluster_resource_name="managedClusters",
    cluster_name=cluster.name, extension_type="microsoft.azureml.kubernetes", identity={"type": "SystemAssigned"},
    configuration_settings={"a.dotted.key": "True", "enableInference": "True"},
)
containerservice.TrustedAccessRoleBinding(
    "trusted", **here, resource_name_=cluster.name, source_resource_id=learning.id, roles=["mlworkload"],
)
compute = machinelearningservices.Compute(
    "compute", **here, workspace_name=learning.name, properties=machinelearningservices.KubernetesArgs(
        compute_type="Kubernetes", resource_id=cluster.id,
        properties=machinelearningservices.KubernetesPropertiesArgs(
            namespace="azureml", default_instance_type="small", instance_types={
                "small": {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1"}}}
            },
        ),
    ),
    opts=pulumi.ResourceOptions(depends_on=[extension]),
)
machinelearningservices.Datastore(
    "models", **here, workspace_name=learning.name, skip_validation=True,
    properties=machinelearningservices.AzureDataLakeGen2DatastoreArgs(
        datastore_type="AzureDataLakeGen2", account_name=own.name, filesystem="models",
        credentials=machinelearningservices.NoneDatastoreCredentialsArgs(credentials_type="None"),
    ),
)
endpoint = machinelearningservices.OnlineEndpoint(
    "endpoint", **here, workspace_name=learning.name, kind="K8S",
    properties={"auth_mode": "Key", "compute": compute.id},
    opts=pulumi.ResourceOptions(ignore_changes=["properties.description"]),
)
pulumi.export("dfs", account.primary_endpoints.dfs)
pulumi.export("principals", [learning.identity.principal_id, extension.identity.principal_id])
pulumi.export("scoring", endpoint.properties.scoring_uri)
pulumi.export("endpoint", endpoint.id)
keys = machinelearningservices.list_online_endpoint_keys_output(
    endpoint_name=endpoint.name, workspace_name=learning.name, resource_group_name=group.name)
pulumi.export("call", pulumi.Output.secret(keys.primary_key))
pulumi.export("issuer", cluster.oidc_issuer_profile.issuer_url)
pulumi.export("registry", registry.login_server)
pulumi.export("workspace", bricks.workspace_url)
pulumi.export("key", insights.instrumentation_key)
"""
SETTINGS = {"tags": {"owner": "a"}, "account": "lake", "count": 1}


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
    """What a preview would do to what, without what stays the same."""
    found = json.loads(stack("preview", "--json"))["steps"]
    return {step["urn"].rpartition("::")[2]: step["op"] for step in found if step["op"] != "same"}


def resources(cloud: RunningSandbox) -> dict[str, Any]:
    store = ResourceStore(cloud.folder / "resources.sqlite")
    try:
        return dict(store.below(""))
    finally:
        store.close()


def test_a_stack_lives_as_azure_would_let_it(stack: Engine, cloud: RunningSandbox) -> None:
    assert set(steps(stack).values()) == {"create"}
    assert not resources(cloud), "a preview writes nothing"

    stack("up", "--yes", "--skip-preview")
    outputs = json.loads(stack("stack", "output", "--json"))
    assert outputs["dfs"] == f"{cloud.url}/blob/lake/"
    assert outputs["scoring"].startswith(f"{cloud.url}/api/v1/endpoint/")
    assert outputs["issuer"].startswith("https://")
    assert all(outputs["principals"])
    assert (outputs["workspace"], outputs["registry"].partition("/")[0]) == (cloud.authority, cloud.authority)
    assert outputs["key"]
    assert outputs["call"] == "[secret]"
    created = {resource["type"] for resource in json.loads(stack("stack", "export"))["deployment"]["resources"]}
    assert set(by_token()) <= created

    stack("up", "--yes", "--skip-preview", "--expect-no-changes")
    stack("refresh", "--yes", "--skip-preview", "--expect-no-changes")

    configure(stack, tags={"owner": "b"})
    assert steps(stack) == {"group": "update", "account": "update", "scoring": "update"}
    configure(stack, count=2)
    assert steps(stack) == {"scoring": "update"}
    stack("up", "--yes", "--skip-preview")
    (pool,) = (body for path, body in resources(cloud).items() if path.endswith("/agentPools/scoring"))
    assert pool["properties"]["count"] == 2

    # What another tool owns and the program ignores is neither undone nor shown.
    address = outputs["endpoint"]
    endpoint = cloud.arm("GET", address).json()
    endpoint["properties"]["description"] = "by hand"
    cloud.settle(cloud.arm("PUT", address, endpoint))
    stack("refresh", "--yes", "--skip-preview")
    stack("up", "--yes", "--skip-preview", "--expect-no-changes")

    configure(stack, count=2, account="pond")
    replaced = steps(stack)
    assert replaced["account"] == replaced["raw"] == replaced["grant"] == "replace"
    assert "cluster" not in replaced
    stack("up", "--yes", "--skip-preview")
    accounts = {body["name"] for body in resources(cloud).values() if body["type"].endswith("/storageAccounts")}
    assert "pond" in accounts
    assert "lake" not in accounts

    stack("destroy", "--yes", "--skip-preview")
    assert not resources(cloud)
