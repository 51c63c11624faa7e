"""Services of Azure that the sandbox does not have: each request for one is refused with its name.

Types of ARM resources that are left out are in `resource_types.yaml`, paths of Databricks in `databricks/service.py`.
A caller that the resource's network does not admit is refused for that reason first, as on Azure.
"""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sandbox import caller_network
from sandbox.context import CloudError, Sandbox

_PATHS = {
    "/v1.0/{path:path}": "Microsoft Graph",
    "/vault/{vault}/{path:path}": "keys, secrets and certificates of key vaults",
    "/{registry}/v2/{path:path}": "pulling and pushing images",
    "/{registry}/oauth2/exchange": "pulling and pushing images",
    **{f"/{service}/{{account}}/{{path:path}}": "files, queues and tables" for service in ("file", "queue", "table")},
}
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


# By the parameter of the path that names the resource: its type, and the group of its endpoint.
# Source: MicrosoftDocs/azure-docs articles/private-link/private-endpoint-dns.md
_PRIVATE = {
    "vault": ("microsoft.keyvault/vaults", "vault"),
    "registry": ("microsoft.containerregistry/registries", "registry"),
    "account": ("microsoft.storage/storageaccounts", ""),
}


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    return [Route(path, partial(_refuse, sandbox, name), methods=_METHODS) for path, name in _PATHS.items()]


async def _refuse(sandbox: Sandbox, name: str, request: Request) -> Response:
    for parameter, (resource_type, group) in _PRIVATE.items():
        if wanted := request.path_params.get(parameter):
            group = group or request.url.path.split("/")[1]  # of an account: file, queue or table
            _require_admitted(sandbox, request, resource_type, wanted, group)
    raise CloudError(501, "NotImplemented", f"The sandbox leaves out {name} ('{request.url.path}').")


def _require_admitted(sandbox: Sandbox, request: Request, resource_type: str, name: str, group: str) -> None:
    """Source: MicrosoftDocs/azure-docs articles/storage/common/storage-network-security-limitations.md (data plane)"""
    for _, body in sandbox.store.below("/subscriptions"):
        meant = body["type"].lower() == resource_type and body["name"].lower() == name.lower()
        if meant and not caller_network.admits(sandbox, request, body, group):
            raise _refusal(group)


def _refusal(group: str) -> CloudError:
    """Source: MicrosoftDocs/SupportArticles-docs
    support/azure/azure-kubernetes/extensions/troubleshoot-key-vault-csi-secrets-store-csi-driver.md;
    MicrosoftDocs/SupportArticles-docs support/azure/azure-container-registry/client-ip-address-not-allowed-access.md;
    MicrosoftDocs/SupportArticles-docs
    support/azure/azure-storage/blobs/authentication/storage-troubleshoot-403-errors.md
    """
    if group == "vault":
        message = (
            "Public network access is disabled and request is not from a trusted service nor via an approved private "
            "link. (ForbiddenByConnection)"
        )
        return CloudError(403, "Forbidden", message)
    if group == "registry":
        message = (
            "client with IP '192.0.2.20' is not allowed access. Refer https://aka.ms/acr/firewall to grant access."
        )
        return CloudError(403, "DENIED", message)
    return CloudError(403, "AuthorizationFailure", "This request is not authorized to perform this operation.")
