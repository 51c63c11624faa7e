"""The subscription's regions, resource providers, VM sizes, quota and permissions, from `offerings.yaml`.

The vCPU in use are those of the deployed machines, on top of `used` in the table. Enforces nothing: a machine beyond
the quota is made all the same.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.arm.resource_types import TypeRule
from sandbox.arm.store import Body
from sandbox.arm.subscriptions import PATH, admit, table
from sandbox.context import Machines, Sandbox


def routes(
    sandbox: Sandbox, rules: Mapping[str, TypeRule], machines: Iterable[Callable[[], Iterable[Machines]]]
) -> list[BaseRoute]:
    """`machines` are asked, at each request, for all that are deployed."""
    registered: set[str] = set()

    def provider(namespace: str) -> Body:
        """Those of the table of types, and any other that is asked for by name."""
        known = table(sandbox)
        types = [
            {"resourceType": rule.type.split("/", 1)[1], "apiVersions": [rule.api_version]}
            | {"locations": _locations(rule, known)}
            for rule in rules.values()
            if _namespace(rule).lower() == namespace.lower() and not rule.left_out
            if rule.type not in known["unlisted"]
        ]
        state = "Registered" if namespace in registered else known["unregistered"].get(namespace, "Registered")
        shown = {"namespace": namespace, "registrationState": state, "resourceTypes": types}
        return {"id": f"/subscriptions/{sandbox.identity.subscription_id}/providers/{namespace}", **shown}

    # Source: Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json (`Providers_List`,
    # `Providers_Get`, `Providers_Register`)
    async def providers(request: Request) -> Response:
        admit(sandbox, request)
        namespace = request.path_params.get("namespace")
        if namespace and request.method == "POST":
            registered.add(namespace)
        if namespace:
            return JSONResponse(provider(namespace))
        return JSONResponse(
            {"value": [provider(name) for name in sorted({_namespace(rule) for rule in rules.values()})]}
        )

    # Source: azure-mgmt-compute==39.0.0 azure/mgmt/compute/models/_models.py (`ResourceSku`)
    async def sizes(request: Request) -> Response:
        admit(sandbox, request)
        known = table(sandbox)
        asked = re.search(r"location eq '([^']+)'", request.query_params.get("$filter", ""))
        regions = [name for name in known["regions"] if not asked or name == asked[1]]
        found = [_size(name, size, region) for name, size in known["sizes"].items() if size for region in regions]
        return JSONResponse({"value": found})

    # Source: azure-mgmt-compute==39.0.0 azure/mgmt/compute/models/_models.py (`Usage`)
    async def usages(request: Request) -> Response:
        admit(sandbox, request)
        known, region = table(sandbox), request.path_params["location"].replace(" ", "").lower()
        used = _used(known, (group for ask in machines for group in ask() if group.location == region))
        found = [
            {"unit": "Count", "currentValue": usage["used"] + used[name], "limit": usage["limit"]}
            | {"name": {"value": name, "localizedValue": usage["called"]}}
            for name, usage in known["usages"].items()
        ]
        return JSONResponse({"value": found})

    # Source: Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/subscriptions/models.tsp (`Location`)
    async def locations(request: Request) -> Response:
        admit(sandbox, request)
        own = f"/subscriptions/{sandbox.identity.subscription_id}/locations"
        found = [
            {"id": f"{own}/{name}", "name": name, "type": "Region", "displayName": shown, "regionalDisplayName": shown}
            | {"metadata": {"regionType": "Physical", "regionCategory": "Recommended"}}
            for name, shown in table(sandbox)["regions"].items()
        ]
        return JSONResponse({"value": found})

    # Source: azure-mgmt-authorization==4.0.0 azure/mgmt/authorization/v2022_04_01/operations/_permissions_operations.py
    async def permissions(request: Request) -> Response:
        admit(sandbox, request)
        return JSONResponse({"value": table(sandbox)["permissions"]})

    return [
        Route(f"{PATH}/locations", locations),
        Route(f"{PATH}/providers", providers),
        Route(f"{PATH}/providers/Microsoft.Compute/skus", sizes),
        Route(f"{PATH}/providers/Microsoft.Compute/locations/{{location}}/usages", usages),
        Route(f"{PATH}/providers/{{namespace}}", providers),
        Route(f"{PATH}/providers/{{namespace}}/register", providers, methods=["POST"]),
        Route("/subscriptions/{scope:path}/providers/Microsoft.Authorization/permissions", permissions),
    ]


def _namespace(rule: TypeRule) -> str:
    return rule.type.split("/")[0]


def _locations(rule: TypeRule, known: Mapping[str, Any]) -> list[str]:
    """Display names, as Azure lists them; none for what lies in no region."""
    absent = known["absent"].get(rule.type, ())
    return [shown for name, shown in known["regions"].items() if rule.location != "none" and name not in absent]


def _used(known: Mapping[str, Any], deployed: Iterable[Machines]) -> Counter[str]:
    """vCPU of the deployed machines by quota: each family's and the region's, or that of spot machines alone."""
    sizes = {name.lower(): size for name, size in known["sizes"].items() if size}
    used = Counter[str]()
    for group in deployed:
        if size := sizes.get(group.size.lower()):
            for quota in ("lowPriorityCores",) if group.spot else ("cores", size["family"]):
                used[quota] += group.count * size["vcpus"]
    return used


def _size(name: str, size: Mapping[str, Any], region: str) -> Body:
    capabilities = {"vCPUs": size["vcpus"], "MemoryGB": size["memory"]}
    tier, _, short = name.partition("_")
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "tier": tier,
        "size": short,
        "family": size["family"],
        "locations": [region],
        "locationInfo": [{"location": region, "zones": size["zones"], "zoneDetails": []}],
        "capabilities": [{"name": key, "value": str(value)} for key, value in capabilities.items()],
        "restrictions": size.get("restrictions", []),
    }
