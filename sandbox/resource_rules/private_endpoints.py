"""Private endpoints: how they connect to their target, and whether a name leads to one inside a virtual network.

`private_link` of a type in `resource_types.yaml` has the groups of a target, and the error code of a second,
simultaneous connection. Every connection is approved, because the sandbox has one login, which owns both sides.
Peered networks do not reach each other's endpoints. Does not refuse requests: `caller_network.py` and each service do.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.arm import resource_types
from sandbox.arm.resource_body import dig
from sandbox.arm.resource_id import parse
from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Sandbox

TYPE = "microsoft.network/privateendpoints"
_ZONE_GROUPS = "microsoft.network/privateendpoints/privatednszonegroups"
_LINKS = "microsoft.network/privatednszones/virtualnetworklinks"
_DATABRICKS = "microsoft.databricks/workspaces"
_SECONDS = 0.5
"""Duration of a connection: about a minute on Azure; here long enough that two simultaneous requests overlap."""
_connecting: set[tuple[str, str]] = set()
"""Sandbox folder and target of each connection that is being created or removed."""


def behaviours() -> dict[str, Behaviour]:
    return {TYPE: Behaviour(before_put=_check, on_put=_connect, on_delete=_disconnect)}


def network_of(subnet_id: str | None) -> str | None:
    """Id of a subnet's virtual network."""
    return subnet_id.partition("/subnets/")[0] if subnet_id else None


def reaches(sandbox: Sandbox, network_id: str | None, target_id: str, group: str) -> bool:
    """Whether the target's name resolves, inside the network, to a private endpoint there.

    It does if the endpoint's zone group has all zones of the target's group, and each zone is linked to the network.

    Source: MicrosoftDocs/azure-docs articles/private-link/private-endpoint-dns.md (Virtual network workloads without
    custom DNS server)
    """
    if network_id is None:
        return False
    wanted = {zone.lower() for zone in _private_link(target_id)["groups"].get(group, ())}
    for endpoint_id, body in sandbox.store.below("/subscriptions"):
        if body["type"].lower() != TYPE or not _leads_to(body, target_id, group):
            continue
        if str(network_of(dig(body, "properties.subnet.id"))).lower() != network_id.lower():
            continue
        if dig(body, "properties.provisioningState") == "Succeeded":
            return wanted <= _zones(sandbox, endpoint_id, network_id)
    return False


def has_endpoint(sandbox: Sandbox, target_id: str) -> bool:
    """Whether an endpoint of any network is connected to the target."""
    return any(
        body["type"].lower() == TYPE and dig(body, "properties.provisioningState") == "Succeeded" and target
        for _, body in sandbox.store.below("/subscriptions")
        for target in _targets(body)
        if target == target_id.lower()
    )


def _check(sandbox: Sandbox, endpoint_id: str, sent: Body, existing: Body | None) -> None:
    """Refuse a connection to a target that does not exist, or to a group that it does not have.

    No source: the codes and texts of these two refusals; `az network private-endpoint create` with a wrong
    `--private-connection-resource-id`, and with a wrong `--group-id`, prints them.
    """
    for connection in _connections(sent):
        target_id = str(dig(connection, "properties.privateLinkServiceId"))
        if sandbox.store.get(target_id) is None:
            raise CloudError(400, "InvalidResourceReference", f"The endpoint's target '{target_id}' was not found.")
        known, groups = _private_link(target_id)["groups"], dig(connection, "properties.groupIds") or ()
        shown = f"Private link service connection {endpoint_id}/privateLinkServiceConnections/{connection.get('name')}"
        if not groups:
            message = f"{shown} is missing required parameter 'group Id'."
            # Source: Azure/azure-cli#15136 (code and message)
            raise CloudError(400, "MissingParameterOnPrivateLinkServiceConnection", message)
        if len(groups) > 1:
            message = (
                f"{shown} has the following group Ids: {', '.join(groups)}. Only one group Id is permitted when "
                f"connecting to a first-party resource ({target_id})."
            )
            # Source: DFE-Digital/terraform-azurerm-container-apps-hosting#352 (400, code and message)
            raise CloudError(400, "OnlyOneGroupIdPermitted", message)
        for group in groups:
            if group not in known:
                message = f"'{target_id}' has no group '{group}' to connect to, only {', '.join(known)}."
                raise CloudError(400, "PrivateLinkServiceGroupNotFound", message)


async def _connect(sandbox: Sandbox, endpoint_id: str, body: Body) -> None:
    """Connect the endpoint. A conflict fails the operation after its request was accepted, so clients do not repeat it.

    Source: Azure/bicep-registry-modules#6001; hashicorp/terraform-provider-azurerm
    internal/services/network/private_endpoint_resource.go (`lroFailError`)
    """
    _require_idle_network(sandbox, str(dig(body, "properties.subnet.id")), endpoint_id)
    await _hold(sandbox, body)
    for connection in _connections(body):
        properties = connection["properties"]
        properties["provisioningState"] = "Succeeded"
        properties["privateLinkServiceConnectionState"] = {
            **{"status": "Approved", "description": "", "actionsRequired": "None"},
            **(properties.get("privateLinkServiceConnectionState") or {}),
        }


