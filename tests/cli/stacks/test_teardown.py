"""`personalization teardown` with the real engine: a production stack, from the first refusal to the last purge.

The tests run in this order on one stack.
"""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli import main
from cli.errors import UserError
from cli.preflight import command
from cli.stacks import destroy, state, teardown
from cli.stacks.retained_resources import remains
from cli.stacks.state import Resource
from infra.cloud.clients import AzureClients
from testing.sandbox.process import in_environment
from testing.stack.infra_stack import ROOT, InfraStacks, infra_stacks

pytestmark = pytest.mark.stack
STACK = "dev"


class DeployedStack:
    """A stack of environment `prod` with dev's smaller set of resources, in a sandbox."""

    def __init__(self, stacks: InfraStacks, folder: Path) -> None:
        self.stacks, self.folder = stacks, folder
        self.names = command.target(folder, STACK).names

    def resources(self) -> set[str]:
        return {resource.kind for resource in state.resources(self.folder, STACK)}

    def teardown(self, **choices: Any) -> list[str]:
        self.lines: list[str] = []
        teardown.Teardown(self.folder, STACK, self.lines.append).run(lambda: None, **choices)
        return self.lines

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        cloud = AzureClients.discover()
        url = path if path.startswith("/sandbox") else f"/subscriptions/{os.environ['ARM_SUBSCRIPTION_ID']}/{path}"
        token = cloud.credential().get_token(cloud.scope).token
        answer = httpx.request(
            method,
            f"{cloud.resource_manager}{url}",
            params={"api-version": "2024-03-01"},
            headers={"Authorization": f"Bearer {token}"},
            json=body,
        )
        return answer.raise_for_status()

    def refuse(self, code: str, path: str) -> None:
        body = {"error": {"code": code, "message": "refused by a test"}}
        rule = {"path": path, "method": "DELETE", "status": 409, "body": body}
        self.call("POST", "/sandbox/faults", [rule])


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedStack]:
    with (
        infra_stacks(tmp_path_factory.mktemp("teardown")) as stacks,
        in_environment(stacks.environment),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(destroy, "PAUSES", (0.0,))
        stacks.up(
            STACK,
            personalization__environment="prod",
            personalization__production="true",
            serving__nodes_min=3,
            serving__nodes_max=4,
        )
        folder = stacks.folder / "project"
        shutil.copyfile(stacks.folder / f"Pulumi.{STACK}.yaml", folder / f"Pulumi.{STACK}.yaml")
        (folder / "infra").symlink_to(ROOT / "infra")
        yield DeployedStack(stacks, folder)


def test_protected_resources_are_kept_unless_the_stack_is_named(deployed: DeployedStack) -> None:
    before = deployed.resources()
    with pytest.raises(UserError, match=r"protected resources:(.|\n)*keyvault:Vault(.|\n)*--destroy-protected dev"):
        deployed.teardown()
    with pytest.raises(UserError, match="prod does not name this stack, dev"):
        deployed.teardown(destroy_protected="prod")
    assert deployed.resources() == before


def test_deletions_and_leftovers_are_reported_before_the_confirmation(deployed: DeployedStack) -> None:
    group, names = deployed.names.resource_group, deployed.names
    by_hand = f"resourceGroups/{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/by-hand"
    deployed.call("PUT", by_hand, {"location": "westeurope"})
    before, lines = deployed.resources(), []

    def refuse() -> None:
        raise UserError("not wanted")

    with pytest.raises(UserError, match="not wanted"):
        teardown.Teardown(deployed.folder, STACK, lines.append).run(refuse, destroy_protected=STACK)
    report = "\n".join(lines)
    assert f"keyvault:Vault: {names.key_vault} (protected)" in report
    assert f"not part of the stack: /subscriptions/{os.environ['ARM_SUBSCRIPTION_ID']}/{by_hand}" in report
    assert report.count("not part of the stack") == 1
    assert f"key vault {names.key_vault} is soft-deleted and keeps its name for 30 days; --purge deletes it" in report
    assert f"workspace {names.machine_learning_workspace} is soft-deleted and keeps its name for 14 days" in report
    assert f"resource group {names.databricks_managed_group} is managed by Azure" in report
    assert f"blobs in {names.lake} are deleted at once: their 14 days" in report
    assert deployed.resources() == before


def test_error_lists_the_remaining_resources(deployed: DeployedStack) -> None:
    deployed.refuse("ScopeLocked", "/managedClusters/[^/]*$")
    with pytest.raises(UserError, match=r"Remaining:(.|\n)*containerservice:ManagedCluster(.|\n)*continues"):
        deployed.teardown(purge=True, destroy_protected=STACK)
    left = deployed.resources()
    assert "machinelearningservices:OnlineEndpoint" not in left
    # A workspace is purged after everything that depends on it is deleted.
    assert {"containerservice:ManagedCluster", "machinelearningservices:Workspace"} <= left
    with pytest.raises(UserError, match="has protected resources"):  # the remaining resources are still protected
        deployed.teardown()


def test_temporary_errors_are_named_and_repeated_and_an_orphan_is_an_error(deployed: DeployedStack) -> None:
    orphan = f"resourceGroups/{deployed.names.kubernetes_node_group}"
    deployed.call("PUT", orphan, {"location": "westeurope"})
    deployed.refuse("OperationNotAllowed", "/managedClusters/[^/]*$")
    with pytest.raises(UserError, match=f"Azure still holds resources of dev:\n.*{orphan}$"):
        deployed.teardown(purge=True, destroy_protected=STACK)
    assert any("OperationNotAllowed: the cluster is still applying" in line for line in deployed.lines)
    assert deployed.resources() == set()
    deployed.call("DELETE", orphan)


def test_purge_frees_the_names_of_vault_and_workspace(deployed: DeployedStack) -> None:
    for name in (deployed.names.key_vault, deployed.names.machine_learning_workspace):
        assert any(f"{name} is purged" in line for line in deployed.lines)
    for kind in ("KeyVault/deletedVaults", "MachineLearningServices/deletedWorkspaces"):
        assert deployed.call("GET", f"providers/Microsoft.{kind}").json()["value"] == []


def test_second_teardown_finds_nothing(deployed: DeployedStack) -> None:
    assert deployed.teardown() == ["Azure holds no resource of dev; there was nothing to destroy"]


def test_resources_that_are_not_in_the_state_are_found(deployed: DeployedStack) -> None:
    budget = f"providers/Microsoft.Consumption/budgets/{deployed.names.budget}"
    period = {"startDate": f"{datetime.now(UTC):%Y-%m}-01"}
    properties = {"amount": 1, "category": "Cost", "timeGrain": "Monthly", "timePeriod": period}
    deployed.call("PUT", budget, {"properties": properties})
    with pytest.raises(UserError, match=f"{budget}$"):
        deployed.teardown()
    deployed.call("DELETE", budget)
    tags = {"environment": "prod", "stack": STACK}
    deployed.call("PUT", "resourceGroups/rg-pers-prod-earlier", {"location": "westeurope", "tags": tags})
    assert "rg-pers-prod-earlier has the tags of dev" in deployed.teardown()[0]


def test_vault_that_an_earlier_teardown_soft_deleted_is_reported_and_can_be_purged(deployed: DeployedStack) -> None:
    vault = f"resourceGroups/by-hand/providers/Microsoft.KeyVault/vaults/{deployed.names.key_vault}"
    sku = {"family": "A", "name": "standard"}
    deployed.call("PUT", "resourceGroups/by-hand", {"location": "westeurope"})
    deployed.call("PUT", vault, {"location": "westeurope", "properties": {"tenantId": "t", "sku": sku}})
    deployed.call("DELETE", vault)
    assert f"key vault {deployed.names.key_vault} is soft-deleted and keeps its name; --purge frees it" in (
        deployed.teardown()
    )
    deployed.teardown(purge=True)
    assert deployed.call("GET", "providers/Microsoft.KeyVault/deletedVaults").json()["value"] == []


def test_vault_with_purge_protection_is_reported_as_kept() -> None:
    properties = {"softDeleteRetentionInDays": 7, "enablePurgeProtection": True}
    vault = Resource("", "keyvault:Vault", "/subscriptions/s/kv", True, True, {"properties": properties})
    (line,) = remains([vault])
    assert line == (
        "key vault kv is soft-deleted and keeps its name for 7 days; purge protection forbids purging it earlier"
    )


def test_missing_stack_is_named(deployed: DeployedStack) -> None:
    with pytest.raises(UserError, match="stack deev cannot be read: no stack named 'deev' found"):
        teardown.Teardown(deployed.folder, "deev", print)


def test_nothing_is_destroyed_without_a_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    main._confirm("dev", yes=True)
    with pytest.raises(UserError, match="nothing was destroyed: pass --yes"):
        main._confirm("dev", yes=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "prod")
    with pytest.raises(UserError, match="not the stack's name"):
        main._confirm("dev", yes=False)
    monkeypatch.setattr("builtins.input", lambda _: "dev")
    main._confirm("dev", yes=False)
