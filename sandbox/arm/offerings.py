"""The subscription's regions, resource providers, VM sizes, quota and permissions, from `offerings.yaml`.

The vCPU in use are those of the deployed machines plus `used` in the table. Enforces nothing: a machine above the quota
is created as well.
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


class Offerings:
    """Routes that answer questions about the subscription. The table is read at each request."""

    def __init__(
        self, sandbox: Sandbox, rules: Mapping[str, TypeRule], sources: Iterable[Callable[[], Iterable[Machines]]]
    ) -> None:
        """`sources` return the deployed machines; each is called at every request for the usage."""
        self._sandbox, self._rules, self._sources = sandbox, rules, list(sources)
        self._registered: set[str] = set()

    def routes(self) -> list[BaseRoute]:
        compute = f"{PATH}/providers/Microsoft.Compute"
        return [
            Route(f"{PATH}/locations", self._list_locations),
            Route(f"{PATH}/providers", self._list_providers),
            Route(f"{compute}/skus", self._list_sizes),
            Route(f"{compute}/locations/{{location}}/usages", self._list_usages),
            Route(f"{PATH}/providers/{{namespace}}", self._get_provider),
            Route(f"{PATH}/providers/{{namespace}}/register", self._register_provider, methods=["POST"]),
            Route("/subscriptions/{scope:path}/providers/Microsoft.Authorization/permissions", self._list_permissions),
        ]

    # Source: Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json (`Providers_List`)
    async def _list_providers(self, request: Request) -> Response:
        admit(self._sandbox, request)
        namespaces = sorted({_namespace(rule) for rule in self._rules.values()})
        offered = table(self._sandbox)
        return JSONResponse({"value": [self._provider(namespace, offered) for namespace in namespaces]})

    # Source: Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json (`Providers_Get`)
    async def _get_provider(self, request: Request) -> Response:
        admit(self._sandbox, request)
        return JSONResponse(self._provider(request.path_params["namespace"], table(self._sandbox)))

    # Source: Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json
    # (`Providers_Register`)
    async def _register_provider(self, request: Request) -> Response:
        admit(self._sandbox, request)
        self._registered.add(request.path_params["namespace"])
        return JSONResponse(self._provider(request.path_params["namespace"], table(self._sandbox)))

    # Source: azure-mgmt-compute==39.0.0 azure/mgmt/compute/models/_models.py (`ResourceSku`)
    async def _list_sizes(self, request: Request) -> Response:
        admit(self._sandbox, request)
        offered = table(self._sandbox)
        filtered = re.search(r"location eq '([^']+)'", request.query_params.get("$filter", ""))
        regions = [region for region in offered["regions"] if not filtered or region == filtered[1]]
        sizes = [(name, size) for name, size in offered["sizes"].items() if size]
        return JSONResponse({"value": [_size(name, size, region) for name, size in sizes for region in regions]})

    # Source: azure-mgmt-compute==39.0.0 azure/mgmt/compute/models/_models.py (`Usage`)
    async def _list_usages(self, request: Request) -> Response:
        admit(self._sandbox, request)
        offered, region = table(self._sandbox), request.path_params["location"].replace(" ", "").lower()
        deployed = (machines for source in self._sources for machines in source() if machines.location == region)
        used = _used(offered, deployed)
        usages = [
            {"unit": "Count", "currentValue": usage["used"] + used[name], "limit": usage["limit"]}
            | {"name": {"value": name, "localizedValue": usage["called"]}}
            for name, usage in offered["usages"].items()
        ]
        return JSONResponse({"value": usages})

    # Source: Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/subscriptions/models.tsp (`Location`)
    async def _list_locations(self, request: Request) -> Response:
        admit(self._sandbox, request)
        prefix = f"/subscriptions/{self._sandbox.identity.subscription_id}/locations"
        locations = [
            {"id": f"{prefix}/{name}", "name": name, "type": "Region"}
            | {"displayName": display_name, "regionalDisplayName": display_name}
            | {"metadata": {"regionType": "Physical", "regionCategory": "Recommended"}}
            for name, display_name in table(self._sandbox)["regions"].items()
        ]
        return JSONResponse({"value": locations})

    # Source: azure-mgmt-authorization==4.0.0 azure/mgmt/authorization/v2022_04_01/operations/_permissions_operations.py
    async def _list_permissions(self, request: Request) -> Response:
        admit(self._sandbox, request)
        return JSONResponse({"value": table(self._sandbox)["permissions"]})

    def _provider(self, namespace: str, offered: Mapping[str, Any]) -> Body:
        """The provider of this namespace; one that the table of types does not have is returned without types."""
        types = [
            {"resourceType": rule.type.split("/", 1)[1], "apiVersions": [rule.api_version]}
            | {"locations": _locations(rule, offered)}
            for rule in self._rules.values()
            if _namespace(rule).lower() == namespace.lower() and not rule.left_out
            if rule.type not in offered["unlisted"]
        ]
        registered = namespace in self._registered
        state = "Registered" if registered else offered["unregistered"].get(namespace, "Registered")
        return {
            "id": f"/subscriptions/{self._sandbox.identity.subscription_id}/providers/{namespace}",
            "namespace": namespace,
            "registrationState": state,
            "resourceTypes": types,
        }


def _namespace(rule: TypeRule) -> str:
    return rule.type.split("/")[0]


def _locations(rule: TypeRule, offered: Mapping[str, Any]) -> list[str]:
    """Display names, as Azure lists them; none for a type without a location."""
    absent = offered["absent"].get(rule.type, ())
    return [
        display_name
        for name, display_name in offered["regions"].items()
        if rule.location != "none" and name not in absent
    ]


def _used(offered: Mapping[str, Any], deployed: Iterable[Machines]) -> Counter[str]:
    """vCPU of the deployed machines by quota.

    A machine counts in its region's quota and its family's; a spot machine in the quota of spot machines alone.
    """
    sizes = {name.lower(): size for name, size in offered["sizes"].items() if size}
    used = Counter[str]()
    for machines in deployed:
        if size := sizes.get(machines.size.lower()):
            quotas = ("lowPriorityCores",) if machines.spot else ("cores", size["family"])
            for quota in quotas:
                used[quota] += machines.count * size["vcpus"]
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
