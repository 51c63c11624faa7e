"""The workspace of a request to Databricks: its id, its caller, and the places of its records and files.

Every answer is JSON; errors have Databricks' shape, `{"error_code", "message"}`. Every caller with a token of this
sandbox's Entra for Databricks is an admin. The sandbox has no users or groups; any name may receive permissions.
"""

import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sandbox import caller_network
from sandbox.arm.resource_body import dig
from sandbox.arm.store import ResourceStore
from sandbox.context import CloudError, Sandbox
from sandbox.identity import entra

Json = dict[str, Any]
# Source: azure-mgmt-databricks==3.0.0 azure/mgmt/databricks/operations/_operations.py (Microsoft.Databricks/workspaces)
_TYPE = "/providers/microsoft.databricks/workspaces/"
_last_id = 0


@dataclass(frozen=True)
class Workspace:
    sandbox: Sandbox
    records: ResourceStore
    resource_id: str
    caller: str
    """Application id of the caller."""

    def record(self, *path: str) -> str:
        return "/".join((self.resource_id, *path))

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(self.resource_id.lower().encode()).hexdigest()[:8]
        return self.sandbox.folder / "databricks" / f"{self.resource_id.rpartition('/')[2]}-{digest}"

    @property
    def network(self) -> str | None:
        """Id of the virtual network of its clusters; None for a network that Databricks manages."""
        body = self.sandbox.store.get(self.resource_id)
        network_id: str | None = dig(body, "properties.parameters.customVirtualNetworkId.value")
        return network_id


class _OutsideNetwork(Exception):
    """The workspace's network refuses the caller: the answer is a line of text, not Databricks' JSON."""


Handler = Callable[[Workspace, Request], Awaitable[Json | Response]]


def endpoint(sandbox: Sandbox, records: ResourceStore, answer: Handler) -> Callable[[Request], Awaitable[Response]]:
    # Source: databricks-sdk==0.156.0 databricks/sdk/errors/deserializer.py (_StandardErrorDeserializer: error_code,
    # message); databricks-sdk==0.156.0 databricks/sdk/errors/platform.py
    async def handle(request: Request) -> Response:
        try:
            result = await answer(_open(sandbox, records, request), request)
            return result if isinstance(result, Response) else JSONResponse(result)
        except CloudError as error:
            return JSONResponse({"error_code": error.code, "message": error.message}, error.status)
        except _OutsideNetwork as error:
            return PlainTextResponse(str(error), 403)
        except ValueError as error:
            return JSONResponse({"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)}, 400)

    return handle


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.put_secret: "Throws MALFORMED_REQUEST
# if request is incorrectly formatted")
async def body_of(request: Request) -> Json:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise CloudError(400, "MALFORMED_REQUEST", f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise CloudError(400, "MALFORMED_REQUEST", "The body is not a JSON object.")
    return body


def now() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> int:
    """A unique, growing number that is never reused, also after a restart, and exact as a JSON number."""
    global _last_id
    _last_id = max(_last_id + 1, time.time_ns() // 1000)
    return _last_id


# Source: databricks-sdk==0.156.0 databricks/sdk/errors/platform.py (401, 403); databricks-sdk==0.156.0
# databricks/sdk/azure.py (X-Databricks-Azure-Workspace-Resource-Id)
# No source: send a request with an invalid Entra token, and with the resource id of a workspace that does not exist,
# and read the codes.
def _open(sandbox: Sandbox, records: ResourceStore, request: Request) -> Workspace:
    if "authorization" not in request.headers:
        raise CloudError(401, "UNAUTHENTICATED", "Credential was not sent: the request has no bearer token.")
    try:
        caller = entra.require_token(sandbox, request, entra.DATABRICKS)["appid"]
    except CloudError as error:
        raise CloudError(403, "PERMISSION_DENIED", f"Invalid access token. {error.message}") from error
    management = request.headers.get("x-databricks-azure-sp-management-token")
    # Source: databricks/databricks-sdk-py databricks/sdk/credentials_provider.py (`azure_service_principal`);
    # MicrosoftDocs/azure-docs#105105 (the audience).
    # No source: that Databricks refuses a token for the other audience of Resource Manager;
    # `databricks current-user me` with such a header would settle it.
    if management is not None and not entra.is_for(sandbox, management, entra.management_audience(sandbox)):
        message = "X-Databricks-Azure-SP-Management-Token is not a valid token for Azure's management endpoint"
        raise CloudError(403, "PERMISSION_DENIED", f"{message}, {entra.management_audience(sandbox)}.")
    wanted = request.headers.get("x-databricks-azure-workspace-resource-id", "").rstrip("/").lower()
    every = [found for found, _ in sandbox.store.below("/subscriptions") if is_workspace(found)]
    found = [resource_id for resource_id in every if wanted in ("", resource_id.lower())]
    if not found:
        raise CloudError(404, "RESOURCE_DOES_NOT_EXIST", f"There is no Databricks workspace {wanted!r}.")
    if len(found) > 1:
        message = "There is more than one workspace: send the header X-Databricks-Azure-Workspace-Resource-Id."
        raise CloudError(400, "INVALID_PARAMETER_VALUE", message)
    _require_admitted(sandbox, request, found[0])
    return Workspace(sandbox, records, found[0], caller)


def _require_admitted(sandbox: Sandbox, request: Request, resource_id: str) -> None:
    """Source: fgarofalo56/csa-inabox#4765 (what a hosted runner got); fgarofalo56/csa-inabox#1466"""
    body = sandbox.store.get(resource_id) or {}
    if not caller_network.admits(sandbox, request, body, "databricks_ui_api"):
        number = body["properties"].get("workspaceId")
        raise _OutsideNetwork(f"Unauthorized network access to workspace: {number}")


def is_workspace(resource_id: str) -> bool:
    _, found, name = resource_id.lower().partition(_TYPE)
    return bool(found) and "/" not in name
