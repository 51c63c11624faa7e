"""The cluster's system pool: AKS creates it with the cluster, and after that this resource changes it.

The body of a new cluster must contain a system pool. azure-native cannot adopt that pool, and cannot change it in the
body without sending every other pool, too (pulumi/pulumi-azure-native#4264). So this resource adopts it. It also
restores the pool after every write of the cluster, which sends the pools as the engine recorded them. Another number
of nodes scales the pool. Another shape (size, zones, network) creates a pool with another name, and then drains and
deletes the old one, so that the cluster always has a system pool. Does not delete the pool: AKS refuses to delete the
last system pool (MicrosoftDocs/azure-aks-docs articles/aks/use-system-pools.md), and deletes it with the cluster.
"""

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.aks.node_pools import API_VERSION, change, drain, pools_of, wait_for_cluster, written
from infra.cloud.clients import AzureClients
from infra.dynamic.provider import ReleaseProvider, gone

_PREFIX = "system"


class _SystemPoolProvider(ReleaseProvider):
    identity = ("cluster_id", "cluster_uid")
    inputs = ("pool", "count", "cluster_etag")
    optional = ("shape",)

    def create(self, props: dict[str, Any]) -> CreateResult:
        _converge(props)
        return CreateResult(f"{props['cluster_id']}/agentPools", props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        cloud, cluster_id = AzureClients.discover(), props["cluster_id"]
        pool = cloud.resource(f"{cluster_id}/agentPools/{props['pool']}", API_VERSION)
        cluster = cloud.resource(cluster_id, API_VERSION)
        if pool is None or cluster is None:
            return gone()
        return ReadResult(id_, {**props, "count": pool["properties"]["count"], "cluster_etag": cluster.get("eTag")})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        _converge(news)
        return UpdateResult(news)


def _converge(props: dict[str, Any]) -> None:
    """Create or scale the pool first, then drain and delete system pools of an earlier shape."""
    cloud, pools, count = AzureClients.discover(), f"{props['cluster_id']}/agentPools", int(props["count"])
    existing = pools_of(cloud, props["cluster_id"]).get(props["pool"], {})
    if (existing.get("count"), existing.get("provisioningState")) != (count, "Succeeded"):
        shape = {name: value for name, value in props["shape"].items() if value is not None}
        change(cloud, "PUT", f"{pools}/{props['pool']}", {**(written(existing) or shape), "count": count})
    for name, properties in pools_of(cloud, props["cluster_id"]).items():
        if name.startswith(_PREFIX) and name != props["pool"]:
            drain(cloud, f"{pools}/{name}", properties)
            change(cloud, "DELETE", f"{pools}/{name}")
    wait_for_cluster(cloud, props["cluster_id"])


class SystemPool(Resource, module="containerservice", name="SystemPool"):
    def __init__(
        self,
        name: str,
        *,
        cluster_id: pulumi.Input[str],
        cluster_uid: pulumi.Input[str],
        cluster_etag: pulumi.Input[str],
        pool: str,
        count: int,
        shape: dict[str, Any],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`shape`: the pool's ARM properties without its number of nodes. `pool`: its name, from `pool_name`."""
        props = {
            "cluster_id": cluster_id,
            "cluster_uid": cluster_uid,
            "cluster_etag": cluster_etag,
            "pool": pool,
            "count": count,
            "shape": shape,
        }
        super().__init__(_SystemPoolProvider(), name, props, opts)
