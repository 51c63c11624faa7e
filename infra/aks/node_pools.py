"""Node pools of an AKS cluster: their names, one change at a time, and the drain of pools before their deletion.

AKS deletes a pool with all pods on its nodes: "AKS doesn't perform cordon and drain". It drains nodes only when a pool
is scaled in. So a pool is scaled in node by node before it is deleted, and its pods move to the pool that replaces it.
Does not create pools, and does not know their pods: a deployment with one replica does not answer while it moves.

Source: MicrosoftDocs/azure-aks-docs articles/aks/resize-node-pool.md (no drain before a deletion);
MicrosoftDocs/azure-aks-docs articles/aks/scale-cluster.md ("nodes are carefully cordoned and drained")
"""

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pulumi

from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Inputs, Outputs, replaces, updates
from infra.dynamic.polling import PollInterval
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource

API_VERSION = "2025-09-01"
"""API version of clusters and pools in azure-native 3.29.0."""
_SECONDS = 3600
"""AKS waits up to half an hour for each node that it drains.

Source: MicrosoftDocs/azure-aks-docs articles/aks/resize-node-pool.md ("The default is 30 minutes")
"""
_POLL = PollInterval(quick=0.2, quick_for=30, slow=5)
"""AKS completes some changes at once."""
_READ_ONLY = ("provisioningState", "currentOrchestratorVersion", "nodeImageVersion", "eTag")
_AUTOSCALED = ("enableAutoScaling", "minCount", "maxCount")


class PoolFailed(Exception):
    """AKS refused or failed to change a pool; the message holds its answer."""


def pool_name(prefix: str, *shape: object) -> str:
    """`<prefix>` and a digest of the shape: twelve lower-case letters and digits, AKS's limit for pools on Linux.

    Source: MicrosoftDocs/azure-aks-docs articles/aks/create-node-pools.md (Limitations)
    """
    return prefix + hashlib.sha256(json.dumps(shape).encode()).hexdigest()[: 12 - len(prefix)]


def pools_of(cloud: AzureClients, cluster_id: str) -> dict[str, dict[str, Any]]:
    """Properties of the cluster's pools by name."""
    listed = cloud.resource(f"{cluster_id}/agentPools", API_VERSION) or {}
    return {pool["name"]: pool["properties"] for pool in listed.get("value", [])}


def written(properties: dict[str, Any]) -> dict[str, Any]:
    """Properties of a pool that a write may send: all but the read-only ones."""
    return {name: value for name, value in properties.items() if name not in _READ_ONLY}


def change(cloud: AzureClients, method: str, pool_id: str, properties: dict[str, Any] | None = None) -> None:
    """Send the change and wait for its end. Repeat it while AKS answers 409 because it makes another change."""
    deadline = time.monotonic() + _SECONDS
    body = {"properties": properties} if properties else None
    while (answer := cloud.request(method, pool_id, API_VERSION, body)).status_code == 409 and _is_busy(answer.text):
        _pause(deadline, answer.text)
    if not answer.ok and answer.status_code != 404:
        raise PoolFailed(f"{method} {pool_id}: HTTP {answer.status_code} {answer.text}")
    while (pool := cloud.resource(pool_id, API_VERSION)) is not None:
        state = pool["properties"].get("provisioningState")
        if state in ("Failed", "Canceled"):
            raise PoolFailed(f"{method} {pool_id} ended as {state}; `az aks nodepool show` prints the reason")
        if state == "Succeeded" and method == "PUT":
            return
        _pause(deadline, f"{pool_id} is {state}")
    if method == "PUT":
        raise PoolFailed(f"{pool_id} was created and then not found")


def wait_for_cluster(cloud: AzureClients, cluster_id: str) -> None:
    """Wait for the changes that AKS makes to a cluster by itself: it installs add-ons in the background.

    Source: Azure/telescope#1213 (`PutExtensionAddonHandler` refuses a pool)
    """
    deadline = time.monotonic() + _SECONDS
    while cluster := cloud.resource(cluster_id, API_VERSION):
        state = cluster["properties"].get("provisioningState")
        if state not in ("Creating", "Updating", "Upgrading"):
            return
        _pause(deadline, f"{cluster_id} is {state}")


