"""Credentials that ARM returns: keys of storage accounts, kubeconfig files of AKS clusters.

They grant no access: the blob service accepts Entra tokens only, and there is no Kubernetes API. Clients request them
on the way to something else, and some requests must be refused.
"""

import base64
import hashlib
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.arm.resource_body import dig
from sandbox.context import CloudError, Sandbox

# Application ids of the AKS server and of the kubelogin client in Entra.
# Source: https://azure.github.io/kubelogin/concepts/aks.html
_SERVER, _CLIENT = "6dae42f8-4368-4678-94ff-3960e28e3630", "80faf920-1908-4b52-b5ef-a8e7bedfc67a"


# Source: azure-mgmt-storage==25.3.0 azure/mgmt/storage/models/_models.py (`StorageAccountKey`)
async def list_storage_keys(sandbox: Sandbox, account_id: str, request: Request) -> Response:
    """The keys, also of an account without shared key access: there the data plane refuses them.

    Source: hashicorp/terraform-provider-azurerm#11460
    """
    seed = f"{sandbox.identity.client_secret}{account_id.lower()}"
    created = dig(sandbox.store.get(account_id), "systemData.createdAt")
    keys = [
        {"keyName": name, "permissions": "FULL", "creationTime": created}
        | {"value": base64.b64encode(hashlib.sha512(f"{seed}{name}".encode()).digest()).decode()}
        for name in ("key1", "key2")
    ]
    return JSONResponse({"keys": keys})


# Source: azure-mgmt-containerservice==41.8.0 azure/mgmt/containerservice/models/_models.py (`CredentialResults`)
async def list_cluster_user_credential(sandbox: Sandbox, cluster_id: str, request: Request) -> Response:
    cluster = sandbox.store.get(cluster_id) or {}
    if not dig(cluster, "properties.aadProfile"):
        return await list_cluster_admin_credential(sandbox, cluster_id, request)
    return _kubeconfigs("clusterUser", _kubeconfig(sandbox, cluster))


async def list_cluster_admin_credential(sandbox: Sandbox, cluster_id: str, request: Request) -> Response:
    """Refuse the request if the cluster's local accounts are disabled.

    Source: hashicorp/terraform-provider-azurerm#15489
    """
    if dig(sandbox.store.get(cluster_id), "properties.disableLocalAccounts"):
        message = "Getting static credential is not allowed because this cluster is set to disable local accounts."
        raise CloudError(400, "BadRequest", message)
    raise CloudError(501, "NotImplemented", "The sandbox has no Kubernetes API, and no static credential for one.")


def _kubeconfig(sandbox: Sandbox, cluster: dict[str, Any]) -> dict[str, Any]:
    """The kubeconfig that AKS writes with `format=exec`: `kubelogin` logs the user in."""
    name, user = cluster["name"], f"clusterUser_{cluster['id'].split('/')[4]}_{cluster['name']}"
    login = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "kubelogin",
        "args": [
            *("get-token", "--environment", "AzurePublicCloud", "--server-id", _SERVER, "--client-id", _CLIENT),
            *("--tenant-id", sandbox.identity.tenant_id, "--login", "devicecode"),
        ],
        "env": None,
        "provideClusterInfo": False,
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": f"https://{cluster['properties']['fqdn']}:443"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
        "preferences": {},
        "users": [{"name": user, "user": {"exec": login}}],
    }


def _kubeconfigs(name: str, content: dict[str, Any]) -> Response:
    value = base64.b64encode(yaml.safe_dump(content).encode()).decode()
    return JSONResponse({"kubeconfigs": [{"name": name, "value": value}]})
