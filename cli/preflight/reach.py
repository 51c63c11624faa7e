"""Whether a release of a private stack can run on this machine: its lake and its Databricks workspace must admit it.

Both refuse callers from outside the network, with any login. Azure Resource Manager answers everywhere, so the
infrastructure can be deployed from anywhere. Sends one request to each of the two by the same route as the release's
clients (`HTTPS_PROXY` applies). Does not check the login's rights there, nor the address of the scoring router, which
exists only after a release.
"""

import ipaddress
import socket
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

import requests
from azure.core.exceptions import AzureError

from cli.azure_resource_manager import NotAnswered
from cli.preflight.arm_models import StorageAccount, Workspace
from cli.preflight.check import Check, Finding, Level, Target
from infra.cloud.clients import DATABRICKS_APPLICATION, AzureClients

_DATABRICKS, _STORAGE = "Microsoft.Databricks/workspaces", "Microsoft.Storage/storageAccounts"
# Source: Azure/bicep-types-az generated/databricks/microsoft.databricks/2026-01-01/types.json;
# Azure/bicep-types-az generated/storage/microsoft.storage/2024-01-01/types.json
_DATABRICKS_VERSION, _STORAGE_VERSION = "2026-01-01", "2024-01-01"
# Source: MicrosoftDocs/azure-docs articles/storage/blobs/authorize-access-azure-active-directory.md
_STORAGE_SCOPE = "https://storage.azure.com/.default"
# Source: azure-storage-blob==12.31.1 azure/storage/blob/_serialize.py
_BLOB_VERSION = "2023-11-03"
_SECONDS = 20
_OUTSIDE = ("unauthorized network access", "private-link-validation-error", "privacy settings disallow")
"""Parts of Databricks' answer to a caller from outside the network, in its text or in the address of a redirect.

Source: fgarofalo56/csa-inabox#4765; databricks/databricks-sdk-py#647; MicrosoftDocs/azure-docs#115828
"""


def checks(target: Target) -> Iterator[Check]:
    if target.settings.network.is_private:
        yield Check("reach", "the private network", partial(_reach, target))


def refusals(target: Target) -> list[str]:
    """Return the reasons why this machine cannot change the stack's release; empty if it can or the stack is public."""
    workspace_id = target.resource(_DATABRICKS, target.names.databricks_workspace)
    workspace = target.arm.get(Workspace, workspace_id, _DATABRICKS_VERSION)
    lake = target.arm.get(StorageAccount, target.resource(_STORAGE, target.names.lake), _STORAGE_VERSION)
    if workspace is None or lake is None or not target.settings.network.is_private:
        return []
    return _refusals(workspace.properties.workspace_url, workspace_id, lake.properties.primary_endpoints.blob)


def _refusals(host: str, workspace_id: str, blobs: str) -> list[str]:
    return list(filter(None, (_databricks(host, workspace_id), _lake(blobs))))


def _reach(target: Target) -> Iterator[Finding]:
    releases = target.settings.release.enabled
    workspace_id = target.resource(_DATABRICKS, target.names.databricks_workspace)
    workspace = target.arm.get(Workspace, workspace_id, _DATABRICKS_VERSION)
    lake = target.arm.get(StorageAccount, target.resource(_STORAGE, target.names.lake), _STORAGE_VERSION)
    if workspace is None or lake is None:
        if releases:
            message = "the network does not exist yet, so a release in the same `up` cannot reach the resources in it"
            yield Finding("reach", Level.BLOCKING, message, target.set("release:enabled", "false"))
        else:
            yield Finding("reach", Level.DEFERRED, "the network does not exist yet; a release has to run inside it")
        return
    host, blobs = workspace.properties.workspace_url, lake.properties.primary_endpoints.blob
    refusals = _refusals(host, workspace_id, blobs)
    for problem in refusals:
        level = Level.BLOCKING if releases else Level.DEFERRED
        yield Finding("reach", level, f"{problem}: a release of {target.stack} cannot run here", _remedy(target))
    if not refusals:
        yield Finding("reach", Level.OK, f"{host} and {urlsplit(blobs).netloc} admit this machine")


def _databricks(host: str, workspace_id: str) -> str:
    """Return the reason why this machine cannot use the workspace; empty if it can."""
    headers = {**_login(f"{DATABRICKS_APPLICATION}/.default"), "X-Databricks-Azure-Workspace-Resource-Id": workspace_id}
    answer = _answer(f"https://{host}/api/2.0/workspace/get-status?path=/", headers)
    if isinstance(answer, str):
        return f"Databricks does not answer at {_at(host)}: {answer}"
    text = f"{answer.text[:2000]} {answer.headers.get('Location', '')}".lower()
    if any(phrase in text for phrase in _OUTSIDE):
        return f"Databricks at {_at(host)} refuses callers from outside the stack's network"
    return ""


def _lake(endpoint: str) -> str:
    """Return the reason why this machine cannot use the lake; empty if it can.

    A login without a role gets another code, `AuthorizationPermissionMismatch`.

    Source: MicrosoftDocs/SupportArticles-docs
    support/azure/azure-storage/blobs/authentication/storage-troubleshoot-403-errors.md
    """
    host = urlsplit(endpoint).netloc
    answer = _answer(f"{endpoint}?comp=list&maxresults=1", {**_login(_STORAGE_SCOPE), "x-ms-version": _BLOB_VERSION})
    if isinstance(answer, str):
        return f"the lake does not answer at {_at(host)}: {answer}"
    if answer.status_code == 403 and "AuthorizationFailure" in answer.text:
        return f"the lake at {_at(host)} refuses callers from outside the stack's network"
    return ""


def _answer(url: str, headers: dict[str, str]) -> requests.Response | str:
    """Return the answer, or the reason why there is none."""
    try:
        return requests.get(url, headers=headers, timeout=_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _login(scope: str) -> dict[str, str]:
    try:
        return {"Authorization": f"Bearer {AzureClients.discover().credential().get_token(scope).token}"}
    except (AzureError, RuntimeError, requests.RequestException) as error:
        raise NotAnswered(f"no token for {scope}: {str(error).splitlines()[0]}") from None


def _at(host: str) -> str:
    """Return the host with the address that its name resolves to here; inside the network it is a private one.

    Source: MicrosoftDocs/azure-docs articles/private-link/private-endpoint-dns.md
    """
    name = urlsplit(f"https://{host}").hostname or ""
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except OSError:
        return f"{host} (no address here)"
    kind = "public" if any(ipaddress.ip_address(address).is_global for address in addresses) else "private"
    return f"{host} ({addresses[0]} here, {kind})"


def _remedy(target: Target) -> str:
    runners = f'gh variable set RUNNERS --body \'{{"{target.stack}": "<label of a runner inside>"}}\''
    alone = f"{target.set('release:enabled', 'false')}  # infrastructure only, from anywhere"
    return f"{runners}  # docs/operations.md, A private stack\n{alone}"
