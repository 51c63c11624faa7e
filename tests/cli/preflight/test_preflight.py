"""`personalization preflight` against a sandbox: problems that would stop `up` are found, each with its remedy."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.identity import DefaultAzureCredential
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.keyvault import KeyVaultManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient
from databricks.sdk.service.catalog import PermissionsChange, Privilege
from typer.testing import CliRunner

from cli.main import app
from cli.preflight import requirements
from cli.stacks import files
from infra.cloud.clients import AzureClients
from infra.config.naming import Names
from infra.planning import compatibility
from infra.release.training_stage.snapshot import SnapshotError, require_landed
from sandbox.arm import resource_types
from sandbox.identity import authority
from testing.arm.azure_native import Engine, engine
from testing.sandbox.process import RunningSandbox, in_environment, running_sandbox
from testing.stack.infra_graph import graph
from testing.stack.infra_stack import RUNNER

__all__ = ["engine"]

STACK = "test-westeurope"
DEV = {
    "azure-native:location": "westeurope",
    "personalization:environment": "test",
    "personalization:production": "false",
    "access:purge_protection": "false",
    "training:node_type": "Standard_D4s_v5",
    "training:workers": "2",
    "serving:node_size": "Standard_D4s_v5",
    "release:enabled": "false",
}
PROD = {"personalization:production": "true"}
PRIVATE = {"network:mode": "private"}
RELEASE = {
    "release:enabled": "true",
    "training:snapshot": "2026-11-01",
    "training:interactive_cluster": "false",
    "access:deployers": {"someone": "User"},
}
CONTRIBUTOR = [{"actions": ["*"], "notActions": ["Microsoft.Authorization/*/Write"]}]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("cloud")) as started, in_environment(started.environment):
        yield started


class Preflight:
    def __init__(self, cloud: RunningSandbox, folder: Path) -> None:
        self.cloud, self.folder, self.config = cloud, folder, DEV

    @property
    def names(self) -> Names:
        settings = files.settings_of(files.read(self.folder, STACK), STACK)
        return Names.of(settings, self.cloud.environment["ARM_SUBSCRIPTION_ID"], STACK)

    def configure(self, **config: Any) -> None:
        files.file_of(self.folder, STACK).write_text(yaml.safe_dump({"config": {**DEV, **config}}))

    def answer(self, region: dict[str, Any]) -> None:
        (self.cloud.folder / "offerings.yaml").write_text(yaml.safe_dump(region))

    def run(self, *options: str, stack: str = STACK) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["preflight", "--stack", stack, "--folder", str(self.folder), *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, " ".join(done.output.split())

    def put(self, kind: str, name: str, body: dict[str, Any], group: str = "") -> str:
        """Create a resource in the stack's group or in `group`, and return its path."""
        at = f"resourceGroups/{group or self.names.resource_group}"
        self.cloud.arm("PUT", at, {"location": "westeurope"})
        path = f"{at}/providers/{kind}/{name}"
        made = self.cloud.arm("PUT", path, {"location": "westeurope", **body})
        assert made.status_code in (200, 201, 202), made.text
        if "Azure-AsyncOperation" in made.headers:
            assert self.cloud.settle(made)["status"] == "Succeeded"
        return path


@pytest.fixture
def preflight(cloud: RunningSandbox, tmp_path: Path) -> Iterator[Preflight]:
    checked = Preflight(cloud, tmp_path)
    checked.configure()
    yield checked
    (cloud.folder / "offerings.yaml").unlink(missing_ok=True)
    cloud.http.delete("/sandbox/faults")
    for group in cloud.arm("GET", "resourcegroups").json()["value"]:
        cloud.settle(cloud.arm("DELETE", group["id"]))
    for kind in ("KeyVault/deletedVaults", "MachineLearningServices/deletedWorkspaces"):
        for deleted in cloud.arm("GET", f"providers/Microsoft.{kind}").json()["value"]:
            assert cloud.arm("POST", f"{deleted['id']}/purge").status_code == 200


