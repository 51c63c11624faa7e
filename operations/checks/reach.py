"""Where a release of a private stack can run: only where its lake and its Databricks workspace have private addresses.

Both refuse callers on their public addresses, with any login. Azure Resource Manager answers everywhere, so
infrastructure alone can be deployed from anywhere. Asks this machine's resolver, and whether the port is open. Does not
ask for the scoring router's address, which exists only after a release.
Source: MicrosoftDocs/azure-docs articles/private-link/private-endpoint-dns.md; databricks/databricks-sdk-py#647
"""

import ipaddress
import socket
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from operations.checks.answers import StorageAccount, Workspace
from operations.checks.question import Finding, Level, Question, Target

_DATABRICKS, _STORAGE = "Microsoft.Databricks/workspaces", "Microsoft.Storage/storageAccounts"
_DATABRICKS_VERSION, _STORAGE_VERSION = "2026-01-01", "2024-01-01"
_SECONDS = 10


def questions(target: Target) -> Iterator[Question]:
    if target.settings.network.is_private:
        yield Question("reach", "of the private network", partial(_reach, target))


def _reach(target: Target) -> Iterator[Finding]:
    hosts = _hosts(target)
    releases = target.settings.release.enabled
    if not hosts:
        if releases:
            says = "the network does not exist yet, so a release in the same `up` cannot reach the lake"
            yield Finding("reach", Level.BLOCKING, says, target.set("release:enabled", "false"))
        else:
            yield Finding("reach", Level.LATER, "the network does not exist yet; a release has to run inside it")
        return
    for host in hosts:
        if problem := _problem(host):
            level = Level.BLOCKING if releases else Level.LATER
            yield Finding("reach", level, f"{problem}: a release of {target.stack} cannot run here", _remedy(target))
        else:
            yield Finding("reach", Level.OK, host)


def _hosts(target: Target) -> list[str]:
    """Host names, with a port where it is not that of HTTPS, of what exists."""
    names = target.names
    workspace = target.arm.get(Workspace, target.resource(_DATABRICKS, names.databricks_workspace), _DATABRICKS_VERSION)
    lake = target.arm.get(StorageAccount, target.resource(_STORAGE, names.lake), _STORAGE_VERSION)
    found = [workspace.properties.workspace_url] if workspace else []
    return found + ([urlsplit(lake.properties.primary_endpoints.blob).netloc] if lake else [])


def _problem(host: str) -> str:
    """Why this machine is not inside the network of `host`; empty if it is."""
    url = urlsplit(f"https://{host}")
    name, port = url.hostname or "", url.port or 443
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        return f"{host} has no address here ({error.strerror or error})"
    if public := sorted(address for address in found if ipaddress.ip_address(address).is_global):
        return f"{host} is {public[0]} here, a public address, so this machine is outside the stack's network"
    try:
        socket.create_connection((name, port), timeout=_SECONDS).close()
    except OSError as error:
        return f"{host} is {min(found)} here and does not answer ({error.strerror or error})"
    return ""


def _remedy(target: Target) -> str:
    inside = "# run it on a machine in the stack's network, or in a peered one (docs/operations.md, A second region)"
    return f"{inside}\n{target.set('release:enabled', 'false')}  # infrastructure alone, from anywhere"
