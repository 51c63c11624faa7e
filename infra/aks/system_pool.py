"""The cluster's system pool: AKS creates it with the cluster, and after that this resource changes it.

The body of a new cluster must contain a system pool. azure-native cannot adopt that pool, and cannot change it in the
body without sending every other pool, too (pulumi/pulumi-azure-native#4264). So this resource adopts it. It also
restores the pool after every write of the cluster, which sends the pools as the engine recorded them. Another number
of nodes scales the pool. Another shape (size, zones, network) creates a pool with another name, and then drains and
deletes the old one, so that the cluster always has a system pool. Does not delete the pool: AKS refuses to delete the
last system pool (MicrosoftDocs/azure-aks-docs articles/aks/use-system-pools.md), and deletes it with the cluster.
"""

from collections.abc import Mapping
from dataclasses import replace

from infra.aks.node_pools import API_VERSION, change, drain, pools_of, wait_for_cluster, written
from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Inputs, Outputs, not_compared, replaces, updates
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource

_PREFIX = "system"


class SystemPoolInputs(Inputs):
    cluster_id: InputField[str] = replaces()
    cluster_uid: InputField[str] = replaces()
    cluster_etag: InputField[str | None] = updates()
    pool: InputField[str] = updates()
    """Name, from `pool_name`."""
    count: InputField[int] = updates()
    shape: InputField[Mapping[str, object]] = not_compared()
    """The pool's ARM properties without its number of nodes."""


class _SystemPoolProvider(ReleaseProvider[SystemPoolInputs, Outputs]):
    def create_object(self, inputs: SystemPoolInputs) -> Creation[Outputs]:
        _converge(inputs)
        return Creation(f"{inputs.cluster_id}/agentPools", Outputs())

    def read_object(self, state: ResourceState[SystemPoolInputs, Outputs]) -> SystemPoolInputs | None:
        cloud, cluster_id = AzureClients.discover(), state.inputs.cluster_id
        pool = cloud.resource(f"{cluster_id}/agentPools/{state.inputs.pool}", API_VERSION)
        cluster = cloud.resource(cluster_id, API_VERSION)
        if pool is None or cluster is None:
            return None
        return replace(state.inputs, count=pool["properties"]["count"], cluster_etag=cluster.get("eTag"))

    def update_object(self, state: ResourceState[SystemPoolInputs, Outputs], inputs: SystemPoolInputs) -> Outputs:
        _converge(inputs)
        return state.outputs


def _converge(inputs: SystemPoolInputs) -> None:
    """Create or scale the pool first, then drain and delete system pools of an earlier shape."""
    cloud, pools, count = AzureClients.discover(), f"{inputs.cluster_id}/agentPools", inputs.count
    existing = pools_of(cloud, inputs.cluster_id).get(inputs.pool, {})
    if (existing.get("count"), existing.get("provisioningState")) != (count, "Succeeded"):
        shape = {name: value for name, value in inputs.shape.items() if value is not None}
        change(cloud, "PUT", f"{pools}/{inputs.pool}", {**(written(existing) or shape), "count": count})
    for name, properties in pools_of(cloud, inputs.cluster_id).items():
        if name.startswith(_PREFIX) and name != inputs.pool:
            drain(cloud, f"{pools}/{name}", properties)
            change(cloud, "DELETE", f"{pools}/{name}")
    wait_for_cluster(cloud, inputs.cluster_id)


class SystemPool(
    DynamicResource[SystemPoolInputs], module="containerservice", name="SystemPool", provider=_SystemPoolProvider
):
    """The adopted system pool."""