@pytest.mark.parametrize("mode", ["public", "private"])
def test_region_without_problems_passes(preflight: Preflight, mode: str) -> None:
    me = authority.identity(preflight.cloud.folder).object_id
    preflight.configure(**{"access:deployers": {me: "ServicePrincipal"}, "network:mode": mode})
    code, said = preflight.run()
    assert code == 0, said
    assert not [level for level in ("blocking", "warning", "not checked") if level in said]
    assert "Standard DSv5 Family vCPUs: 32 vCPU needed, 200 of 200 free" in said
    assert "known after the workspace exists" in said


def test_former_name_of_a_setting_is_a_warning(preflight: Preflight) -> None:
    preflight.configure(**{"alerts:missing_share": "0.1"})
    code, said = preflight.run()
    assert code == 0, said
    assert "warning settings alerts:missing_share: is now named alerts:featureless_share; the next release" in said
    assert "alerts:missing_share" not in preflight.run("--reach")[1]


@pytest.mark.parametrize(
    ("region", "config", "says", "remedy"),
    [
        (
            {"unregistered": {"Microsoft.Databricks": "NotRegistered"}},
            {},
            "Microsoft.Databricks is NotRegistered",
            "az provider register --namespace Microsoft.Databricks --wait",
        ),
        (
            {"absent": {"Microsoft.Databricks/workspaces": ["westeurope"]}},
            {},
            "Microsoft.Databricks/workspaces is not offered in westeurope",
            f"personalization new-stack test-<region> --like {STACK}",
        ),
        (
            {"absent": {"Microsoft.ContainerRegistry/registries/agentPools": ["westeurope"]}},
            PRIVATE,
            "Microsoft.ContainerRegistry/registries/agentPools is not offered in westeurope",
            "az provider show --namespace Microsoft.ContainerRegistry --query "
            "\"resourceTypes[?resourceType=='registries/agentPools'].locations\"",
        ),
        (
            {"sizes": {"Standard_D4s_v5": None}},
            {},
            "Standard_D4s_v5 (serving:node_size) is not offered in westeurope",
            f"pulumi config set --stack {STACK} serving:node_size Standard_D4as_v5",
        ),
        (
            {"sizes": {"Standard_D4s_v5": {"restrictions": [{"type": "Location", "reasonCode": "QuotaId"}]}}},
            {},
            "Standard_D4s_v5 (serving:node_size) is closed to this subscription (QuotaId)",
            f"pulumi config set --stack {STACK} serving:node_size Standard_D4ds_v5",
        ),
        (
            {"sizes": {"Standard_D4s_v5": {"restrictions": [{"type": "Zone", "restrictionInfo": {"zones": ["3"]}}]}}},
            PROD,
            "Standard_D4s_v5 (serving:node_size) is not offered in zone 3 of westeurope",
            f'pulumi config set --stack {STACK} reliability:zones \'["1", "2"]\'',
        ),
        (
            {"usages": {"standardDSv5Family": {"used": 100, "limit": 131}}},
            RELEASE,
            "Standard DSv5 Family vCPUs: 32 vCPU needed, 31 of 131 free",
            f"--resource-type dedicated --limit-object value={100 + 32 + 2 * 4}",
        ),
        (
            {"offer": "FreeTrial_2014-09-01"},
            RELEASE,
            "the subscription is a free trial (FreeTrial_2014-09-01), for which the registry refuses builds",
            "file a support request for ACR Tasks in this subscription: https://aka.ms/azuresupport",
        ),
        (
            {"usages": {"cores": {"limit": 19}}},
            {},
            "Total Regional vCPUs: 32 vCPU needed, 19 of 19 free",
            "az quota update --resource-name cores --scope",
        ),
        (
            {"permissions": CONTRIBUTOR},
            {},
            "may not do Microsoft.Authorization/roleAssignments/write",
            '--role "Role Based Access Control Administrator" --scope',
        ),
        ({"permissions": [{"actions": ["*/read"]}]}, {}, "more at /subscriptions/", '--role "Contributor" --scope'),
    ],
)
def test_problems_that_would_stop_up_are_found_with_their_remedies(
    preflight: Preflight, region: dict[str, Any], config: dict[str, Any], says: str, remedy: str
) -> None:
    preflight.configure(**config)
    assert preflight.run()[0] == 0
    preflight.answer(region)
    code, said = preflight.run()
    assert (code, "blocking" in said) == (1, True)
    assert says in said
    assert remedy in said