async def _disconnect(sandbox: Sandbox, endpoint_id: str, body: Body) -> None:
    """Remove the connection, which also changes the target, unless the whole resource group is being deleted.

    No source: that a removal is refused like a creation; deleting two endpoints to one account at once would show it.
    """
    if dig(body, "properties.provisioningState") == "Deleting":
        await _hold(sandbox, body)


async def _hold(sandbox: Sandbox, body: Body) -> None:
    """Change the targets' lists of connections. A target allows one change at a time.

    Source: databricks/terraform-databricks-examples#177; hashicorp/terraform-provider-azurerm#26373;
    Azure/bicep-registry-modules#6001; hashicorp/terraform-provider-azurerm
    internal/services/network/private_endpoint_resource.go (`ConflictError`)
    """
    targets = {(str(sandbox.folder), target) for target in _targets(body)}
    for _, target in targets:
        state = dig(sandbox.store.get(target), "properties.provisioningState")
        if (str(sandbox.folder), target) in _connecting or state in ("Creating", "Updating"):
            rule = _private_link(target)
            reason = rule.get("busy_message", "Another operation on this resource is in progress.")
            message = f"Call to {_kind(target)} failed. Error message: {reason}"
            raise CloudError(409, rule.get("busy", "ConflictError"), message)
    _connecting.update(targets)
    try:
        await asyncio.sleep(_SECONDS)
    finally:
        _connecting.difference_update(targets)


def _require_idle_network(sandbox: Sandbox, subnet_id: str, endpoint_id: str) -> None:
    """Refuse an endpoint while a Databricks workspace joins its network and changes the subnets.

    Source: hashicorp/terraform-provider-azurerm#17649; hashicorp/terraform-provider-azurerm#21293
    """
    network_id = str(network_of(subnet_id)).lower()
    for _, body in sandbox.store.below("/subscriptions"):
        joined = str(dig(body, "properties.parameters.customVirtualNetworkId.value")).lower()
        changing = dig(body, "properties.provisioningState") in ("Creating", "Updating")
        if body["type"].lower() == _DATABRICKS and joined == network_id and changing:
            message = (
                "A retryable error occurred. ReferencedResourceNotProvisioned: "
                f"Cannot proceed with operation because resource {subnet_id} used by resource {endpoint_id} is not in "
                "Succeeded state. Resource is in Updating state and the last operation that updated/is updating the "
                "resource is PutSubnetOperation."
            )
            raise CloudError(409, "RetryableError", message)


def _zones(sandbox: Sandbox, endpoint_id: str, network_id: str) -> set[str]:
    """Names of the zones that have the endpoint's address and are linked to the network."""
    groups = [body for _, body in sandbox.store.below(endpoint_id) if body["type"].lower() == _ZONE_GROUPS]
    configs = [config for body in groups for config in dig(body, "properties.privateDnsZoneConfigs") or ()]
    zone_ids = [str(dig(config, "properties.privateDnsZoneId")) for config in configs]
    return {zone.rpartition("/")[2].lower() for zone in zone_ids if _is_linked(sandbox, zone, network_id)}


def _is_linked(sandbox: Sandbox, zone_id: str, network_id: str) -> bool:
    return any(
        body["type"].lower() == _LINKS and str(dig(body, "properties.virtualNetwork.id")).lower() == network_id.lower()
        for _, body in sandbox.store.below(zone_id)
    )


def _connections(body: Body) -> Iterator[Body]:
    for kind in ("privateLinkServiceConnections", "manualPrivateLinkServiceConnections"):
        yield from dig(body, f"properties.{kind}") or ()


def _targets(body: Body) -> set[str]:
    return {str(dig(connection, "properties.privateLinkServiceId")).lower() for connection in _connections(body)}


def _leads_to(body: Body, target_id: str, group: str) -> bool:
    return any(
        str(dig(connection, "properties.privateLinkServiceId")).lower() == target_id.lower()
        and group in (dig(connection, "properties.groupIds") or ())
        for connection in _connections(body)
    )


def _kind(target_id: str) -> str:
    target = parse(target_id, resource_types.load())
    return target.type if target else target_id


def _private_link(target_id: str) -> Mapping[str, Any]:
    """Rule of the target's type; without a rule no endpoint can connect to it."""
    rule = resource_types.load().get(_kind(target_id).lower())
    return (rule.raw.get("private_link") if rule else None) or {"groups": {}}
