"""The nodes that replicas of a deployment run on, and what becomes of replicas whose node goes.

A node that a pool gives up when it is scaled in is drained first: its replicas are started on another node. A pool that
is deleted takes its nodes with it, and what ran there is killed. Does not know how much a node holds:
`infra/planning/capacity.py` plans that.

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
    """Nodes by pool: of the pools with the labels that Azure ML's extension selects, or of all where it selects none.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-kubernetes-extension.md (nodeSelector)
    """
    if not cluster_id:
        return {}
    selected = _selector(sandbox, cluster_id)
    found = {}
    for _, body in sandbox.store.below(f"{cluster_id}/agentPools"):
        pool = body["properties"]
        if pool.get("provisioningState") != "Creating" and selected.items() <= (pool.get("nodeLabels") or {}).items():
            found[body["name"]] = int(pool.get("count") or 0)
    return found


def _selector(sandbox: Sandbox, cluster_id: str) -> dict[str, str]:
    extensions = sandbox.store.below(f"{cluster_id}/providers/Microsoft.KubernetesConfiguration/extensions")
    settings = (body["properties"].get("configurationSettings") or {} for _, body in extensions)
    return {
        key.removeprefix(_SELECTOR): str(each[key]) for each in settings for key in each if key.startswith(_SELECTOR)
    }


def place(sandbox: Sandbox, cluster_id: str, taken: Iterable[Node | None]) -> Node | None:
    """The node with the fewest replicas; None where nothing is known of the cluster's pools. Raises `NoNode`."""
    known = pools(sandbox, cluster_id)
    if not known:
        return None
    nodes = [Node(pool, number) for pool, count in known.items() for number in range(count)]
    if not nodes:
        raise NoNode("no node: the pools of the cluster have none")
    held = Counter(node for node in taken if node)
    return min(nodes, key=lambda node: (held[node], node.pool, node.number))


def is_gone(sandbox: Sandbox, cluster_id: str, node: Node | None) -> bool:
    """Whether the node was lost with its pool."""
    return node is not None and node.pool not in pools(sandbox, cluster_id)


def is_drained(sandbox: Sandbox, cluster_id: str, node: Node | None) -> bool:
    """Whether its pool was scaled in to fewer nodes."""
    return node is not None and node.number >= pools(sandbox, cluster_id).get(node.pool, 0)
