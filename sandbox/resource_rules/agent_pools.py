"""Node pools of AKS clusters: `agentPools/<name>` and the cluster's own list of pools always hold the same pools.

A pool that is sent inline with a new cluster becomes a child resource, and `agentPoolProfiles` of the cluster lists
every child. Does not run nodes. Has only the autoscaler's lower bound: a pool with fewer nodes grows to it.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from sandbox.arm import resource_types, tags
from sandbox.arm.resource_body import check_name, complete, keep_immutable
from sandbox.arm.resource_id import ResourceId, parse
from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Machines, Sandbox
from sandbox.resource_rules import credentials
from sandbox.resource_rules.cluster_identity import require_kubelet_permission

CLUSTER = "Microsoft.ContainerService/managedClusters"
POOL = "Microsoft.ContainerService/managedClusters/agentPools"
# Source: kubernetes-sigs/cluster-api-provider-azure#5947
_MOST_NODES = 1000
_DRAIN_SECONDS = 1.2
_SCALE_SECONDS = 2.0
_growing = set[asyncio.Task[None]]()
"""Tasks that grow pools to the lower bound, kept here because an unreferenced task may be garbage-collected."""


def behaviours() -> dict[str, Behaviour]:
    return {
        CLUSTER.lower(): Behaviour(
            before_put=_check_cluster,
            on_put=_put_cluster,
            actions={
                "listclusterusercredential": credentials.list_cluster_user_credential,
                "listclusteradmincredential": credentials.list_cluster_admin_credential,
            },
        ),
        POOL.lower(): Behaviour(
            before_put=_check_pool, on_put=_put_pool, before_delete=_check_deletion, on_delete=_delete_pool
        ),
    }


def machines(sandbox: Sandbox) -> Iterator[Machines]:
    for _, cluster in sandbox.store.below("/subscriptions"):
        if cluster["type"] == CLUSTER:
            for pool in _listed(cluster).values():
                spot = pool.get("scaleSetPriority") == "Spot"
                yield Machines(cluster["location"], pool.get("vmSize") or "", pool.get("count") or 0, spot)


def _check_cluster(sandbox: Sandbox, cluster_id: str, sent: Body, existing: Body | None) -> None:
    """Check the inline pools as AKS does, and add the pools that the request omits.

    An update changes the pools that it names and keeps the others, and it may name none.

    Source: pulumi/pulumi-azure-native#4264; Azure/AKS#2495 (none); Azure/AKS#1602 (a system pool); Azure/AKS#1568 (its
    code); Azure/AKS#4383; microsoft/tyger#121 (a new pool)
    """
    properties = sent.setdefault("properties", {})
    profiles = properties.get("agentPoolProfiles") or []
    if existing is None:
        if not profiles:  # Azure/AKS#2495
            raise CloudError(400, "InvalidParameter", "Required parameter agentPoolProfiles is missing (null).")
        if not any(profile.get("mode") == "System" for profile in profiles):  # Azure/AKS#1602, Azure/AKS#1568
            raise CloudError(400, "MustDefineAtLeastOneSystemPool", "Must define at least one system pool.")
        require_kubelet_permission(sandbox, sent)
    known = _listed(existing) if existing else {}
    for profile in profiles:
        pool = _pool(cluster_id, str(profile.get("name")))
        _check_pool(sandbox, pool.id, {"properties": profile}, None)
        if existing is None:
            check_name(_rule(), pool.name)
        elif pool.name.lower() not in known:  # Azure/AKS#4383, microsoft/tyger#121
            message = (
                "A new agent pool was introduced. Adding agent pools to an existing cluster is not allowed through "
                "managed cluster operations. For agent pool specific change, please use per agent pool operations: "
                "https://aka.ms/agent-pool-rest-api"
            )
            raise CloudError(400, "BadRequest", message)
        if before := sandbox.store.get(pool.id):
            keep_immutable(_rule(), before, {"properties": profile})
    properties["agentPoolProfiles"] = list({**known, **{_key(profile): profile for profile in profiles}}.values())


def _check_pool(sandbox: Sandbox, pool_id: str, sent: Body, existing: Body | None) -> None:
    """Check a pool. Its tags, which its machines get, are among its properties. A system pool has at least one node,
    and the last system pool keeps its mode.

    Source: MicrosoftDocs/azure-aks-docs articles/aks/use-system-pools.md;
    MicrosoftDocs/azure-aks-docs articles/aks/create-node-pools.md (`count`)
    """
    properties = sent.get("properties") or {}
    if existing is None and properties.get("enableAutoScaling"):
        _check_bounds(properties)
    mode = properties.get("mode") or (existing["properties"].get("mode") if existing else None)
    if mode == "System" and properties.get("count") == 0:
        raise _count_refusal(0, 1, _MOST_NODES)
    if existing and existing["properties"].get("mode") == "System" and mode != "System":
        _check_deletion(sandbox, pool_id, existing)
    if properties.get("tags") is not None:
        properties["tags"] = tags.checked(_rule(), properties["tags"])


def _check_bounds(properties: Body) -> None:
    """Check the bounds of a new pool. An update may raise the lower bound above the present number of nodes.

    Source: Azure/azure-cli-extensions#1606
    """
    count, least, most = (properties.get(name) or 0 for name in ("count", "minCount", "maxCount"))
    if not least <= count <= most:
        raise _count_refusal(count, least, most)


def _count_refusal(count: int, least: int, most: int) -> CloudError:
    """Source: Azure/azure-cli#22442 (the code); kubernetes-sigs/cluster-api-provider-azure#5947 (the words)"""
    message = (
        f"agentPoolProfile.count was {count}. It must be greater or equal to minCount:{least} and less than or equal "
        f"to maxCount:{most}. If allowedMinCount was expected to be 0 but is 1: 1) The nodepool is a VMAS pool. 2) api "
        "Version is less than 2020-03-01. 3) The node is a system pool."
    )
    return CloudError(400, "InvalidParameter", message)


