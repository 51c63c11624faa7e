"""The network that a request comes from, and a proxy that puts a caller into a virtual network.

Host names and addresses are the same for every caller on loopback. A caller that connects directly is outside every
virtual network. A caller whose `HTTPS_PROXY` names this proxy, with a virtual network's name as the user, is inside
that network: `python -m sandbox env --network NAME` prints the variables, which every SDK follows unmodified. For a
caller inside, a resource's name leads to its private endpoint if one is connected and has its DNS zones
(`private_endpoints.py`), otherwise to its public address.

Azure's own services do not use the proxy: when the sandbox itself reads an account, it acts as a trusted service
(`bypass: AzureServices`). Resource Manager, and with it most of Azure ML, answers every caller. The proxy connects only
to this sandbox, and it grants no rights: each service still requires a token.

Source: MicrosoftDocs/azure-docs articles/storage/common/storage-network-security-limitations.md (data plane; trusted
services); MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-configure-network-isolation-with-v2.md
"""

import asyncio
import base64
import contextlib
import json
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request

from sandbox import state_files
from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.context import Sandbox
from sandbox.resource_rules.private_endpoints import reaches

_FILE = "network-proxy.json"
_CHUNK = 1 << 16
_PASSWORD = "inside"  # requests drops the user of a proxy's address that has no password
_PRIVATE = ("disabled", "securedbyperimeter")


def trusts_services(account: Body) -> bool:
    """Whether trusted services may bypass a storage account's network rules; by default they may.

    Source: MicrosoftDocs/azure-docs articles/storage/common/storage-network-security-trusted-azure-services.md
    (`Microsoft.Databricks/accessConnectors`); MicrosoftDocs/azure-docs
    articles/storage/common/storage-network-security-limitations.md (By design, access from trusted services)
    """
    return "azureservices" in str(dig(account, "properties.networkAcls.bypass") or "AzureServices").lower()


def environment(folder: Path, network: str) -> dict[str, str]:
    """Additional variables of a caller inside the network. Raises `FileNotFoundError` if no proxy has been started."""
    port = state_files.read_json(folder / _FILE, "port")["port"]
    # Upper case only: with `https_proxy` gRPC would send the engine's own connections through the proxy.
    proxy = f"http://{quote(network, safe='')}:{_PASSWORD}@127.0.0.1:{port}"
    return {"HTTPS_PROXY": proxy, "NO_PROXY": "", "no_proxy": ""}


def network_of(sandbox: Sandbox, request: Request) -> str | None:
    """Id of the caller's virtual network; None for a caller outside all of them."""
    return sandbox.callers.get(request.client.port) if request.client else None


def admits(sandbox: Sandbox, request: Request, resource: Body, group: str) -> bool:
    """Whether the resource answers this caller: publicly, or through a private endpoint in the caller's network.

    Source: MicrosoftDocs/SupportArticles-docs
    support/azure/azure-storage/blobs/authentication/storage-troubleshoot-403-errors.md (AuthorizationFailure);
    MicrosoftDocs/azure-docs articles/container-registry/container-registry-private-link.md (Disable public access)
    """
    return is_public(resource) or reaches(sandbox, network_of(sandbox, request), resource["id"], group)


def is_public(resource: Body) -> bool:
    """Whether the resource answers on its public address. Rules for single addresses or subnets admit no caller."""
    properties = resource.get("properties", {})
    closed = str(properties.get("publicNetworkAccess")).lower() in _PRIVATE
    rules = properties.get("networkAcls") or properties.get("networkRuleSet") or {}
    return not closed and str(rules.get("defaultAction")).lower() != "deny"


class Proxy:
    """Proxy into the virtual networks. Callers keep its address in their environment, so it reuses its port if free."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._server: asyncio.Server | None = None
        self._tunnels: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        file = self._sandbox.folder / _FILE
        port = 0
        with contextlib.suppress(FileNotFoundError, state_files.Unreadable):
            port = int(state_files.read_json(file, "port")["port"])
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        except OSError:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        state_files.write(file, json.dumps({"port": self._server.sockets[0].getsockname()[1]}))

    async def close(self) -> None:
        if self._server:
            self._server.close()
        for tunnel in self._tunnels:
            tunnel.cancel()
        await asyncio.gather(*self._tunnels, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tunnel = asyncio.current_task()
        assert tunnel is not None
        self._tunnels.add(tunnel)
        tunnel.add_done_callback(self._tunnels.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await _tunnel(self._sandbox, reader, writer)
        writer.close()


async def _tunnel(sandbox: Sandbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, *_ = [*head[0].split(), "", ""]
    names = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
    user = _user({name.lower(): value for name, value in names.items()}.get("proxy-authorization", ""))
    network_id = next((each for each, body in sandbox.store.below("/subscriptions") if _is_network(body, user)), None)
    if method != "CONNECT" or target != sandbox.authority:
        return await _refuse(writer, "403 Forbidden", f"This proxy connects to {sandbox.authority} only.")
    if network_id is None:
        return await _refuse(
            writer, "407 Proxy Authentication Required", f"The virtual network '{user}' does not exist."
        )
    upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", sandbox.port)
    port = upstream.get_extra_info("sockname")[1]
    sandbox.callers[port] = network_id
    try:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, upstream), _copy(upstream_reader, writer))
    finally:
        del sandbox.callers[port]
        upstream.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(_CHUNK):
            writer.write(content)
            await writer.drain()
    writer.close()  # the end of one direction ends both


async def _refuse(writer: asyncio.StreamWriter, status: str, message: str) -> None:
    challenge = 'Proxy-Authenticate: Basic realm="virtual network"\r\n' if status.startswith("407") else ""
    writer.write(f"HTTP/1.1 {status}\r\n{challenge}Content-Length: {len(message)}\r\n\r\n{message}".encode())
    await writer.drain()


def _user(authorization: str) -> str:
    with contextlib.suppress(ValueError):
        return base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")[0]
    return ""


def _is_network(body: Body, name: str) -> bool:
    of_type = body["type"].lower() == "microsoft.network/virtualnetworks"
    return of_type and str(dig(body, "name")).lower() == name.lower()
