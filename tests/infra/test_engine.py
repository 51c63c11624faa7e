"""Production's infrastructure through the real engine: no change in a second `up`, protection, order of deletion."""

import json
from collections.abc import Iterator

import pytest

from infra.cloud.clients import AzureClients
from sandbox.azure_native.resource_type import by_token
from testing.sandbox.process import in_environment
from testing.stack.infra_stack import RUNNER, InfraStacks, infra_stacks
from testing.waiting import eventually

pytestmark = pytest.mark.stack

WEST, NORTH, DEV = "prod-westeurope", "prod-northeurope", "dev"
REGIONS = {WEST: "westeurope", NORTH: "northeurope", DEV: "eastus2"}
API_VERSION = "2025-09-01"
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
            create = stacks.up_with_runner if stack == WEST else stacks.up
            create(stack, **{"azure-native:location": region})
        yield stacks


def cluster_id(stacks: InfraStacks) -> str:
    (found,) = (it["id"] for it in stacks.resources(DEV) if it["type"].endswith("containerservice:ManagedCluster"))
    return str(found)


def pools(stacks: InfraStacks) -> dict[str, tuple[str, str, int]]:
    """Mode, size and number of nodes of every pool of the cluster, as AKS has them."""
    answer = AzureClients.discover().resource(f"{cluster_id(stacks)}/agentPools", API_VERSION)
    assert answer
    found = {pool["name"]: pool["properties"] for pool in answer["value"]}
    return {name: (pool["mode"], pool["vmSize"], pool["count"]) for name, pool in found.items()}


def test_every_type_the_provider_knows_is_declared_by_the_program(stacks: InfraStacks) -> None:
    created = {resource["type"] for resource in stacks.resources(WEST)}
    assert set(by_token()) == {token for token in created if token.startswith("azure-native:")}


def test_production_again_changes_nothing(stacks: InfraStacks) -> None:
    stacks.pulumi(WEST, "preview", "--expect-no-changes")
    stacks.pulumi(WEST, "refresh", "--yes", "--skip-preview", "--expect-no-changes")


def test_keys_of_application_insights_are_secret_in_the_state(stacks: InfraStacks) -> None:
    held = {resource["type"]: resource for resource in stacks.resources(WEST)}
    outputs = held["azure-native:applicationinsights:Component"]["outputs"]
    secret = {name for name, value in outputs.items() if "ciphertext" in str(value)}
    assert secret == {"connectionString", "instrumentationKey"}


def test_resources_with_data_are_protected_only_in_production(stacks: InfraStacks) -> None:
    def guarded(stack: str) -> set[str]:
        found = stacks.resources(stack)
        return {resource["type"].removeprefix("azure-native:") for resource in found if resource.get("protect")}

    assert guarded(WEST) >= STATEFUL
    assert guarded(DEV) == set()
    retained = {r["type"].removeprefix("azure-native:") for r in stacks.resources(WEST) if r.get("retainOnDelete")}
    # Neither can be deleted: both go with their parent.
    assert retained - {"storage:BlobServiceProperties", "operationalinsights:Table"} == {
        *("storage:StorageAccount", "storage:BlobContainer", "keyvault:Vault"),
    }


def test_changed_network_mode_shows_replacements_and_stops_at_protected_resources(stacks: InfraStacks) -> None:
    stacks.configure(WEST, network__mode="public")
    shown = stacks.pulumi(WEST, "preview", "--diff", fails=True)
    stacks.configure(WEST, **RUNNER)
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


def test_changed_generation_is_refused_before_anything_is_deleted(stacks: InfraStacks) -> None:
    before = {resource["urn"] for resource in stacks.resources(DEV)}
    stacks.configure(DEV, **{"azure-native:location": REGIONS[DEV]}, personalization__generation="2")
    said = stacks.pulumi(DEV, "up", "--yes", "--skip-preview", fails=True)
    assert "personalization:generation was 1 when this stack was deployed and is 2 now" in said
    assert {resource["urn"] for resource in stacks.resources(DEV)} == before


NODES = {"azure-native:location": REGIONS[DEV], "serving:system_nodes": 4}
LARGER = {**NODES, "serving:node_size": "Standard_D8s_v5"}


def test_number_of_system_nodes_survives_a_later_write_of_the_cluster(stacks: InfraStacks) -> None:
    """Which sends the pools as the engine recorded them when it created the cluster."""
    for changed in ({}, {"tags:owner": "somebody"}):
        stacks.configure(DEV, **NODES, **changed)
        stacks.pulumi(DEV, "up", "--yes", "--skip-preview")
        assert [count for mode, _, count in pools(stacks).values() if mode == "System"] == [4]


