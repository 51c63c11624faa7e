"""Capacity plan: requests per second to replicas, and replicas to nodes, before anything is scheduled.

A plan that the scheduler could not place is refused, with the key to change and a value that is accepted. Does not
choose a node size: `serving:node_size` and `training:node_type` do, and have defaults. Does not know
regions, quotas (`personalization preflight`) or prices (`cost.py`), and does not measure: the time of a request is
data (`capacity.yaml`) or `serving:service_ms`.

Placement is first fit, largest pod first. The real scheduler spreads pods instead of packing them, so a plan that fits
here exactly may have to wait for the autoscaler's next node.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import yaml

from infra.planning.compatibility import Machine, machines, require_size

ROUTERS = 3
"""Replicas of the inference router (azureml-fe) in its highly available form; each needs its own node.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-kubernetes-inference-routing-azureml-fe.md;
Azure/AML-Kubernetes#271
"""
DEFAULT_INSTANCE_TYPE = "defaultinstancetype"
"""Instance type that every cluster has; any other type must first be created in the cluster.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md
"""
MAX_COUNT = 100
"""Largest number of nodes of a pool, and of replicas of a deployment."""
# A node's default under Azure CNI Overlay.
# Source: MicrosoftDocs/azure-aks-docs articles/aks/concepts-network-azure-cni-overlay.md
_MAX_PODS = 250
_MIB = 1024


class Serving(Protocol):
    """The values that the plan is computed from. `ServingSettings` has them under the same names."""

    @property
    def engine(self) -> str: ...
    @property
    def node_size(self) -> str: ...
    @property
    def system_size(self) -> str: ...
    @property
    def system_nodes(self) -> int: ...
    @property
    def nodes_min(self) -> int: ...
    @property
    def nodes_max(self) -> int: ...
    @property
    def replicas_min(self) -> int: ...
    @property
    def replicas_max(self) -> int: ...
    @property
    def cpu(self) -> str: ...
    @property
    def memory(self) -> str: ...
    @property
    def instance_type(self) -> str | None: ...
    @property
    def target_rps(self) -> float | None: ...
    @property
    def latency_ms(self) -> float | None: ...
    @property
    def utilisation(self) -> float: ...
    @property
    def service_ms(self) -> float | None: ...


@dataclass(frozen=True)
class Pod:
    name: str
    cpu: int
    """Millicores requested."""
    memory: int
    """MiB requested."""
    anti_affinity: bool = False
    """Whether a node holds at most one such pod."""
    scoring_pool: bool = False
    """Whether Azure ML's node selector keeps the pod on the scoring pool: the extension's own pods and all replicas.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-kubernetes-extension.md (nodeSelector)
    """


@dataclass(frozen=True)
class Plan:
    target_rps: float | None
    max_rps: float
    """Requests a second that `replicas_max` can serve within the target utilisation and latency."""
    replicas: int
    """Replicas needed for `serving:target_rps`; `serving:replicas_min` if that is not set."""
    replicas_min: int
    replicas_max: int
    utilisation: int
    """Percent of a replica's time that may be busy: less than the setting if the latency requires it."""
    replica_cpu: int
    replica_memory: int
    system_node_size: str
    node_size: str
    """Size of a scoring node."""
    node_cpu: int
    """Millicores of a scoring node for replicas, without the shares of AKS and of all DaemonSets."""
    node_memory: int
    replicas_per_node: int
    system_nodes: int
    nodes_at_peak: int
    """Scoring nodes for `replicas` of the live deployment, the warm previous deployment and a candidate."""
    nodes_at_most: int
    """The same for `replicas_max` of the live deployment."""
    nodes_min: int
    nodes_max: int
    routers: int

    def as_output(self) -> dict[str, Any]:
        return asdict(self)


@lru_cache
def _data() -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("capacity.yaml").read_text())
    return content


