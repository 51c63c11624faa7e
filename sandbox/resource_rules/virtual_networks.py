"""Virtual networks: a network in use, by a resource in a subnet or by a caller inside, cannot be deleted.

Routes, security rules and peerings are only stored.
"""

import json

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Sandbox

TYPE = "microsoft.network/virtualnetworks"


def behaviours() -> dict[str, Behaviour]:
    return {TYPE: Behaviour(before_delete=_require_unused)}


def _require_unused(sandbox: Sandbox, network_id: str, body: Body) -> None:
    """Source: Azure/bicep#13267; hashicorp/terraform-provider-azurerm#688"""
    for resource_id, other in sandbox.store.below("/subscriptions"):
        if not resource_id.lower().startswith(network_id.lower()) and _uses(other, network_id.lower()):
            raise _in_use(resource_id)
    if network_id.lower() in (network.lower() for network in sandbox.callers.values()):
        raise _in_use(f"{network_id.partition('/providers/')[0]}/…/networkInterfaces of a caller inside")


def _uses(body: Body, network_id: str) -> bool:
    """Whether the resource refers to a subnet of the network, or is a Databricks workspace injected into it."""
    joined = str(dig(body, "properties.parameters.customVirtualNetworkId.value")).lower()
    return joined == network_id or f'"{network_id}/subnets/' in json.dumps(body).lower()


def _in_use(user_id: str) -> CloudError:
    """Source: Azure/bicep#13267"""
    message = (
        f"Subnet is in use by {user_id} and cannot be deleted. In order to delete the subnet, delete all the resources "
        "within the subnet. See aka.ms/deletesubnet."
    )
    return CloudError(400, "InUseSubnetCannotBeDeleted", message)
