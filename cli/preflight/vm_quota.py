"""VM sizes and quota: whether Azure offers the sizes of the cluster and of a training run, within the vCPU quota.

Databricks and AKS use the subscription's quota of Microsoft.Compute, by family and for the whole region. Azure ML has
separate quotas for computes that it manages; they do not apply, because it serves on the attached cluster.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from cli.preflight.arm_models import Cluster, Size, Usage
from cli.preflight.check import Check, Finding, Level, Target

# Source: azure-mgmt-compute==39.0.0 azure/mgmt/compute/operations/_operations.py (`ResourceSkusOperations`)
_SKUS = "2021-07-01"
# Source: Azure/bicep-types-az generated/compute_1/microsoft.compute/2024-07-01/types.json;
# Azure/bicep-types-az generated/containerservice_1/microsoft.containerservice/2025-09-01/types.json
_USAGES, _CLUSTERS = "2024-07-01", "2025-09-01"
# Azure's name for the total of all families.
# Source: Azure/azure-rest-api-specs#25455
_REGIONAL = "cores"
# Each pool takes one more node during an upgrade.
# Source: MicrosoftDocs/azure-aks-docs articles/aks/tutorial-kubernetes-upgrade-cluster.md
_POOLS = 2


@dataclass(frozen=True)
class Need:
    setting: str
    size: str
    machines: int
    surge: int
    """Additional machines during an upgrade."""
    zones: Sequence[str]
    started: bool
    """Whether `up` itself starts the machines, so that it fails without quota."""

    @property
    def if_missing(self) -> Level:
        return Level.BLOCKING if self.started else Level.WARNING


def needs(target: Target) -> list[Need]:
    settings = target.settings
    training, serving = settings.training, settings.serving
    zones = settings.zones if settings.production else []
    # As large as the training cluster, and it may run at the same time.
    interactive = settings.has_interactive_cluster
    pools = [
        Need("serving:node_size", serving.node_size, serving.nodes_max, 1, zones, started=True),
        Need("serving:system_node_size", serving.system_size, serving.system_nodes, 1, zones, started=True),
    ]
    if serving.system_node_size is None:
        nodes = serving.system_nodes + serving.nodes_max
        pools = [Need("serving:node_size", serving.node_size, nodes, _POOLS, zones, started=True)]
    return [
        # If Azure has no spot machine, an ordinary one is started, so spot needs the same quota.
        Need("training:node_type", training.node_type, training.workers + 1, 0, [], settings.release.enabled),
        *([Need("training:node_type", training.node_type, training.workers + 1, 0, [], False)] if interactive else []),
        *pools,
        *([Need("runner:size", settings.runner.size, settings.runners, 0, [], True)] if settings.runners else []),
    ]


def checks(target: Target) -> Iterator[Check]:
    yield Check("VM sizes and quota", target.settings.location, partial(_machines, target))


def _machines(target: Target) -> Iterator[Finding]:
    region = target.settings.location
    filtered = {"$filter": f"location eq '{region}'"}
    skus = target.arm.list(Size, f"{target.scope}/providers/Microsoft.Compute/skus", _SKUS, filtered)
    sizes = {size.name.lower(): size for size in skus if size.resource_type.lower() == "virtualmachines"}
    wanted = needs(target)
    once: dict[tuple[str, str], Need] = {}
    for need in wanted:
        once.setdefault((need.setting, need.size), need)
    for need in once.values():
        yield from _size(target, need, sizes)
    usages = target.arm.list(Usage, f"{target.scope}/providers/Microsoft.Compute/locations/{region}/usages", _USAGES)
    known = [(need, sizes[need.size.lower()]) for need in wanted if need.size.lower() in sizes]
    yield from _quota(target, known, {usage.name.value.lower(): usage for usage in usages})


def _size(target: Target, need: Need, sizes: dict[str, Size]) -> Iterator[Finding]:
    region, size = target.settings.location, sizes.get(need.size.lower())
    label = f"{need.size} ({need.setting})"
    if size is None or size.refused:
        reason = "is not offered" if size is None else f"is closed to this subscription ({size.refused})"
        yield Finding(
            "VM sizes", need.if_missing, f"{label} {reason} in {region}", _others(target, need, sizes.values())
        )
    elif missing := sorted(set(need.zones) - size.zones):
        left = [zone for zone in need.zones if zone in size.zones]
        message = f"{label} is not offered in zone {', '.join(missing)} of {region}"
        remedy = target.set("reliability:zones", f"'{json.dumps(left)}'")
        yield Finding("VM sizes", need.if_missing, message, f"{remedy}\n{_others(target, need, sizes.values())}")
    else:
        zones = f" in zones {', '.join(need.zones)}" if need.zones else ""
        yield Finding("VM sizes", Level.OK, f"{label}: {size.vcpus} vCPU{zones}")


def _others(target: Target, need: Need, sizes: Iterable[Size]) -> str:
    """Return commands that set the suitable sizes with the most similar names, or one that lists all sizes."""
    fit = [size.name for size in sizes if not size.refused and set(need.zones) <= size.zones]
    near = difflib.get_close_matches(need.size, fit, n=2, cutoff=0.75)
    shown = (
        f"az vm list-skus --location {target.settings.location} --resource-type virtualMachines --all --output table"
    )
    return "\n".join([target.set(need.setting, name) for name in near] or [shown])


def _quota(target: Target, known: list[tuple[Need, Size]], usages: dict[str, Usage]) -> Iterator[Finding]:
    wanted, started, surge = Counter[str](), Counter[str](), Counter[str]()
    for need, size in known:
        for name in (size.family, _REGIONAL):
            wanted[name] += need.machines * size.vcpus
            started[name] += need.machines * size.vcpus * need.started
            surge[name] += need.surge * size.vcpus
    in_use = _in_use(target, [size for _, size in known])
    for name in wanted:
        usage = usages.get(name.lower())
        if usage is None:
            message = f"Azure returns no quota named {name}, of which {wanted[name]} vCPU are needed"
            shown = f"az vm list-usage --location {target.settings.location} --output table"
            yield Finding("quota", Level.NOT_CHECKED, message, shown)
            continue
        others = max(0, usage.current_value - in_use[name])  # the two responses are from different times
        free, whole = usage.limit - others, wanted[name] + surge[name]
        message = f"{usage.name.localized_value or name}: {wanted[name]} vCPU needed, {free} of {usage.limit} free"
        if whole <= free:
            yield Finding("quota", Level.OK, message)
            continue
        if wanted[name] <= free:
            message += f"; an upgrade of the cluster takes {surge[name]} more while it runs"
        level = Level.BLOCKING if started[name] > free else Level.WARNING
        yield Finding("quota", level, message, _raise(target, name, others + whole))


def _in_use(target: Target, sizes: list[Size]) -> Counter[str]:
    """Return the vCPU that this stack already uses, by quota: it does not need them again.

    Counts only pools that are kept: a pool of another size is deleted after the new one exists, so `up` needs both.

    Stopped pools count as well: usage is "the total number of cores in use, both allocated and deallocated"
    (learn.microsoft.com/azure/virtual-machines/quotas).
    """
    cluster_id = target.resource("Microsoft.ContainerService/managedClusters", target.names.kubernetes_cluster)
    cluster = target.arm.get(Cluster, cluster_id, _CLUSTERS)
    used, by_name = Counter[str](), {size.name.lower(): size for size in sizes}
    serving = target.settings.serving
    for pool in (cluster.properties.agent_pool_profiles or []) if cluster else []:
        wanted = serving.system_size if pool.mode == "System" else serving.node_size
        size = by_name.get((pool.vm_size or "").lower())
        if size and size.name.lower() == wanted.lower():
            for name in (size.family, _REGIONAL):
                used[name] += (pool.count or 0) * size.vcpus
    return used


def _raise(target: Target, name: str, limit: int) -> str:
    scope = f"{target.scope}/providers/Microsoft.Compute/locations/{target.settings.location}"
    update = (
        f"az quota update --resource-name {name} --scope {scope} --resource-type dedicated --limit-object value={limit}"
    )
    return f"az extension add --name quota\n{update}"