def plan(serving: Serving) -> Plan:
    """Replicas and nodes for the target rate, or without one for the replica range.

    A deployment is sent the range and the utilisation, never `replicas`: that number is for the peak, and the inference
    router adds replicas when the peak comes.

    Raises `ValueError` for a plan that cannot run or be scheduled: a replica with less memory than its engine needs, a
    replica that does not fit a node, more traffic than `replicas_max` can serve, or more replicas than `nodes_max`
    nodes hold in addition to the pods of AKS and Azure ML.
    """
    require_size(serving.system_size)
    cpu, memory = allocatable(require_size(serving.node_size))
    replica = _replica(serving)
    _require_memory(serving)
    _require_instance_type(serving)
    _require_room_for_one(serving, replica, cpu, memory)

    rate = replica_rps(serving)
    replicas = serving.replicas_min
    if serving.target_rps is not None:
        replicas = max(replicas, math.ceil(serving.target_rps / rate))
        if replicas > serving.replicas_max:
            remedies = [f"set serving:replicas_max to {replicas}"] if replicas <= MAX_COUNT else []
            remedies.append(f"lower serving:target_rps to {math.floor(100 * rate * serving.replicas_max) / 100:g}")
            raise ValueError(
                f"serving:target_rps {serving.target_rps:g} needs {replicas} replicas of {serving.cpu} CPU, above "
                f"serving:replicas_max {serving.replicas_max}. {', or '.join(remedies).capitalize()}."
            )
    return Plan(
        target_rps=serving.target_rps,
        max_rps=round(rate * serving.replicas_max, 1),
        replicas=replicas,
        replicas_min=serving.replicas_min,
        replicas_max=serving.replicas_max,
        utilisation=max(1, round(100 * target_utilization(serving))),
        replica_cpu=replica.cpu,
        replica_memory=replica.memory,
        system_node_size=serving.system_size,
        node_size=serving.node_size,
        node_cpu=cpu,
        node_memory=memory,
        replicas_per_node=_per_node(replica, cpu, memory),
        system_nodes=serving.system_nodes,
        nodes_at_peak=_nodes_for(serving, replicas, at_least=replicas),
        nodes_at_most=_nodes_for(serving, serving.replicas_max, at_least=replicas),
        nodes_min=serving.nodes_min,
        nodes_max=serving.nodes_max,
        routers=_routers_of(serving),
    )


def routers(scoring_nodes: int) -> int:
    """Replicas of the router on this number of scoring nodes: `ROUTERS`, or one if there are fewer nodes than that.

    Source: Azure/AML-Kubernetes#271 (nodes that the extension's selector leaves out do not count)
    """
    return ROUTERS if scoring_nodes >= ROUTERS else 1


def require_three_nodes(serving: Serving) -> None:
    """Raise `ValueError` if the scoring pool has fewer nodes than the highly available router has replicas.

    Production requires the highly available router.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/reference-kubernetes.md ("For Production")
    """
    if serving.nodes_min < ROUTERS:
        raise ValueError(
            f"serving:nodes_min is {serving.nodes_min}, and the inference router of production runs on {ROUTERS} nodes "
            f"of the scoring pool. Set serving:nodes_min to {ROUTERS}."
        )


def replica_rps(serving: Serving) -> float:
    """Requests a second that one replica serves within the target utilisation and latency.

    Little's law, L = λ W (J. D. C. Little, Operations Research 9(3), 1961): λ requests a second that take s seconds of
    a core keep λ s cores busy. A replica uses at most one core, because it scores in one thread: λ = u / s.
    """
    return target_utilization(serving) * 1000 / _busy_ms(serving)


def target_utilization(serving: Serving) -> float:
    """Share u of a replica's time that may be busy: `serving:utilisation`, or less if the latency T requires it.

    In an M/M/1 queue the time in the system is exponential with rate 1/s - λ, its 99th percentile ln(100) s / (1 - u),
    and hence u <= 1 - ln(100) s / T.

    Raises `ValueError` if no number of replicas meets the latency.
    """
    if serving.latency_ms is None:
        return serving.utilisation
    busy_ms = _busy_ms(serving)
    least = math.log(100) * busy_ms
    if least >= serving.latency_ms:
        more = ", or serving:cpu to 1" if _core(serving) < 1 else ""
        raise ValueError(
            f"serving:latency_ms {serving.latency_ms:g} cannot be met: a request takes {busy_ms:g} ms of a replica "
            f"with {serving.cpu} CPU on average, and {least:.1f} ms in one of a hundred even without a queue. "
            f"Set serving:latency_ms to {math.ceil(2 * least)}{more}."
        )
    return min(serving.utilisation, 1 - least / serving.latency_ms)


