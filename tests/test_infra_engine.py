"""Production's infrastructure through the real engine: steady, guarded, torn down in order, regions apart."""

import json
from collections.abc import Iterator

import pytest
from infra_stack import InfraStacks, infra_stacks
from sandbox_fixtures import in_environment

from sandbox.azure_native.resource_type import by_token

pytestmark = pytest.mark.stack

WEST, NORTH, DEV = "prod-westeurope", "prod-northeurope", "dev"
REGIONS = {WEST: "westeurope", NORTH: "northeurope", DEV: "eastus2"}
STATEFUL = {
    "storage:StorageAccount",
    "storage:BlobContainer",
    "keyvault:Vault",
    "containerregistry:Registry",
    "databricks:Workspace",
    "machinelearningservices:Workspace",
    "containerservice:ManagedCluster",
}


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfraStacks]:
    with infra_stacks(tmp_path_factory.mktemp("infra")) as stacks, in_environment(stacks.environment):
        for stack, region in REGIONS.items():
            stacks.up(stack, **{"azure-native:location": region})
        yield stacks


def test_every_type_the_provider_knows_is_declared_by_the_program(stacks: InfraStacks) -> None:
    created = {resource["type"] for resource in stacks.resources(WEST)}
    assert set(by_token()) == {token for token in created if token.startswith("azure-native:")}


def test_production_again_changes_nothing(stacks: InfraStacks) -> None:
    stacks.pulumi(WEST, "preview", "--expect-no-changes")
    stacks.pulumi(WEST, "refresh", "--yes", "--skip-preview", "--expect-no-changes")


def test_the_keys_of_application_insights_are_secret_in_the_state(stacks: InfraStacks) -> None:
    held = {resource["type"]: resource for resource in stacks.resources(WEST)}
    outputs = held["azure-native:applicationinsights:Component"]["outputs"]
    secret = {name for name, value in outputs.items() if "ciphertext" in str(value)}
    assert secret == {"connectionString", "instrumentationKey"}


def test_what_holds_data_is_protected_in_production_alone(stacks: InfraStacks) -> None:
    def guarded(stack: str) -> set[str]:
        found = stacks.resources(stack)
        return {resource["type"].removeprefix("azure-native:") for resource in found if resource.get("protect")}

    assert guarded(WEST) >= STATEFUL
    assert guarded(DEV) == set()
    retained = {r["type"].removeprefix("azure-native:") for r in stacks.resources(WEST) if r.get("retainOnDelete")}
    assert retained - {"storage:BlobServiceProperties"} == {
        *("storage:StorageAccount", "storage:BlobContainer", "keyvault:Vault"),
    }


def test_a_changed_network_mode_shows_what_it_replaces_and_stops_at_what_is_protected(stacks: InfraStacks) -> None:
    stacks.configure(WEST, network__mode="public")
    shown = stacks.pulumi(WEST, "preview", "--diff", fails=True)
    stacks.configure(WEST)
    for name in ("databricks:Workspace", "containerservice:ManagedCluster", "containerservice:AgentPool"):
        assert f"azure-native:{name}: (replace)" in shown
    assert "azure-native:storage:StorageAccount: (update)" in shown
    assert "unable to replace resource" in shown
    assert "protect" in shown


def test_three_regions_of_one_subscription_share_nothing(stacks: InfraStacks) -> None:
    held = {stack: stacks.resources(stack) for stack in (WEST, NORTH, DEV)}
    ids = {stack: {r["id"].lower() for r in found if r.get("custom") and "id" in r} for stack, found in held.items()}
    groups = {
        stack: next(
            r["inputs"]["resourceGroupName"] for r in found if r["type"] == "azure-native:resources:ResourceGroup"
        )
        for stack, found in held.items()
    }
    assert len(set(groups.values())) == 3
    for stack, found in held.items():
        provider = {r["id"].lower() for r in found if r["type"].startswith("pulumi:providers:")}
        for other in set(held) - {stack}:
            assert not (ids[stack] - provider) & ids[other]
            assert groups[other] not in json.dumps(found)
        locations = {r["outputs"]["location"].lower() for r in found if "location" in r.get("outputs", {})}
        assert locations <= {REGIONS[stack], "global"}


def test_a_stack_is_taken_down_from_the_endpoint_to_the_workspace(stacks: InfraStacks) -> None:
    events = stacks.folder / "destroy.json"
    stacks.pulumi(DEV, "destroy", "--yes", "--skip-preview", "--event-log", str(events))
    gone = [
        event["resOutputsEvent"]["metadata"]["urn"].rpartition("::")[2]  # of a resource; components have the same names
        for event in map(json.loads, events.read_text().splitlines())
        if event.get("resOutputsEvent", {}).get("metadata", {}).get("op") == "delete"
        and event["resOutputsEvent"]["metadata"]["type"].startswith("azure-native:")
    ]
    order = ("inference-endpoint", "inference-compute", "inference-extension", "machine-learning")
    assert [name for name in gone if name in order] == list(order)
