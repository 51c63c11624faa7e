"""Node pools: one write of the cluster at a time, separate sizes, and the mark of a change in the report."""

import pytest

from cli.changes.report import report
from infra.aks.cluster import NETWORK_POLICY
from infra.aks.write_order import CLUSTER_WRITES, WriteOrder
from infra.planning import compatibility
from testing.engine_events import POOL, read_preview, step
from testing.stack.infra_graph import Graph, graph

SYSTEM = "pulumi-python:dynamic/containerservice:SystemPool"


@pytest.fixture(scope="module")
def program() -> Graph:
    return graph(serving__system_node_size="Standard_D2s_v5", serving__node_size="Standard_D8s_v5")


def test_cluster_write_out_of_turn_is_refused() -> None:
    order = WriteOrder()
    with pytest.raises(ValueError, match="'scoring pool' is not the next write of the cluster, 'cluster' is"):
        order.before("scoring pool")


def test_every_write_of_the_cluster_is_in_the_list(program: Graph) -> None:
    below = ("SystemPool", ":AgentPool", "PoolDrain", "MaintenanceConfiguration", "TrustedAccessRoleBinding")
    written = [found for kind in (*below, ":ManagedCluster", ":Extension") for found in program.of(kind)]
    assert len(written) == len(CLUSTER_WRITES)


def test_each_pool_has_its_own_size_and_name(program: Graph) -> None:
    (cluster,), (scoring,) = program.of("containerservice:ManagedCluster"), program.of("containerservice:AgentPool")
    (system,) = program.of("containerservice:SystemPool")
    (inline,) = cluster.inputs["agentPoolProfiles"]
    assert inline["vmSize"] == system.inputs["shape"]["vmSize"] == "Standard_D2s_v5"
    assert scoring.inputs["vmSize"] == "Standard_D8s_v5"
    both = graph(serving__node_size="Standard_D8s_v5")
    assert both.of("containerservice:AgentPool")[0].inputs["agentPoolName"] == scoring.inputs["agentPoolName"]
    assert both.of("containerservice:SystemPool")[0].inputs["pool"] != system.inputs["pool"]


def test_plan_and_cost_count_each_pool_with_its_own_size(program: Graph) -> None:
    plan, cost = program.outputs["capacity"], program.outputs["monthly_cost"]
    assert (plan["system_node_size"], plan["node_size"]) == ("Standard_D2s_v5", "Standard_D8s_v5")
    assert "Standard_D2s_v5" in str(cost["basis"].get("system pool") or cost["unpriced"])
    assert "Standard_D8s_v5" in str(cost["basis"].get("scoring pool") or cost["unpriced"])


def test_network_policy_engine_has_no_announced_end(program: Graph) -> None:
    (cluster,) = program.of("containerservice:ManagedCluster")
    network = cluster.inputs["networkProfile"]
    assert network["networkPolicy"] == network["networkDataplane"] == NETWORK_POLICY
    ends = compatibility.table().network_policies
    assert ends[NETWORK_POLICY] is None
    assert str(ends["azure"]) == "2028-09-30"


@pytest.mark.parametrize(
    ("change", "marked"),
    [
        (step("replace", POOL, "scoring", {"vmSize": "a"}, {"vmSize": "b"}, keys=["vmSize"]), True),
        (step("update", POOL, "scoring", {"maxCount": 3}, {"maxCount": 5}, detailedDiff={"maxCount": "update"}), False),
        (step("update", SYSTEM, "system", {"pool": "a"}, {"pool": "b"}, detailedDiff={"pool": "update"}), True),
        (step("update", SYSTEM, "system", {"count": 2}, {"count": 3}, detailedDiff={"count": "update"}), False),
    ],
)
def test_report_marks_that_nodes_are_replaced(change: dict[str, object], marked: bool) -> None:
    assert ("Every node of" in report(read_preview([change])).text) is marked
