"""Azure CLI, unmodified, against a sandbox on which the development stack's infrastructure is deployed."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.preflight import rows
from infra.cloud import azure_cli as printed
from sandbox.identity import authority
from testing.printed_commands import options_by_command
from testing.stack.infra_stack import infra_stacks
from testing.waiting import eventually
from tools import azure_cli

PROGRAM = azure_cli.find(os.environ)
pytestmark = [
    pytest.mark.azure_cli,
    pytest.mark.stack,
    pytest.mark.skipif(PROGRAM is None, reason="Azure CLI is not installed: make test-azure-cli"),
]
CONTRIBUTOR = "Storage Blob Data Contributor"


@dataclass(frozen=True)
class Az:
    """Azure CLI, logged in as the sandbox's service principal."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, command: str, *arguments: str) -> Any:
        """Output of a command, parsed as JSON."""
        done = self.run(command, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def refused(self, command: str, *arguments: str) -> str:
        done = self.run(command, *arguments)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def printed(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command exactly as the product prints it."""
        program, *words = shlex.split(command)
        assert program == "az"
        return self.run(words[0], *words[1:])

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert PROGRAM is not None
        own = {
            "AZURE_CONFIG_DIR": str(self.folder / "azure"),
            "AZURE_EXTENSION_DIR": str(self.folder / "extensions"),
            "AZURE_CORE_COLLECT_TELEMETRY": "no",
            "AZURE_CORE_ONLY_SHOW_ERRORS": "yes",
        }
        # Without variables of another Python's environment.
        inherited = {name: value for name, value in self.environment.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [*PROGRAM, *command.split(), *arguments],
            env={**inherited, **own},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    @property
    def principal(self) -> str:
        return authority.identity(self.folder / "sandbox").object_id

    def one(self, kind: str) -> dict[str, Any]:
        """The one resource of a kind in the stack."""
        (resource,) = self("resource list", "--resource-type", kind)
        return resource


@pytest.fixture(scope="module")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Az]:
    with infra_stacks(tmp_path_factory.mktemp("azure-cli")) as stacks:
        stacks.up("dev")
        az = Az(stacks.folder, stacks.environment)
        environment = stacks.environment
        az("config set", "core.instance_discovery=false")
        az(
            "cloud register",
            "-n",
            "Sandbox",
            "--endpoint-resource-manager",
            f"https://{environment['ARM_METADATA_HOSTNAME']}/",
        )
        az("cloud set", "-n", "Sandbox")
        secret = ["-u", environment["ARM_CLIENT_ID"], "-p", environment["ARM_CLIENT_SECRET"]]
        (account,) = az("login", "--service-principal", *secret, "--tenant", environment["ARM_TENANT_ID"])
        assert account["id"] == environment["ARM_SUBSCRIPTION_ID"]
        yield az


@pytest.fixture(scope="module")
def group(az: Az) -> str:
    (group,) = az("group list", "--tag", "stack=dev")
    return str(group["name"])


def test_resources_are_listed_by_type_and_by_tag(az: Az, group: str) -> None:
    accounts = az("resource list", "-g", group, "--resource-type", "Microsoft.Storage/storageAccounts")
    assert {account["type"] for account in accounts} == {"Microsoft.Storage/storageAccounts"}
    tagged, every = az("resource list", "--tag", "stack=dev"), az("resource list")
    assert 1 < len(accounts) < len(tagged) <= len(every)
    assert not [found["id"] for found in every if found["id"].count("/providers/") > 1]
    assert az("resource list", "--tag", "stack=other") == []


def test_storage_account_is_updated_and_its_blobs_need_a_role(az: Az, group: str) -> None:
    lake = next(found for found in az("storage account list", "-g", group) if found["isHnsEnabled"])
    assert az("storage account update", "-g", group, "-n", lake["name"], "--tags", "a=b")["tags"] == {"a": "b"}
    containers = {found["name"] for found in az("storage container-rm list", "--storage-account", lake["name"])}
    assert "raw" in containers
    (az.folder / "rows.csv").write_text("1,2\n")
    at = ["-c", "raw", "--auth-mode", "login", "--blob-endpoint", lake["primaryEndpoints"]["blob"]]
    assert "required permissions" in az.refused("storage blob list", *at)
    whom = ["--assignee-object-id", az.principal, "--assignee-principal-type", "ServicePrincipal"]
    given = az("role assignment create", *whom, "--role", CONTRIBUTOR, "--scope", lake["id"])
    upload = ("storage blob upload", *at, "-n", "day/rows.csv", "-f", "rows.csv", "--no-progress")
    eventually(lambda: az.run(*upload).returncode == 0)  # a new role grants nothing at first
    assert [blob["name"] for blob in az("storage blob list", *at)] == ["day/rows.csv"]
    az("storage blob download", *at, "-n", "day/rows.csv", "-f", "back.csv", "--no-progress")
    assert (az.folder / "back.csv").read_text() == "1,2\n"
    az("storage blob delete", *at, "-n", "day/rows.csv")
    listed = az("role assignment list", "--scope", lake["id"], "--fill-principal-name", "false")
    assert {"id": given["id"], "role": CONTRIBUTOR} in [
        {"id": found["id"], "role": found["roleDefinitionName"]} for found in listed
    ]
    az("role assignment delete", "--ids", given["id"])
    assert "required permissions" in az.refused("storage blob list", *at)


def test_pools_of_the_cluster_are_listed_and_scaled(az: Az, group: str) -> None:
    cluster = az.one("Microsoft.ContainerService/managedClusters")["name"]
    where = ["-g", group, "--cluster-name", cluster]
    listed = az("aks nodepool list", *where)
    pools = {pool["name"]: pool["count"] for pool in listed}
    shown = az("aks show", "-g", group, "-n", cluster)["agentPoolProfiles"]
    assert {pool["name"]: pool["count"] for pool in shown} == pools
    (system,) = (pool["name"] for pool in listed if pool["mode"] == "System")
    az("aks nodepool scale", *where, "-n", system, "-c", str(pools[system] + 1))
    usages = {usage["name"]["value"]: int(usage["currentValue"]) for usage in az("vm list-usage", "-l", "westeurope")}
    assert usages["cores"] == 4 * (sum(pools.values()) + 1)
    assert "disable local accounts" in az.refused("aks get-credentials", "-g", group, "-n", cluster, "--admin")


def test_registry_and_vault_are_found(az: Az, group: str) -> None:
    registry = az.one("Microsoft.ContainerRegistry/registries")["name"]
    vault = az.one("Microsoft.KeyVault/vaults")["name"]
    assert az("acr show", "-n", registry)["adminUserEnabled"] is False
    assert az("acr task list-runs", "-r", registry) == []
    assert [found["name"] for found in az("keyvault list")] == [vault]
    assert az("keyvault show", "-n", vault)["properties"]["enableRbacAuthorization"] is True


def test_tags_of_the_group_are_merged(az: Az, group: str) -> None:
    group_id = az("group show", "-n", group)["id"]
    changed = az("tag update", "--resource-id", group_id, "--operation", "merge", "--tags", "Owner=shop")
    assert changed["properties"]["tags"] == {**az("group show", "-n", group)["tags"], "Owner": "shop"}
    refused = az.refused("tag update", "--resource-id", group_id, "--operation", "merge", "--tags", "a/b=c")
    assert "InvalidTagNameCharacters" in refused


def test_azure_ml_is_reached_by_rest(az: Az) -> None:
    workspace = az.one("Microsoft.MachineLearningServices/workspaces")["id"]
    version = "api-version=2025-06-01"
    (endpoint,) = az("rest", "--url", f"{workspace}/onlineEndpoints?{version}")["value"]
    keys = az("rest", "--method", "post", "--url", f"{endpoint['id']}/listKeys?{version}")
    assert set(keys) == {"primaryKey", "secondaryKey"}


@pytest.mark.parametrize("command", options_by_command())
def test_printed_commands_have_the_options_of_the_reference(az: Az, command: str) -> None:
    shown = az.run(command, "--help")
    assert shown.returncode == 0, shown.stderr
    known = set(re.findall(r"--[a-z][a-z-]*", shown.stdout))
    assert options_by_command()[command] <= known


def test_commands_of_the_outputs_and_messages_work_as_printed(az: Az, group: str) -> None:
    workspace = az.one("Microsoft.MachineLearningServices/workspaces")["id"]
    endpoint = az("rest", "--url", f"{workspace}/onlineEndpoints?api-version=2025-06-01")["value"][0]["name"]
    shown = az.printed(printed.endpoint_key(workspace, endpoint, "Key"))
    assert shown.returncode == 0, shown.stderr
    assert len(shown.stdout.split()) == 1
    logs = az.printed(printed.deployment_logs(workspace, endpoint, "m1-0"))
    assert "m1-0" in logs.stderr  # the infrastructure has no deployment
    purged = az.printed(printed.purge_workspace(f"{workspace}-2"))
    assert purged.returncode == 0 or "not found" in purged.stderr.lower()


def test_documented_upload_of_rows_works(az: Az, group: str) -> None:
    lake = next(found for found in az("storage account list", "-g", group) if found["isHnsEnabled"])
    whom = ["--assignee-object-id", az.principal, "--assignee-principal-type", "ServicePrincipal"]
    az("role assignment create", *whom, "--role", CONTRIBUTOR, "--scope", lake["id"])
    (az.folder / "first-rows").mkdir()
    (az.folder / "first-rows" / "ml-100k.inter").write_text("rows")
    blobs = lake["primaryEndpoints"]["blob"]
    upload = rows.upload(blobs, "movielens/first-rows").replace("<folder>", "first-rows")
    eventually(lambda: az.printed(upload).returncode == 0)  # a new role grants nothing at first
    listed = az("storage blob list", "-c", "raw", "--auth-mode", "login", "--blob-endpoint", blobs)
    assert [blob["name"] for blob in listed] == ["movielens/first-rows/ml-100k.inter"]


def test_services_without_an_emulation_are_refused_by_name(az: Az, group: str) -> None:
    assert "leaves out template deployments" in az.refused("deployment group list", "-g", group)
    assert "leaves out Microsoft Graph" in az.refused("ad sp list", "--show-mine")
