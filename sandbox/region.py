"""What the subscription may use and where: resource providers, VM sizes, quota and permissions, as `region.yaml` says.

Tells and does not enforce: a machine beyond the quota is made all the same, and what stands uses none of it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.cloud import Sandbox
from sandbox.resource_body import merge
from sandbox.store import Body
from sandbox.subscriptions import PATH, admit
from sandbox.types import TypeRule

TABLE = Path(__file__).with_name("region.yaml")


def routes(sandbox: Sandbox, rules: Mapping[str, TypeRule]) -> list[BaseRoute]:
    registered: set[str] = set()

    def table() -> dict[str, Any]:
        own = sandbox.folder / TABLE.name
        return merge(yaml.safe_load(TABLE.read_text()), yaml.safe_load(own.read_text()) if own.exists() else {})

    def provider(namespace: str) -> Body:
        """Those of the table of types, and any other that is asked for by name."""
        known = table()
        types = [
            {"resourceType": rule.type.split("/", 1)[1], "apiVersions": [rule.api_version]}
            | {"locations": _locations(rule, known)}
            for rule in rules.values()
            if _namespace(rule).lower() == namespace.lower()
        ]
        state = "Registered" if namespace in registered else known["unregistered"].get(namespace, "Registered")
        shown = {"namespace": namespace, "registrationState": state, "resourceTypes": types}
        return {"id": f"/subscriptions/{sandbox.identity.subscription_id}/providers/{namespace}", **shown}

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

    async def sizes(request: Request) -> Response:
        admit(sandbox, request)
        known = table()
        asked = re.search(r"location eq '([^']+)'", request.query_params.get("$filter", ""))
        regions = [name for name in known["regions"] if not asked or name == asked[1]]
        found = [_size(name, size, region) for name, size in known["sizes"].items() if size for region in regions]
        return JSONResponse({"value": found})

    async def usages(request: Request) -> Response:
        admit(sandbox, request)
        found = [
            {"unit": "Count", "currentValue": usage["used"], "limit": usage["limit"]}
            | {"name": {"value": name, "localizedValue": usage["called"]}}
            for name, usage in table()["usages"].items()
        ]
        return JSONResponse({"value": found})

    async def permissions(request: Request) -> Response:
        admit(sandbox, request)
        return JSONResponse({"value": table()["permissions"]})

    return [
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