def test_changed_size_replaces_both_pools_and_deletes_the_old_ones_last(stacks: InfraStacks) -> None:
    before, events = pools(stacks), stacks.folder / "pools.json"
    stacks.configure(DEV, **LARGER, **{"tags:owner": "somebody"})
    stacks.pulumi(DEV, "up", "--yes", "--skip-preview", "--event-log", str(events))
    after = pools(stacks)
    assert not before.keys() & after.keys()
    assert sorted(after.values()) == [("System", "Standard_D8s_v5", 4), ("User", "Standard_D8s_v5", 1)]
    steps = [
        event["resOutputsEvent"]["metadata"]["op"]
        for event in map(json.loads, events.read_text().splitlines())
        if event.get("resOutputsEvent", {}).get("metadata", {}).get("urn", "").endswith("AgentPool::kubernetes-scoring")
    ]
    assert steps.index("create-replacement") < steps.index("delete-replaced")


def test_raised_minimum_of_scoring_nodes_is_applied_before_the_router_depends_on_it(stacks: InfraStacks) -> None:
    stacks.configure(DEV, **LARGER, **{"tags:owner": "somebody", "serving:nodes_min": 3, "serving:nodes_max": 4})
    stacks.pulumi(DEV, "up", "--yes", "--skip-preview")
    assert [count for mode, _, count in pools(stacks).values() if mode == "User"] == [3]
    (extension,) = (it for it in stacks.resources(DEV) if it["type"].endswith(":Extension"))
    assert extension["inputs"]["configurationSettings"]["inferenceRouterHA"] == "True"


def test_refresh_finds_added_nodes_and_the_next_up_removes_them(stacks: InfraStacks) -> None:
    cloud, (pool,) = AzureClients.discover(), [name for name, (mode, *_) in pools(stacks).items() if mode == "System"]
    pool_id = f"{cluster_id(stacks)}/agentPools/{pool}"
    held = cloud.resource(pool_id, API_VERSION)
    assert held
    cloud.request("PUT", pool_id, API_VERSION, {"properties": {**held["properties"], "count": 9}})
    eventually(lambda: pools(stacks)[pool][-1] == 9)
    stacks.pulumi(DEV, "preview", "--refresh", "--expect-no-changes", fails=True)
    stacks.configure(DEV, **LARGER, **{"tags:owner": "somebody else"})
    stacks.pulumi(DEV, "up", "--refresh", "--yes", "--skip-preview")
    assert pools(stacks)[pool][-1] == 4


def test_replaced_attachment_detaches_the_cluster_and_takes_the_endpoint_with_it(stacks: InfraStacks) -> None:
    """Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/operations/_operations.py"""
    (urn,) = [it["urn"] for it in stacks.resources(DEV) if it["type"].endswith("KubernetesCompute")]
    before = {it["id"]: it["outputs"] for it in stacks.resources(DEV) if it["urn"] == urn}
    events = stacks.folder / "replaced.json"
    stacks.pulumi(DEV, "up", "--yes", "--skip-preview", "--replace", urn, "--event-log", str(events))
    steps = [
        (found["op"], found["urn"].rpartition("::")[2])
        for event in map(json.loads, events.read_text().splitlines())
        if (found := event.get("resOutputsEvent", {}).get("metadata"))
    ]
    names = ("inference-endpoint", "inference-compute")
    changed = [(step, name) for step, name in steps if name in names and step != "same"]
    assert [step for step in changed if step[0].startswith(("delete", "create"))] == [
        ("delete-replaced", "inference-endpoint"),
        ("delete-replaced", "inference-compute"),
        ("create-replacement", "inference-compute"),
        ("create-replacement", "inference-endpoint"),
    ]
    (attached,) = before
    held = AzureClients.discover().resource(attached, "2025-12-01")
    assert held is not None
    assert held["properties"]["provisioningState"] == "Succeeded"


def test_stack_is_taken_down_from_the_endpoint_to_the_workspace(stacks: InfraStacks) -> None:
    events = stacks.folder / "destroy.json"
    stacks.pulumi(DEV, "destroy", "--yes", "--skip-preview", "--event-log", str(events))
    gone = [
        event["resOutputsEvent"]["metadata"]["urn"].rpartition("::")[2]  # of a resource; components have the same names
        for event in map(json.loads, events.read_text().splitlines())
        if event.get("resOutputsEvent", {}).get("metadata", {}).get("op") == "delete"
        and not event["resOutputsEvent"]["metadata"]["type"].startswith("personalization:")
    ]
    order = ("inference-endpoint", "inference-compute", "inference-extension", "machine-learning")
    assert [name for name in gone if name in order] == list(order)