@pytest.mark.parametrize("node_type", ["Standard_L8s_v3", "Standard_D4s_v5"])
def test_missing_quota_for_a_run_that_up_does_not_start_is_a_warning(preflight: Preflight, node_type: str) -> None:
    training = {"training:node_type": node_type}
    preflight.configure(**training)
    preflight.answer({"usages": {"standardLSv3Family": {"limit": 8}, "standardDSv5Family": {"limit": 29}}})
    code, said = preflight.run()
    assert (code, "warning" in said, "blocking" in said) == (0, True, False)
    preflight.configure(**training, **RELEASE)
    code, said = preflight.run()
    assert (code, "blocking" in said) == (1, True)


def test_quota_that_the_stack_already_uses_is_not_needed_again(preflight: Preflight) -> None:
    preflight.configure(**RELEASE)
    preflight.answer({"usages": {"standardDSv5Family": {"limit": 40}}})
    pools = [{"name": "system", "mode": "System", "count": 2, "vmSize": "Standard_D4s_v5"}]
    pools += [{"name": "scoring", "count": 3, "vmSize": "Standard_D4s_v5"}]
    cluster = {"properties": {"agentPoolProfiles": pools}}
    preflight.put("Microsoft.ContainerService/managedClusters", preflight.names.kubernetes_cluster, cluster)
    code, said = preflight.run()
    assert code == 0
    assert "Standard DSv5 Family vCPUs: 32 vCPU needed, 40 of 40 free" in said

    preflight.answer({"usages": {"standardDSv5Family": {"used": -20, "limit": 40}}})  # usage that lags behind
    assert "32 vCPU needed, 40 of 40 free" in preflight.run()[1], "never more than the limit"


def test_missing_quota_for_the_interactive_cluster_is_a_warning(preflight: Preflight) -> None:
    preflight.answer({"usages": {"standardDSv5Family": {"limit": 40}}})
    preflight.configure(**{**RELEASE, "training:interactive_cluster": "true"})
    code, said = preflight.run()
    assert "44 vCPU needed, 40 of 40 free" in said
    assert code == 0, said


def test_pool_of_another_size_needs_quota_next_to_the_old_pool(preflight: Preflight) -> None:
    pools = [{"name": "system", "mode": "System", "count": 2, "vmSize": "Standard_D4s_v5"}]
    pools += [{"name": "scoring", "mode": "User", "count": 3, "vmSize": "Standard_D4s_v5"}]
    cluster = {"properties": {"agentPoolProfiles": pools}}
    preflight.put("Microsoft.ContainerService/managedClusters", preflight.names.kubernetes_cluster, cluster)
    preflight.answer({"usages": {"standardDSv5Family": {"limit": 72}}})
    preflight.configure(**RELEASE, **{"serving:node_size": "Standard_D8s_v5"})
    assert "52 vCPU needed, 52 of 72 free" in preflight.run()[1], "12 for training, 40 for nodes; 20 are in use"
    preflight.configure(
        **RELEASE, **{"serving:node_size": "Standard_D8s_v5", "serving:system_node_size": "Standard_D4s_v5"}
    )
    said = preflight.run()[1]
    assert "44 vCPU needed, 60 of 72 free" in said, "the system pool stays"
    assert "Standard_D4s_v5 (serving:system_node_size): 4 vCPU" in said


