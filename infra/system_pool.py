"""The cluster's system pool: AKS creates it with the cluster, and after that this resource changes it.

The cluster has to be created with a system pool inside its own body, and azure-native can neither take that one over
nor change it there without sending every other pool, too (pulumi/pulumi-azure-native#4264). So this resource adopts it,
and restores it after every write of the cluster, which sends the pools as the engine recorded them:
another number of nodes scales the pool, another shape (size, zones, network) creates a pool with another name and
deletes the old one, so that the cluster always has one. Does not delete the pool: AKS refuses to delete the last system
pool (MicrosoftDocs/azure-aks-docs articles/aks/use-system-pools.md), and it goes with the cluster.
"""

import hashlib
import json
import time
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.release.cloud import Cloud
from infra.release.dynamic import ReleaseProvider, gone

# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/containerservice/agent_pool.py
_API_VERSION = "2025-09-01"
_PREFIX = "system"
_SECONDS = 3600
"""AKS drains every node of a pool that it deletes."""
# Source: azure-mgmt-containerservice==41.8.0 azure/mgmt/containerservice/models/_models.py
# (`ManagedClusterAgentPoolProfileProperties`)
_READ_ONLY = ("provisioningState", "currentOrchestratorVersion", "nodeImageVersion", "eTag")
_QUICK_SECONDS, _PAUSE_SECONDS = 30, 5
"""AKS answers some changes at once: ask often at first, then every five seconds."""


class PoolFailed(Exception):
    """AKS refused or failed to change a pool; the message holds its answer."""


def pool_name(prefix: str, *shape: object) -> str:
    """`<prefix>` and a digest of the shape: twelve lower-case letters and digits, which is all that AKS takes on Linux.

    Source: MicrosoftDocs/azure-aks-docs articles/aks/create-node-pools.md (Limitations)
    """
    return prefix + hashlib.sha256(json.dumps(shape).encode()).hexdigest()[: 12 - len(prefix)]


class _SystemPoolProvider(ReleaseProvider):
    identity = ("cluster_id", "cluster_uid")
    inputs = ("pool", "count", "cluster_etag")

    def create(self, props: dict[str, Any]) -> CreateResult:
        _converge(props)
        return CreateResult(f"{props['cluster_id']}/agentPools", props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        cloud, cluster_id = Cloud.discover(), props["cluster_id"]
        pool = cloud.resource(f"{cluster_id}/agentPools/{props['pool']}", _API_VERSION)
        cluster = cloud.resource(cluster_id, _API_VERSION)
        if pool is None or cluster is None:
            return gone()
        return ReadResult(id_, {**props, "count": pool["properties"]["count"], "cluster_etag": cluster.get("eTag")})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        _converge(news)
        return UpdateResult(news)


def _converge(props: dict[str, Any]) -> None:
    """The pool with its nodes first; only then do system pools of an earlier shape go."""
    cloud, pools, count = Cloud.discover(), f"{props['cluster_id']}/agentPools", int(props["count"])
    held = cloud.resource(f"{pools}/{props['pool']}", _API_VERSION)
    body = {name: value for name, value in held["properties"].items() if name not in _READ_ONLY} if held else {}
    settled = held and (body.get("count"), held["properties"].get("provisioningState")) == (count, "Succeeded")
    if not settled:
        shape = {name: value for name, value in props["shape"].items() if value is not None}
        wanted = {**(body or shape), "count": count}
        _change(cloud, "PUT", f"{pools}/{props['pool']}", {"properties": wanted})
    for pool in (cloud.resource(pools, _API_VERSION) or {}).get("value", []):
        ours = pool["name"].startswith(_PREFIX) and pool["properties"].get("mode") == "System"
        if ours and pool["name"] != props["pool"]:
            _change(cloud, "DELETE", f"{pools}/{pool['name']}")


def _change(cloud: Cloud, method: str, pool_id: str, body: dict[str, Any] | None = None) -> None:
    """Send the change and wait for its end. AKS makes one change of a cluster at a time and answers 409 meanwhile."""
    deadline = time.monotonic() + _SECONDS
    while (answer := cloud.request(method, pool_id, _API_VERSION, body)).status_code == 409:
        _pause(deadline, answer.text)
    if not answer.ok and answer.status_code != 404:
        raise PoolFailed(f"{method} {pool_id}: HTTP {answer.status_code} {answer.text}")
    while (pool := cloud.resource(pool_id, _API_VERSION)) is not None:
        state = pool["properties"].get("provisioningState")
        if state in ("Failed", "Canceled"):
            raise PoolFailed(f"{method} {pool_id} ended as {state}; az aks nodepool show has the reason")
        if state == "Succeeded" and method == "PUT":
            return
        _pause(deadline, f"{pool_id} is {state}")
    if method == "PUT":
        raise PoolFailed(f"{pool_id} was created and then not found")


def _pause(deadline: float, reason: str) -> None:
    if time.monotonic() > deadline:
        raise PoolFailed(f"not done within {_SECONDS // 60} minutes: {reason}")
    waited = time.monotonic() - (deadline - _SECONDS)
    time.sleep(_PAUSE_SECONDS if waited > _QUICK_SECONDS else 0.2)


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
        """`shape`: the pool's ARM properties but its number of nodes. `pool`: its name, from `pool_name`."""
        props = {
            "cluster_id": cluster_id,
            "cluster_uid": cluster_uid,
            "cluster_etag": cluster_etag,
            "pool": pool,
            "count": count,
            "shape": shape,
        }
        super().__init__(_SystemPoolProvider(), name, props, opts)
