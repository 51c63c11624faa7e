"""The nodes of a deployment's replicas, and the effect of removed nodes on replicas.

When a pool is scaled in, its removed nodes are drained first: their replicas are started on other nodes. When a pool is
deleted, replicas on its nodes are killed. Does not limit the replicas of a node, which `infra/planning/capacity.py`
plans.

Source: MicrosoftDocs/azure-aks-docs articles/aks/scale-cluster.md ("nodes are carefully cordoned and drained");
MicrosoftDocs/azure-aks-docs articles/aks/resize-node-pool.md ("When you delete a node pool, AKS doesn't perform cordon
and drain"); MicrosoftDocs/azure-aks-docs articles/aks/delete-node-pool.md ("any pods running on those nodes")
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.context import Sandbox

_SELECTOR = "nodeSelector."


@dataclass(frozen=True)
class Node:
    pool: str
    number: int


class NoNode(Exception):
    """The cluster has no node for a replica."""


def pools(sandbox: Sandbox, cluster_id: str) -> dict[str, int]:
    """Nodes by pool: of the pools with the labels that Azure ML's extension selects, or of all without a selector.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-kubernetes-extension.md (nodeSelector)
    """
    if not cluster_id:
        return {}
    selected = _selector(sandbox, cluster_id)
    counts = {}
    for _, body in sandbox.store.below(f"{cluster_id}/agentPools"):
        pool = body["properties"]
        if pool.get("provisioningState") != "Creating" and selected.items() <= (pool.get("nodeLabels") or {}).items():
            counts[body["name"]] = int(pool.get("count") or 0)
    return counts


def _selector(sandbox: Sandbox, cluster_id: str) -> dict[str, str]:
    extensions = sandbox.store.below(f"{cluster_id}/providers/Microsoft.KubernetesConfiguration/extensions")
    settings = (body["properties"].get("configurationSettings") or {} for _, body in extensions)
    return {
        key.removeprefix(_SELECTOR): str(each[key]) for each in settings for key in each if key.startswith(_SELECTOR)
    }


def place(sandbox: Sandbox, cluster_id: str, taken: Iterable[Node | None]) -> Node | None:
    """The node with the fewest replicas; None for a cluster without pools in the store. Raises `NoNode`."""
    known = pools(sandbox, cluster_id)
    if not known:
        return None
    nodes = [Node(pool, number) for pool, count in known.items() for number in range(count)]
    if not nodes:
        raise NoNode("no node: the pools of the cluster have none")
    replicas = Counter(node for node in taken if node)
    return min(nodes, key=lambda node: (replicas[node], node.pool, node.number))


def is_gone(sandbox: Sandbox, cluster_id: str, node: Node | None) -> bool:
    """Whether the node was lost with its pool."""
    return node is not None and node.pool not in pools(sandbox, cluster_id)


def is_drained(sandbox: Sandbox, cluster_id: str, node: Node | None) -> bool:
    """Whether its pool was scaled in to fewer nodes."""
    return node is not None and node.number >= pools(sandbox, cluster_id).get(node.pool, 0)