@pytest.mark.parametrize(
    ("version", "level", "code"), [("1.34", "warning", 0), ("1.35", "blocking", 1), (None, "blocking", 1)]
)
def test_unsupported_kubernetes_version_is_blocking_only_if_it_is_new(
    preflight: Preflight, monkeypatch: pytest.MonkeyPatch, version: str | None, level: str, code: int
) -> None:
    monkeypatch.setattr(compatibility, "current_day", lambda: date(2026, 12, 1))
    preflight.configure(**{"serving:kubernetes_version": "1.34"})
    if version:
        cluster = {
            "properties": {
                "dnsPrefix": "c",
                "kubernetesVersion": version,
                "agentPoolProfiles": [{"name": "system", "mode": "System", "count": 1, "vmSize": "Standard_D4s_v5"}],
            },
            "identity": {"type": "SystemAssigned"},
        }
        preflight.put("Microsoft.ContainerService/managedClusters", preflight.names.kubernetes_cluster, cluster)
    found, said = preflight.run()
    assert found == code, said
    assert f"{level} versions serving:kubernetes_version 1.34 has been out of support since 2026-11-30" in said
    assert f"pulumi config set --stack {STACK} serving:kubernetes_version 1.35" in said


def test_role_assignments_with_a_condition_are_a_warning(preflight: Preflight) -> None:
    administrator = {"actions": ["Microsoft.Authorization/roleAssignments/*"], "condition": "@Request[…] in {…}"}
    preflight.answer({"permissions": [*CONTRIBUTOR, administrator]})
    code, said = preflight.run()
    assert (code, "warning" in said) == (0, True)
    assert "have a condition" in said


def test_quota_that_is_too_small_for_an_upgrade_is_a_warning(preflight: Preflight) -> None:
    preflight.answer({"usages": {"standardDSv5Family": {"limit": 39}}})
    code, said = preflight.run()
    assert code == 0
    assert "an upgrade of the cluster takes 8 more while it runs" in said