def allocatable(machine: Machine) -> tuple[int, int]:
    """Millicores and MiB of a node for pods: Kubernetes' allocatable amount without the share of the DaemonSets.

    AKS reserves 60 millicores of one core, 100 of two, 140 of four and 10 more for each further core. Of the memory it
    reserves the lesser of 25 % and 20 MiB for each possible pod plus 50, and 100 MiB as its eviction threshold.
    Source: MicrosoftDocs/azure-aks-docs articles/aks/node-resource-reservations.md (AKS 1.29 and later)
    """
    reserved = {1: 60, 2: 100}.get(machine.vcpus, 140 + 10 * (machine.vcpus - 4))
    guest = machine.gib * _MIB * _data()["guest_memory_share"]
    memory = guest - min(guest / 4, 20 * _MAX_PODS + 50) - 100
    daemons = _pods("daemon_sets")
    cpu = machine.vcpus * 1000 - reserved - sum(pod.cpu for pod in daemons)
    return cpu, math.floor(memory) - sum(pod.memory for pod in daemons)


def pods(serving: Serving, replicas: int) -> list[Pod]:
    """All pods with `replicas` of the live deployment: the platform, the router, and replicas of three deployments.

    During a rollout the candidate runs next to the live deployment and the previous one, which stays warm.
    """
    router, count = _data()["router"], _routers_of(serving)
    routers = [Pod(f"router-{i}", **router, anti_affinity=True, scoring_pool=True) for i in range(count)]
    scoring = replicas + 2 * serving.replicas_min
    platform = [*_pods("platform"), *_pods("azure_ml", scoring_pool=True)]
    largest_first = sorted(platform, key=lambda pod: (-pod.cpu, -pod.memory))
    return [*routers, *largest_first, *[_replica(serving)] * scoring]


def placement(serving: Serving, wanted: Sequence[Pod]) -> list[list[Pod]]:
    """Pods by node: first the nodes of the system pool, then as many nodes of the scoring pool as needed."""
    system, scoring = allocatable(require_size(serving.system_size)), allocatable(require_size(serving.node_size))
    nodes: list[list[Pod]] = [[] for _ in range(serving.system_nodes)]

    def fits(number: int, pod: Pod) -> bool:
        placed, is_system = nodes[number], number < serving.system_nodes
        if (pod.scoring_pool and is_system) or (pod.anti_affinity and any(other.anti_affinity for other in placed)):
            return False
        cpu, memory = system if is_system else scoring
        return sum(p.cpu for p in placed) + pod.cpu <= cpu and sum(p.memory for p in placed) + pod.memory <= memory

    for pod in wanted:
        number = next((number for number in range(len(nodes)) if fits(number, pod)), len(nodes))
        if number == len(nodes):
            nodes.append([])
        nodes[number].append(pod)
    return nodes


def _nodes_for(serving: Serving, replicas: int, at_least: int) -> int:
    """Scoring nodes for `replicas` of the live deployment. Raises `ValueError` if they are more than `nodes_max`.

    at_least: smallest number of replicas that the message may propose.
    """

    def needed(live: int) -> int:
        return len(placement(serving, pods(serving, live))) - serving.system_nodes

    nodes = needed(replicas)
    if nodes <= serving.nodes_max:
        return max(nodes, serving.nodes_min)
    fewer = next((n for n in range(replicas, at_least - 1, -1) if needed(n) <= serving.nodes_max), None)
    lower = f", or lower serving:replicas_max to {fewer}" if fewer else ""
    size = _size_that_holds(_per_node(_replica(serving), *allocatable(require_size(serving.node_size))) + 1, serving)
    more = f"Set serving:nodes_max to {nodes}" if nodes <= MAX_COUNT else f"Set serving:node_size to {size}"
    raise ValueError(
        f"serving:replicas_max {serving.replicas_max} does not fit serving:nodes_max {serving.nodes_max}: with the two "
        f"other deployments of a rollout ({2 * serving.replicas_min} replicas), the router and the pods of AKS and "
        f"Azure ML, {nodes} {serving.node_size} are needed and {serving.system_nodes} {serving.system_size} "
        f"of the system pool. "
        f"{more}{lower}."
    )


