"""`personalization teardown` through the real engine: one production stack, from its refusal to its last trace."""

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


class Standing:
    """A production stack of environment `prod` with dev's smaller set of resources, and its subscription."""

    def __init__(self, stacks: InfraStacks, folder: Path) -> None:
        self.stacks, self.folder = stacks, folder
        self.names = command.target(folder, STACK).names

    def resources(self) -> set[str]:
        return {resource.kind for resource in state.resources(self.folder, STACK)}

    def teardown(self, **choices: Any) -> list[str]:
        self.said: list[str] = []
        teardown.Teardown(self.folder, STACK, self.said.append).run(lambda: None, **choices)
        return self.said

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
        body = {"error": {"code": code, "message": "a test's"}}
        rule = {"path": path, "method": "DELETE", "status": 409, "body": body}
        self.call("POST", "/sandbox/faults", [rule])


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
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
        yield Standing(stacks, folder)


def test_what_is_protected_is_refused_without_the_stacks_own_name(standing: Standing) -> None:
    before = standing.resources()
    with pytest.raises(UserError, match=r"protected:(.|\n)*keyvault:Vault(.|\n)*--destroy-protected dev"):
        standing.teardown()
    with pytest.raises(UserError, match="prod does not name this stack, dev"):
        standing.teardown(destroy_protected="prod")
    assert standing.resources() == before


def test_all_that_goes_and_all_that_stays_is_said_before_anything_is_asked(standing: Standing) -> None:
    group, names = standing.names.resource_group, standing.names
    by_hand = f"resourceGroups/{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/by-hand"
    standing.call("PUT", by_hand, {"location": "westeurope"})
    before, said = standing.resources(), []

    def refuse() -> None:
        raise UserError("not wanted")

    with pytest.raises(UserError, match="not wanted"):
        teardown.Teardown(standing.folder, STACK, said.append).run(refuse, destroy_protected=STACK)
    told = "\n".join(said)
    assert f"keyvault:Vault: {names.key_vault} (protected)" in told
    assert f"though not of the stack: /subscriptions/{os.environ['ARM_SUBSCRIPTION_ID']}/{by_hand}" in told
    assert told.count("though not of the stack") == 1
    assert f"key vault {names.key_vault} is kept for 30 days, and its name with it; --purge ends that" in told
    assert f"workspace {names.machine_learning_workspace} is kept for 14 days" in told
    assert f"resource group {names.databricks_managed_group} is Azure's own" in told
    assert f"blobs in {names.lake} are gone at once: their 14 days" in told
    assert standing.resources() == before


def test_an_error_half_way_says_what_still_stands(standing: Standing) -> None:
    standing.refuse("ScopeLocked", "/managedClusters/[^/]*$")
    with pytest.raises(UserError, match=r"still stand:(.|\n)*containerservice:ManagedCluster(.|\n)*goes on"):
        standing.teardown(purge=True, destroy_protected=STACK)
    left = standing.resources()
    assert "machinelearningservices:OnlineEndpoint" not in left
    # What is to be purged waits until all that depends on it has gone.
    assert {"containerservice:ManagedCluster", "machinelearningservices:Workspace"} <= left
    with pytest.raises(UserError, match="these are protected"):  # and what stands is guarded as before
        standing.teardown()


def test_what_passes_is_named_and_tried_again_and_an_orphan_is_an_error(standing: Standing) -> None:
    orphan = f"resourceGroups/{standing.names.kubernetes_node_group}"
    standing.call("PUT", orphan, {"location": "westeurope"})
    standing.refuse("OperationNotAllowed", "/managedClusters/[^/]*$")
    with pytest.raises(UserError, match=f"still stand of dev:\n.*{orphan}$"):
        standing.teardown(purge=True, destroy_protected=STACK)
    assert any("OperationNotAllowed: a cluster is still at work" in line for line in standing.said)
    assert standing.resources() == set()
    standing.call("DELETE", orphan)


def test_a_purge_frees_the_names_of_vault_and_workspace(standing: Standing) -> None:
    for name in (standing.names.key_vault, standing.names.machine_learning_workspace):
        assert any(f"{name} is not kept any more" in line for line in standing.said)
    for kind in ("KeyVault/deletedVaults", "MachineLearningServices/deletedWorkspaces"):
        assert standing.call("GET", f"providers/Microsoft.{kind}").json()["value"] == []


def test_the_second_time_there_is_nothing(standing: Standing) -> None:
    assert standing.teardown() == ["nothing of dev stands: there was nothing to destroy"]


def test_what_only_azure_knows_of_is_found_without_a_state(standing: Standing) -> None:
    budget = f"providers/Microsoft.Consumption/budgets/{standing.names.budget}"
    period = {"startDate": f"{datetime.now(UTC):%Y-%m}-01"}
    properties = {"amount": 1, "category": "Cost", "timeGrain": "Monthly", "timePeriod": period}
    standing.call("PUT", budget, {"properties": properties})
    with pytest.raises(UserError, match=f"{budget}$"):
        standing.teardown()
    standing.call("DELETE", budget)
    tags = {"environment": "prod", "stack": STACK}
    standing.call("PUT", "resourceGroups/rg-pers-prod-earlier", {"location": "westeurope", "tags": tags})
    assert "rg-pers-prod-earlier has the tags of dev" in standing.teardown()[0]


def test_what_an_earlier_teardown_left_soft_deleted_is_said_and_can_be_purged(standing: Standing) -> None:
    vault = f"resourceGroups/by-hand/providers/Microsoft.KeyVault/vaults/{standing.names.key_vault}"
    sku = {"family": "A", "name": "standard"}
    standing.call("PUT", "resourceGroups/by-hand", {"location": "westeurope"})
    standing.call("PUT", vault, {"location": "westeurope", "properties": {"tenantId": "t", "sku": sku}})
    standing.call("DELETE", vault)
    assert f"key vault {standing.names.key_vault} is soft-deleted and keeps its name; --purge frees it" in (
        standing.teardown()
    )
    standing.teardown(purge=True)
    assert standing.call("GET", "providers/Microsoft.KeyVault/deletedVaults").json()["value"] == []


def test_a_vault_with_purge_protection_is_said_to_stay() -> None:
    kept = {"softDeleteRetentionInDays": 7, "enablePurgeProtection": True}
    vault = Resource("", "keyvault:Vault", "/subscriptions/s/kv", True, True, {"properties": kept})
    (line,) = remains([vault])
    assert line == "key vault kv is kept for 7 days, and its name with it; purge protection: nobody ends that"


def test_a_stack_that_is_not_there_is_a_clear_error(standing: Standing) -> None:
    with pytest.raises(UserError, match="stack deev cannot be read: no stack named 'deev' found"):
        teardown.Teardown(standing.folder, "deev", print)


def test_nothing_goes_without_the_stacks_name_or_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    main._confirm("dev", yes=True)
    with pytest.raises(UserError, match="nothing was destroyed: say --yes"):
        main._confirm("dev", yes=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "prod")
    with pytest.raises(UserError, match="not the stack's name"):
        main._confirm("dev", yes=False)
    monkeypatch.setattr("builtins.input", lambda _: "dev")
    main._confirm("dev", yes=False)