def test_name_of_another_owner_is_a_conflict(preflight: Preflight) -> None:
    account = {"kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
    lake = preflight.names.lake
    theirs = preflight.put("Microsoft.Storage/storageAccounts", lake, account, group="theirs")
    code, said = preflight.run()
    assert code == 1
    assert f"Microsoft.Storage/storageAccounts {lake}: The" in said
    assert f"pulumi config set --stack {STACK} generation 2" in said
    preflight.cloud.arm("DELETE", theirs)
    preflight.put("Microsoft.Storage/storageAccounts", lake, account)
    assert preflight.run()[0] == 0


@pytest.mark.parametrize("protected", [False, True])
def test_soft_deleted_vault_is_reported_with_purge_or_recovery(preflight: Preflight, protected: bool) -> None:
    name = preflight.names.key_vault
    properties = {"tenantId": "t", "sku": {"family": "A", "name": "standard"}, "enablePurgeProtection": protected}
    path = preflight.put("Microsoft.KeyVault/vaults", name, {"properties": properties})
    preflight.cloud.arm("DELETE", path)
    code, said = preflight.run()
    assert code == 1
    assert f"key vault {name} is soft-deleted" in said
    assert f"az keyvault recover --name {name} --location westeurope" in said
    purge = f"az keyvault purge --name {name} --location westeurope"
    if protected:
        assert purge not in said
        assert f"pulumi config set --stack {STACK} generation 2" in said
        properties |= {"createMode": "recover", "enablePurgeProtection": False}
        preflight.put("Microsoft.KeyVault/vaults", name, {"properties": properties})
    else:
        assert purge in said
        deleted = f"providers/Microsoft.KeyVault/locations/westeurope/deletedVaults/{name}"
        assert preflight.cloud.arm("POST", f"{deleted}/purge").status_code == 200
    assert preflight.run()[0] == 0


def test_soft_deleted_azure_ml_workspace_is_found(preflight: Preflight) -> None:
    name = preflight.names.machine_learning_workspace
    properties = {"tenantId": "t", "sku": {"family": "A", "name": "standard"}}
    vault = preflight.put("Microsoft.KeyVault/vaults", "kv-of-workspace", {"properties": properties})
    linked = {"keyVault": f"/subscriptions/{preflight.cloud.environment['ARM_SUBSCRIPTION_ID']}/{vault}"}
    path = preflight.put("Microsoft.MachineLearningServices/workspaces", name, {"properties": linked})
    assert preflight.run()[0] == 0
    preflight.cloud.arm("DELETE", path)
    code, said = preflight.run()
    assert code == 1
    assert f"{name}?api-version=2025-06-01&forceToPurge=true" in said
    # Not every cloud lists them, and then it cannot be held against the stack.
    preflight.cloud.faults({"path": "/deletedWorkspaces$", "status": 404})
    code, said = preflight.run()
    assert (code, "warning" in said) == (0, True)


def test_resource_group_that_is_not_in_the_state_is_blocking(
    preflight: Preflight, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PATH", "PULUMI_HOME", "PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE"):
        monkeypatch.setenv(name, engine.environment[name])
    (preflight.folder / "Pulumi.yaml").write_text("name: personalization\nruntime: python\n")
    group = preflight.names.resource_group
    tags = {"stack": STACK, "environment": "test"}
    preflight.cloud.arm("PUT", f"resourceGroups/{group}", {"location": "westeurope", "tags": tags})
    code, said = preflight.run()
    assert (
        code,
        f"warning state resource group {group} exists, but whether {STACK} created it is unknown" in said,
    ) == (
        0,
        True,
    )

    pulumi = replace(engine, folder=preflight.folder)
    pulumi("stack", "init", STACK)
    code, said = preflight.run()
    assert (code, f"{group} exists (tags: stack {STACK}, environment test) and is not in the state" in said) == (
        1,
        True,
    )
    assert "pulumi whoami --verbose" in said

    kind, at = (
        "azure-native:resources:ResourceGroup",
        f"/subscriptions/{preflight.cloud.environment['ARM_SUBSCRIPTION_ID']}",
    )
    urn = f"urn:pulumi:{STACK}::personalization::{kind}::personalization"
    resource = {"urn": urn, "custom": True, "type": kind, "id": f"{at}/resourceGroups/{group.upper()}"}
    (preflight.folder / "state.json").write_text(json.dumps({"version": 3, "deployment": {"resources": [resource]}}))
    pulumi("stack", "import", "--stack", STACK, "--file", "state.json")
    code, said = preflight.run()
    assert (code, f"{group} is in the state of {STACK}" in said) == (0, True)

    renamed = "renamed-westeurope"
    pulumi("stack", "rename", "--stack", STACK, renamed)
    assert f"warning state the state of {renamed} holds {group.upper()}" in preflight.run(stack=renamed)[1]


@pytest.mark.parametrize(
    ("offer", "config", "says"),
    [
        ("FreeTrial_2014-09-01", {}, "the registry refuses builds"),
        ("MSDN_2014-09-01", RELEASE, "the registry may refuse builds"),
    ],
)
def test_registry_builds_are_a_warning_without_a_release_or_with_an_unclear_offer(
    preflight: Preflight, offer: str, config: dict[str, Any], says: str
) -> None:
    preflight.configure(**config)
    preflight.answer({"offer": offer})
    code, said = preflight.run()
    assert (code, "warning image builds" in said, says in said) == (0, True, True)


def test_release_together_with_its_new_network_is_blocking(preflight: Preflight) -> None:
    preflight.configure(**PRIVATE)
    assert preflight.run("--reach")[0] == 0
    preflight.configure(**PRIVATE, **RELEASE)
    code, said = preflight.run("--reach")
    assert (code, "the network does not exist yet" in said) == (1, True)
    assert f"pulumi config set --stack {STACK} release:enabled false" in said


def outside(path: str, code: str, message: str) -> dict[str, Any]:
    """One response of a service to a caller from outside a private network."""
    body = {"error": {"code": code, "message": message}}
    return {"path": path, "method": "GET", "status": 403, "body": body}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            outside("/api/2.0/", "", "Unauthorized network access to workspace: 1"),
            "Databricks at 127.0.0.1:{port} (127.0.0.1 here, private) refuses callers from outside",
        ),
        (
            outside("/blob/", "AuthorizationFailure", "This request is not authorized to perform this operation."),
            "the lake at 127.0.0.1:{port} (127.0.0.1 here, private) refuses callers from outside",
        ),
        ({"path": "/api/2.0/", "reset": True}, "Databricks does not answer at 127.0.0.1:{port}"),
        ({"path": "/blob/", "reset": True}, "the lake does not answer at 127.0.0.1:{port}"),
    ],
)
def test_release_of_a_private_stack_from_outside_its_network_is_blocking(
    preflight: Preflight, fault: dict[str, Any], says: str
) -> None:
    workspace = {"properties": {"computeMode": "Hybrid"}}
    preflight.put("Microsoft.Databricks/workspaces", preflight.names.databricks_workspace, workspace)
    account = {"kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
    preflight.put("Microsoft.Storage/storageAccounts", preflight.names.lake, account)
    preflight.configure(**PRIVATE, **RELEASE)
    code, said = preflight.run("--reach")
    assert (code, "admit this machine" in said) == (0, True), said

    says = says.format(port=preflight.cloud.authority.rpartition(":")[2])
    preflight.cloud.faults(fault)
    code, said = preflight.run("--reach")
    assert (code, "blocking reach" in said, says in said) == (1, True, True), said
    assert "gh variable set RUNNERS" in said
    assert f"pulumi config set --stack {STACK} release:enabled false" in said

    preflight.cloud.faults(fault)
    preflight.configure(**PRIVATE)
    code, said = preflight.run("--reach")
    assert (code, says in said) == (0, True), "infrastructure alone can be deployed from anywhere"


def test_missing_runner_key_is_a_warning_and_the_remedy_adds_it(preflight: Preflight) -> None:
    preflight.configure(**PRIVATE, **{key.replace("__", ":"): value for key, value in RUNNER.items()})
    properties = {"tenantId": "t", "sku": {"family": "A", "name": "standard"}, "publicNetworkAccess": "Disabled"}
    vault = preflight.put("Microsoft.KeyVault/vaults", preflight.names.key_vault, {"properties": properties})
    code, said = preflight.run()
    assert (code, "warning runner the vault holds no secret github-runner" in said) == (0, True), said
    url = said.partition("az rest --method put --url '")[2].partition("?")[0]
    assert url == f"{preflight.cloud.subscription}/{vault}/secrets/github-runner"
    assert preflight.cloud.arm("PUT", url, {"properties": {"value": "pem"}}).is_success
    code, said = preflight.run()
    assert (code, "its key is in the vault" in said) == (0, True), said


def test_public_stack_has_no_reach_check(preflight: Preflight) -> None:
    preflight.configure(**RELEASE)
    assert preflight.run("--reach")[0] == 0


def test_existing_group_that_a_service_must_create_is_blocking(preflight: Preflight) -> None:
    group = preflight.names.databricks_managed_group
    preflight.cloud.arm("PUT", f"resourceGroups/{group}", {"location": "westeurope"})
    code, said = preflight.run()
    assert code == 1
    assert f"az group delete --name {group}" in said


@pytest.mark.parametrize(("enabled", "code"), [(True, 0), (False, 1)])
def test_unity_catalog_is_checked_after_the_workspace_exists(preflight: Preflight, enabled: bool, code: int) -> None:
    properties = {"computeMode": "Hybrid", "isUcEnabled": enabled}
    name = preflight.names.databricks_workspace
    preflight.put("Microsoft.Databricks/workspaces", name, {"properties": properties})
    ended, said = preflight.run()
    assert ended == code
    assert ("databricks metastores assign" in said) is not enabled


def test_missing_privileges_on_the_metastore_are_reported_with_the_grant(preflight: Preflight) -> None:
    preflight.configure(**RELEASE)
    name = preflight.names.databricks_workspace
    workspace = preflight.put("Microsoft.Databricks/workspaces", name, {"properties": {"computeMode": "Hybrid"}})
    assert "the login can create the objects of a release" in preflight.run()[1]
    with in_environment(preflight.cloud.environment):
        workspace_id = f"{preflight.cloud.subscription}/{workspace}"
        client = AzureClients.discover().databricks(preflight.cloud.authority, workspace_id)
        metastore = client.metastores.current().metastore_id
        change = PermissionsChange(principal="workspace admins", remove=[Privilege.CREATE_STORAGE_CREDENTIAL])
        client.grants.update("METASTORE", metastore, changes=[change])
    code, said = preflight.run()
    assert code == 1
    assert f"databricks grants update metastore {metastore}" in said
    assert "CREATE_STORAGE_CREDENTIAL" in said


@pytest.mark.parametrize("config", [{}, RELEASE], ids=["before a release", "with a release"])
def test_login_that_is_not_a_deployer_is_a_warning(preflight: Preflight, config: dict[str, Any]) -> None:
    preflight.configure(**config)
    me = authority.identity(preflight.cloud.folder).object_id
    code, said = preflight.run()
    assert code == 0
    assert f"pulumi config set --stack {STACK} --path 'access:deployers.{me}' ServicePrincipal" in said


def test_missing_rows_are_found_before_machines_start(preflight: Preflight) -> None:
    preflight.configure(**RELEASE)
    assert "upload movielens/2026-11-01 when the lake exists" in preflight.run()[1]
    account = {"kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
    lake = preflight.put("Microsoft.Storage/storageAccounts", preflight.names.lake, account)
    preflight.cloud.arm("PUT", f"{lake}/blobServices/default/containers/raw", {})
    code, said = preflight.run()
    assert (code, "not checked" in said) == (1, True)  # no role on the lake yet
    me = authority.identity(preflight.cloud.folder).object_id
    role = "providers/Microsoft.Authorization/roleDefinitions/ba92f5b4-2d11-453d-a403-e96b0029c9fe"
    assignment = {
        "principalId": me,
        "roleDefinitionId": f"/subscriptions/s/{role}",
        "principalType": "ServicePrincipal",
    }
    path = f"{lake}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
    assert preflight.cloud.arm("PUT", path, {"properties": assignment}).status_code == 201
    preflight.cloud.settings(role_propagation=0)
    code, said = preflight.run()
    assert (code, "the lake has no rows below raw/movielens/2026-11-01/" in said) == (1, True)
    assert "az storage blob upload-batch --auth-mode login --blob-endpoint https://" in said
    with pytest.raises(SnapshotError, match=r"has no rows below movielens/2026-11-01/"):
        require_landed(_blob_endpoint(preflight, lake), "raw", "movielens", "2026-11-01")
    rows = AzureClients.discover().blobs(_blob_endpoint(preflight, lake)).get_container_client("raw")
    rows.upload_blob("movielens/2026-11-01/ml-100k.inter", b"rows")
    code, said = preflight.run()
    assert code == 0, said
    assert "raw/movielens/2026-11-01" in said


def _blob_endpoint(preflight: Preflight, account: str) -> str:
    return preflight.cloud.arm("GET", account).json()["properties"]["primaryEndpoints"]["blob"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"status": 403, "body": {"error": {"code": "AuthorizationFailed", "message": "No."}}}, "AuthorizationFailed"),
        ({"status": 503, "times": 9, "headers": {"Retry-After": "0"}}, "503"),
        ({"status": 200, "body": {"value": [{"name": "cores"}]}}, "a response of an unknown form"),
        ({"status": 200, "body": ["nothing"]}, "a response of an unknown form"),
    ],
)
def test_check_that_cannot_run_does_not_pass(preflight: Preflight, fault: dict[str, Any], says: str) -> None:
    preflight.cloud.faults({"path": "/usages$", **fault})
    code, said = preflight.run()
    assert (code, "not checked" in said) == (1, True)
    assert says in said
    assert "Standard_D4s_v5 (serving:node_size): 4 vCPU" in said  # what the same check had found before