async def _put_cluster(sandbox: Sandbox, cluster_id: str, body: Body) -> None:
    """Source: pulumi/pulumi-azure-native#4264 (inline pools are child resources)"""
    for profile in body["properties"]["agentPoolProfiles"]:
        pool = _pool(cluster_id, profile["name"])
        inline = {"properties": {key: value for key, value in profile.items() if key != "name"}}
        made = complete(sandbox, pool, _rule(), inline, sandbox.store.get(pool.id))
        sandbox.store.put(made["id"], made)
        profile.update(_profile(made))


async def _put_pool(sandbox: Sandbox, pool_id: str, body: Body) -> None:
    """Update the cluster's list. Scaling in takes longer, because nodes are drained.

    Source: pulumi/pulumi-azure-native#4264; MicrosoftDocs/azure-aks-docs articles/aks/scale-cluster.md
    """
    cluster = sandbox.store.get(pool_id.rpartition("/agentPools/")[0])
    before = _listed(cluster).get(body["name"].lower(), {}).get("count") if cluster else 0
    if (before or 0) > (body["properties"].get("count") or 0):
        await asyncio.sleep(_DRAIN_SECONDS)
    _change_list(sandbox, pool_id, _profile(body))
    if body["properties"].get("enableAutoScaling"):
        task = asyncio.create_task(_grow(sandbox, pool_id))
        _growing.add(task)
        task.add_done_callback(_growing.discard)


async def _grow(sandbox: Sandbox, pool_id: str) -> None:
    """Grow the pool to its lower bound, some time after the write that set it, as the autoscaler does.

    Source: MicrosoftDocs/azure-docs#78911
    """
    await asyncio.sleep(_SCALE_SECONDS)
    pool = sandbox.store.get(pool_id)
    if pool and (pool["properties"].get("count") or 0) < (pool["properties"].get("minCount") or 0):
        pool["properties"]["count"] = pool["properties"]["minCount"]
        sandbox.store.put(pool_id, pool)
        _change_list(sandbox, pool_id, _profile(pool))


async def _delete_pool(sandbox: Sandbox, pool_id: str, body: Body) -> None:
    """Source: pulumi/pulumi-azure-native#4264 (the cluster lists every child)"""
    _change_list(sandbox, pool_id, None)


def _check_deletion(sandbox: Sandbox, pool_id: str, body: Body) -> None:
    """Refuse to delete the last pool, or the last one of mode System.

    Source: pulumi/pulumi-azure-native#1575; Azure/aks-engine#542;
    MicrosoftDocs/azure-aks-docs articles/aks/use-system-pools.md
    """
    others = [
        pool
        for other, pool in sandbox.store.below(pool_id.rpartition("/")[0])
        if other.lower() != pool_id.lower() and pool["type"] == POOL
    ]
    if not others:
        raise CloudError(400, "OperationNotAllowed", "There has to be at least one agent pool.")
    if not any(pool["properties"].get("mode") == "System" for pool in others):
        raise CloudError(400, "OperationNotAllowed", "There has to be at least one system agent pool.")


def _change_list(sandbox: Sandbox, pool_id: str, profile: Body | None) -> None:
    """Set the pool's entry in its cluster's list to `profile`, or remove it if that is None."""
    cluster_id, _, name = pool_id.rpartition("/agentPools/")
    cluster = sandbox.store.get(cluster_id)
    if cluster is None:
        return
    listed = _listed(cluster)
    if profile is None:
        listed.pop(name.lower(), None)
    else:
        listed[name.lower()] = profile
    cluster["properties"]["agentPoolProfiles"] = list(listed.values())
    sandbox.store.put(cluster_id, cluster)


def _listed(cluster: Body) -> dict[str, Any]:
    """The pools of the cluster's own list by lower-case name, in its order."""
    return {_key(profile): profile for profile in cluster["properties"].get("agentPoolProfiles") or []}


def _key(profile: Body) -> str:
    return str(profile["name"]).lower()


def _profile(pool: Body) -> Body:
    return {"name": pool["name"], **pool["properties"], "provisioningState": "Succeeded"}


def _pool(cluster_id: str, name: str) -> ResourceId:
    pool = parse(f"{cluster_id}/agentPools/{name}", resource_types.load())
    assert pool is not None
    return pool


def _rule() -> resource_types.TypeRule:
    return resource_types.load()[POOL.lower()]