def drain(cloud: AzureClients, pool_id: str, properties: dict[str, Any]) -> None:
    """Scale the pool in to zero nodes, one at a time. It becomes a user pool, because a system pool keeps one node.

    AKS ends the operation when the node is gone, not when the moved pods are ready. So the drain waits as long again
    before it removes the next node.

    Source: MicrosoftDocs/azure-aks-docs articles/aks/use-system-pools.md (limits, change of a pool's mode)
    """
    fixed = {name: value for name, value in written(properties).items() if name not in _AUTOSCALED}
    for count in reversed(range(int(properties.get("count") or 0))):
        began = time.monotonic()
        change(cloud, "PUT", pool_id, {**fixed, "mode": "User", "enableAutoScaling": False, "count": count})
        if count:
            time.sleep(time.monotonic() - began)


def _is_busy(refusal: str) -> bool:
    """Source: Azure/terraform-azurerm-avm-ptn-aks-production#25; Azure/terraform-azurerm-aks#604 (EtagMismatch)"""
    return "is in progress" in refusal


def _pause(deadline: float, reason: str) -> None:
    if time.monotonic() > deadline:
        raise PoolFailed(f"not finished within {_SECONDS // 60} minutes: {reason}")
    _POLL.pause(deadline - _SECONDS)


class PoolDrainInputs(Inputs):
    cluster_id: InputField[str] = replaces()
    cluster_uid: InputField[str] = replaces()
    pool: InputField[str] = updates()
    prefix: InputField[str] = updates()
    minimum: InputField[int] = updates()


class _PoolDrainProvider(ReleaseProvider[PoolDrainInputs, Outputs]):
    def create_object(self, inputs: PoolDrainInputs) -> Creation[Outputs]:
        self._settle(inputs)
        return Creation(f"{inputs.cluster_id}/drained", Outputs())

    def read_object(self, state: ResourceState[PoolDrainInputs, Outputs]) -> PoolDrainInputs | None:
        """Gone if another pool of the prefix has nodes, left by an interrupted `up`: the next `up` drains it."""
        others = _others(AzureClients.discover(), state.inputs)
        return None if any(properties.get("count") for _, properties in others) else state.inputs

    def update_object(self, state: ResourceState[PoolDrainInputs, Outputs], inputs: PoolDrainInputs) -> Outputs:
        self._settle(inputs)
        return state.outputs

    def _settle(self, inputs: PoolDrainInputs) -> None:
        _wait_for_nodes(inputs)
        _drain_others(inputs)


def _wait_for_nodes(inputs: PoolDrainInputs) -> None:
    """Wait until the autoscaler has brought the pool to its lower bound, some time after the write that raised it.

    Source: MicrosoftDocs/azure-docs#78911
    """
    cloud, deadline = AzureClients.discover(), time.monotonic() + _SECONDS
    while pool := pools_of(cloud, inputs.cluster_id).get(inputs.pool):
        if (count := int(pool.get("count") or 0)) >= inputs.minimum:
            return
        _pause(deadline, f"the pool {inputs.pool} has {count} of at least {inputs.minimum} nodes")
    raise PoolFailed(f"the pool {inputs.pool} of {inputs.cluster_id} was created and then not found")


def _drain_others(inputs: PoolDrainInputs) -> None:
    cloud = AzureClients.discover()
    for name, properties in _others(cloud, inputs):
        pulumi.log.info(f"draining the pool {name}, which {inputs.pool} replaces")
        drain(cloud, f"{inputs.cluster_id}/agentPools/{name}", properties)


def _others(cloud: AzureClients, inputs: PoolDrainInputs) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, properties in pools_of(cloud, inputs.cluster_id).items():
        if name.startswith(inputs.prefix) and name != inputs.pool:
            yield name, properties


class PoolDrain(
    DynamicResource[PoolDrainInputs], module="containerservice", name="PoolDrain", provider=_PoolDrainProvider
):
    """Drains every pool of `prefix` but `pool`, once `pool` has `minimum` nodes: they are of an earlier shape.

    Does not delete them: the engine does, at the end of the same `up`.
    """