def test_missing_cloud_or_stack_is_reported_with_the_remedy(
    preflight: Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli.errors import UserError
    from cli.preflight import command as check

    with pytest.raises(UserError, match=f"Stacks here: {STACK}"):
        check.run_checks(preflight.folder, "absent")
    monkeypatch.setenv("ARM_CLIENT_SECRET", "wrong")
    with pytest.raises(UserError, match=r"no login: .*Invalid client secret"):
        check.run_checks(preflight.folder, STACK)
    monkeypatch.setenv("ARM_METADATA_HOSTNAME", "127.0.0.1:9")
    with pytest.raises(UserError, match="Check ARM_METADATA_HOSTNAME"):
        check.run_checks(preflight.folder, STACK)


@pytest.mark.parametrize("mode", ["private", "public"])
def test_every_type_that_the_program_declares_is_checked(mode: str) -> None:
    tokens = {f"azure-native:{rule.token}": rule.type for rule in resource_types.load().values() if rule.token}
    config = {"network__mode": mode, "alerts__emails": '["a@b.example"]', "budget__monthly": "100"}
    declared = {tokens[found.type] for found in graph(**config).resources if found.type in tokens}
    needs = requirements.load()
    private = set(needs.private_types)
    assert declared & private == (private if mode == "private" else set())
    assert declared - {"Microsoft.Resources/resourceGroups"} <= {*needs.types, *private}


def test_azure_sdks_read_the_sandboxs_data_of_a_region(preflight: Preflight) -> None:
    cloud = preflight.cloud
    credential = DefaultAzureCredential(disable_instance_discovery=True)

    def client(kind: Any) -> Any:
        options = {"base_url": cloud.url, "credential_scopes": [f"{cloud.url}/.default"]}
        return kind(credential, cloud.environment["ARM_SUBSCRIPTION_ID"], **options)

    provider = client(ResourceManagementClient).providers.get("Microsoft.Storage")
    assert provider.registration_state == "Registered"
    assert "West Europe" in next(
        found.locations for found in provider.resource_types if found.resource_type == "storageAccounts"
    )
    compute = client(ComputeManagementClient)
    restriction = {"type": "Zone", "values": ["westeurope"], "restrictionInfo": {"zones": ["1"]}}
    preflight.answer({"sizes": {"Standard_D4s_v5": {"restrictions": [restriction]}}})
    size = next(
        found
        for found in compute.resource_skus.list(filter="location eq 'westeurope'")
        if found.name == "Standard_D4s_v5"
    )
    assert {found.name: found.value for found in size.capabilities}["vCPUs"] == "4"
    assert (size.family, size.location_info[0].zones) == ("standardDSv5Family", ["1", "2", "3"])
    assert size.restrictions[0].restriction_info.zones == ["1"]
    usage = {found.name.value: found for found in compute.usage.list("westeurope")}
    assert (usage["cores"].current_value, usage["cores"].limit) == (0, 350)
    permission, *_ = client(AuthorizationManagementClient).permissions.list_for_resource_group("any")
    assert permission.actions == ["*"]
    name = preflight.names.key_vault
    properties = {"tenantId": "t", "sku": {"family": "A", "name": "standard"}, "enablePurgeProtection": False}
    path = preflight.put("Microsoft.KeyVault/vaults", name, {"properties": properties})
    cloud.arm("DELETE", path)
    deleted = next(iter(client(KeyVaultManagementClient).vaults.list_deleted()))
    assert (deleted.name, deleted.properties.vault_id) == (name, f"{cloud.subscription}/{path}")
