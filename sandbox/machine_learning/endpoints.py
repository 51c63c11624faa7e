"""Online endpoints: their rules, keys and tokens, and the objects in memory that the router uses.

Keys are in a file that only the owner may read, never in a resource's body. Kubernetes endpoints accept keys or Azure
ML tokens, and refuse Entra tokens and mirrored traffic, as on Azure.
"""

import asyncio
import contextlib
import hmac
import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox import state_files
from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Sandbox
from sandbox.machine_learning.extension import router_url
from sandbox.machine_learning.replicas import Deployment
from sandbox.machine_learning.workspace import WORKSPACE, kubernetes_compute, private_router

ENDPOINT = f"{WORKSPACE}/onlineendpoints"
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-quotas.md
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
_FILE = "endpoint.json"
_REMEMBERED = ("compute", "auth_mode", "traffic", "keys")
_TOKEN_SECONDS, _REFRESH_SECONDS = 3600, 1800


@dataclass
class Endpoint:
    resource_id: str
    folder: Path
    compute: str = ""
    auth_mode: str = "Key"
    traffic: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    network: str | None = None
    """The virtual network from which its router can be reached; None for a public address."""
    deployments: dict[str, Deployment] = field(default_factory=dict)
    """Deployments that have been ready, by lower-case name."""

    @property
    def name(self) -> str:
        return self.resource_id.rpartition("/")[2]

    def admits(self, credential: str) -> bool:
        if self.auth_mode == "Key":
            return any(hmac.compare_digest(key.encode(), credential.encode()) for key in self.keys.values())
        try:
            jwt.decode(credential, self.keys["primaryKey"], algorithms=["HS256"], audience=self.name)
        except jwt.InvalidTokenError:
            return False
        return True

    def remember(self) -> None:
        """Write the values that a restart needs, in one step, readable by the owner only."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state_files.write(self.folder / _FILE, json.dumps({name: getattr(self, name) for name in _REMEMBERED}))


class Fleet:
    """All endpoints of a sandbox, by lower-case name, and the common connection pool to their replicas."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        # Replicas use plain HTTP on loopback, without certificates. A transport without a client around it has no
        # proxies, redirects or cookies, which saves a fifth of the router's time.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60)
        self.transport = httpx.AsyncHTTPTransport(verify=False, limits=limits)


_fleets: dict[Path, Fleet] = {}


def fleet(sandbox: Sandbox) -> Fleet:
    if sandbox.folder not in _fleets:
        _fleets[sandbox.folder] = Fleet()
    return _fleets[sandbox.folder]


async def disband(sandbox: Sandbox) -> None:
    """Stop every replica; the endpoints stay in the store and on disk."""
    if disbanded := _fleets.pop(sandbox.folder, None):
        endpoints = disbanded.endpoints.values()
        deployments = [deployment for endpoint in endpoints for deployment in endpoint.deployments.values()]
        await asyncio.gather(*(deployment.stop(drain=False) for deployment in deployments))
        await disbanded.transport.aclose()


def behaviours() -> dict[str, Behaviour]:
    actions = {"listkeys": _list_keys, "regeneratekeys": _regenerate_keys, "token": _token}
    return {ENDPOINT: Behaviour(on_put=_put, on_delete=_delete, actions=actions)}


def recall(sandbox: Sandbox, endpoint_id: str) -> Endpoint | None:
    """Load an endpoint after a restart, without its deployments. None if its creation was never finished.

    Raises `state_files.Unreadable`.
    """
    folder = _folder(sandbox, endpoint_id)
    with contextlib.suppress(FileNotFoundError):
        content = state_files.read_json(folder / _FILE, *_REMEMBERED)
        endpoint = Endpoint(endpoint_id, folder, **{name: content[name] for name in _REMEMBERED})
        endpoint.network = private_router(sandbox, endpoint.compute)
        return fleet(sandbox).endpoints.setdefault(endpoint.name.lower(), endpoint)
    return None


def find(sandbox: Sandbox, endpoint_id: str) -> Endpoint:
    endpoint = fleet(sandbox).endpoints.get(endpoint_id.rpartition("/")[2].lower())
    if endpoint is None or endpoint.resource_id.lower() != endpoint_id.lower():
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
        # (`ResourceNotFound`)
        raise CloudError(404, "ResourceNotFound", f"The online endpoint '{endpoint_id}' does not exist.")
    return endpoint


# Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (`OnlineEndpointProperties`)
async def _put(sandbox: Sandbox, endpoint_id: str, body: Body) -> None:
    properties, name = body["properties"], endpoint_id.rpartition("/")[2]
    endpoints = fleet(sandbox).endpoints
    known = endpoints.get(name.lower()) or recall(sandbox, endpoint_id)
    endpoint = known or Endpoint(endpoint_id, _folder(sandbox, endpoint_id))
    if endpoint.resource_id.lower() != endpoint_id.lower():
        message = (
            f"The endpoint name '{name}' is taken by '{endpoint.resource_id}': it is unique per region and cluster."
        )
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
        # (`EndpointAlreadyExists`)
        # No source: create a second endpoint of a name in a cluster on Azure, and read the status.
        raise CloudError(409, "EndpointAlreadyExists", message)
    if not NAME.fullmatch(name):
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-quotas.md (the limits)
        # No source: create an endpoint with such a name on Azure, and read the code.
        raise CloudError(400, "BadArgument", f"Endpoint name '{name}': 3 to 32 letters, digits and hyphens.")
    if (mode := properties.get("authMode")) not in ("Key", "AMLToken"):
        message = f"Auth mode '{mode}' is not supported for Kubernetes online endpoints. Use Key or AMLToken."
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-endpoints-online-auth.md (Entra tokens
        # are for managed endpoints)
        # No source: create a Kubernetes endpoint with authMode AADToken on Azure, and read the code.
        raise CloudError(400, "BadArgument", message)
    if properties.pop("keys", None):
        raise CloudError(400, "BadArgument", "The sandbox chooses an endpoint's keys itself. Leave out 'keys'.")
    if properties.get("mirrorTraffic"):
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-safely-rollout-online-endpoints.md
        # (mirroring)
        # No source: set mirrorTraffic of a Kubernetes endpoint on Azure, and read the code.
        raise CloudError(400, "BadArgument", "Mirrored traffic is not supported for Kubernetes online endpoints.")
    compute = kubernetes_compute(sandbox, properties.get("compute"))
    endpoint.network = private_router(sandbox, properties["compute"])
    traffic: dict[str, int] = properties.get("traffic") or {}
    if not all(isinstance(share, int) and share >= 0 for share in traffic.values()):
        # No source: set the traffic of a deployment to -1 on Azure, and read the code.
        raise CloudError(400, "BadArgument", f"Traffic must be a whole percentage for each deployment, not {traffic}.")
    if unknown := [deployment for deployment in traffic if deployment.lower() not in endpoint.deployments]:
        message = f"Traffic names deployments that do not exist: {', '.join(unknown)}. Create them, then set traffic."
        # No source: set the traffic of a deployment that does not exist on Azure, and read the code.
        raise CloudError(400, "DeploymentNotFound", message)
    if sum(traffic.values()) not in (0, 100):
        # Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py
        # (`OnlineEndpointProperties.traffic`)
        # No source: set traffic that sums to 90 on Azure, and read the code.
        raise CloudError(400, "BadArgument", f"Traffic must sum to 0 or 100, not {sum(traffic.values())}.")

    endpoint.keys = endpoint.keys or {key: secrets.token_urlsafe(32) for key in ("primaryKey", "secondaryKey")}
    endpoint.compute, endpoint.auth_mode, endpoint.traffic = properties["compute"], mode, traffic
    address = f"{router_url(sandbox, str(compute.get('resourceId')))}/api/v1/endpoint/{name}"
    properties |= {"scoringUri": f"{address}/score", "swaggerUri": f"{address}/swagger.json"}
    endpoint.remember()
    endpoints[name.lower()] = endpoint


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-online-endpoints.md (the deployments go
# with the endpoint)
async def _delete(sandbox: Sandbox, endpoint_id: str, body: Body) -> None:
    if endpoint := fleet(sandbox).endpoints.pop(endpoint_id.rpartition("/")[2].lower(), None):
        await asyncio.gather(*(deployment.stop(drain=False) for deployment in endpoint.deployments.values()))
    await asyncio.to_thread(shutil.rmtree, _folder(sandbox, endpoint_id), ignore_errors=True)


# Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (`EndpointAuthKeys`)
async def _list_keys(sandbox: Sandbox, endpoint_id: str, request: Request) -> Response:
    endpoint = find(sandbox, endpoint_id)
    if endpoint.auth_mode != "Key":
        # No source: list the keys of an endpoint with tokens on Azure, and read the code.
        raise CloudError(400, "BadArgument", f"Endpoint '{endpoint.name}' uses {endpoint.auth_mode}: it has no keys.")
    return JSONResponse(endpoint.keys)


# Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (`RegenerateEndpointKeysRequest`)
async def _regenerate_keys(sandbox: Sandbox, endpoint_id: str, request: Request) -> Response:
    asked = await request.json()
    endpoint = find(sandbox, endpoint_id)
    name = {"primary": "primaryKey", "secondary": "secondaryKey"}.get(str(asked.get("keyType")).lower())
    if name is None or endpoint.auth_mode != "Key":
        # No source: renew a key of another type on Azure, and read the code.
        raise CloudError(400, "BadArgument", "keyType must be Primary or Secondary, and the endpoint's auth mode Key.")
    # azure-ai-ml sends the present key as `keyValue`, and expects a new one.
    value = asked.get("keyValue")
    endpoint.keys[name] = value if value and value != endpoint.keys[name] else secrets.token_urlsafe(32)
    endpoint.remember()
    return Response(status_code=200)


# Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (`EndpointAuthToken`)
async def _token(sandbox: Sandbox, endpoint_id: str, request: Request) -> Response:
    endpoint, now = find(sandbox, endpoint_id), int(time.time())
    if endpoint.auth_mode != "AMLToken":
        # No source: ask for a token of an endpoint with keys on Azure, and read the code.
        raise CloudError(400, "BadArgument", f"Endpoint '{endpoint.name}' uses {endpoint.auth_mode}: list its keys.")
    claims = {"aud": endpoint.name, "iat": now, "exp": now + _TOKEN_SECONDS}
    return JSONResponse(
        {
            "accessToken": jwt.encode(claims, endpoint.keys["primaryKey"], algorithm="HS256"),
            "tokenType": "Bearer",
            "expiryTimeUtc": now + _TOKEN_SECONDS,
            "refreshAfterTimeUtc": now + _REFRESH_SECONDS,
        }
    )


def _folder(sandbox: Sandbox, endpoint_id: str) -> Path:
    return sandbox.folder / "deployments" / endpoint_id.rpartition("/")[2].lower()
