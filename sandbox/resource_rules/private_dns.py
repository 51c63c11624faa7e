"""Private DNS zones, each with the number of its links to networks.

Does not resolve names: `private_endpoints.py` decides whether a name resolves.

Source: Azure/azure-rest-api-specs
specification/privatedns/resource-manager/Microsoft.Network/stable/2024-06-01/examples/PrivateZoneGet.json
"""

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.context import Behaviour, Sandbox

_ZONE = "microsoft.network/privatednszones"
_LINK = f"{_ZONE}/virtualnetworklinks"


def behaviours() -> dict[str, Behaviour]:
    return {_ZONE: Behaviour(on_put=_put_zone), _LINK: Behaviour(on_put=_put, on_delete=_delete)}


async def _put_zone(sandbox: Sandbox, zone_id: str, body: Body) -> None:
    _set(body, [link for _, link in sandbox.store.below(zone_id) if link["type"].lower() == _LINK])


async def _put(sandbox: Sandbox, link_id: str, body: Body) -> None:
    _count(sandbox, link_id, [body])


async def _delete(sandbox: Sandbox, link_id: str, body: Body) -> None:
    _count(sandbox, link_id, [])


def _count(sandbox: Sandbox, link_id: str, changed: list[Body]) -> None:
    """Count the zone's links. `changed`: the link after the request; empty after a deletion."""
    zone_id = link_id.rsplit("/", 2)[0]
    zone = sandbox.store.get(zone_id)
    if zone is None:
        return
    others = [body for other, body in sandbox.store.below(zone_id) if other.lower() != link_id.lower()]
    _set(zone, [body for body in others if body["type"].lower() == _LINK] + changed)
    sandbox.store.put(zone_id, zone)


def _set(zone: Body, links: list[Body]) -> None:
    registering = [link for link in links if dig(link, "properties.registrationEnabled")]
    zone["properties"]["numberOfVirtualNetworkLinks"] = len(links)
    zone["properties"]["numberOfVirtualNetworkLinksWithRegistration"] = len(registering)