def _require_memory(serving: Serving) -> None:
    least = _data()["memory_min"][serving.engine]
    if _mebibytes(serving.memory) < least:
        raise ValueError(
            f"serving:memory {serving.memory} is less than a replica with serving:engine {serving.engine} needs. "
            f"Set serving:memory to {least}Mi or more, or leave it out."
        )


def _require_instance_type(serving: Serving) -> None:
    """Raise `ValueError` for a replica above the default instance type's limits, unless another type is set.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md
    """
    limits = _data()["default_instance_type"]
    for key, value, most in (
        ("cpu", _millicores(serving.cpu), f"{limits['cpu'] - 1}m"),
        ("memory", _mebibytes(serving.memory), f"{limits['memory'] - 1}Mi"),
    ):
        if value >= limits[key] and not serving.instance_type:
            raise ValueError(
                f"serving:{key} {getattr(serving, key)} is not below the limit of Azure ML's default instance type. "
                f"Set serving:{key} to at most {most}, or serving:instance_type to a type that exists in the "
                "cluster (docs/operations.md, 'A replica larger than the default instance type')."
            )


def heap(serving: Serving) -> str | None:
    """Heap of a replica's JVM in Spark's notation, such as `2048m`; None for an engine without a JVM."""
    outside = _data()["beside_heap"].get(serving.engine)
    return None if outside is None else f"{_mebibytes(serving.memory) - outside}m"


def _require_room_for_one(serving: Serving, replica: Pod, cpu: int, memory: int) -> None:
    if replica.cpu <= cpu and replica.memory <= memory:
        return
    sidecar = _data()["sidecar"]
    size = _size_that_holds(1, serving)
    alternative = f", or serving:node_size to {size}" if size else ""
    key, value, most = (
        ("cpu", serving.cpu, f"{cpu - sidecar['cpu']}m")
        if replica.cpu > cpu
        else ("memory", serving.memory, f"{memory - sidecar['memory']}Mi")
    )
    raise ValueError(
        f"serving:{key} {value} is more than a {serving.node_size} has for a replica, without the shares of AKS and "
        f"Azure ML. Set serving:{key} to at most {most}{alternative}."
    )


def _replica(serving: Serving) -> Pod:
    sidecar = _data()["sidecar"]
    cpu, memory = _millicores(serving.cpu) + sidecar["cpu"], _mebibytes(serving.memory) + sidecar["memory"]
    return Pod("replica", cpu, memory, scoring_pool=True)


def _size_that_holds(replicas: int, serving: Serving) -> str | None:
    """The smallest VM size that holds this number of replicas, of the same family if there is one."""

    def family(size: str) -> str:
        return re.sub(r"\d+", "", size, count=1)

    sizes = [
        (family(size) != family(serving.node_size), machine.vcpus, machine.gib, size)
        for size, machine in machines().items()
        if _per_node(_replica(serving), *allocatable(machine)) >= replicas
    ]
    return min(sizes)[-1] if sizes else None


def _per_node(replica: Pod, cpu: int, memory: int) -> int:
    return min(cpu // replica.cpu, memory // replica.memory)


def _busy_ms(serving: Serving) -> float:
    """Milliseconds that a request keeps a replica busy."""
    return (serving.service_ms or _data()["service_ms"][serving.engine]) / _core(serving)


def _core(serving: Serving) -> float:
    """Share of one core that a replica has for scoring. Raises `ValueError` if it has none."""
    core = min(_millicores(serving.cpu), 1000) / 1000
    if not core:
        raise ValueError("serving:cpu is 0, and a replica without CPU cannot answer. Set serving:cpu to 500m or more.")
    return core


def _routers_of(serving: Serving) -> int:
    return routers(serving.nodes_min)


def _pods(group: str, *, scoring_pool: bool = False) -> list[Pod]:
    return [
        Pod(name, row["cpu"], row["memory"], scoring_pool=scoring_pool)
        for name, row in _data()[group].items()
        for _ in range(row.get("count", 1))
    ]


def _millicores(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else math.ceil(float(quantity) * 1000)


def _mebibytes(quantity: str) -> int:
    return int(quantity[:-2]) * (_MIB if quantity.endswith("Gi") else 1)
