"""Azure's management SDKs against a sandbox, and bodies of resources for them."""

from typing import Any

from sandbox.identity import authority
from testing.sandbox.data import Served

HOME = {"location": "westeurope"}
ACCOUNT = {**HOME, "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
POOL = {"name": "system", "mode": "System", "count": 2, "vmSize": "Standard_D4s_v5"}
CLUSTER = {**HOME, "properties": {"dnsPrefix": "c", "agentPoolProfiles": [POOL]}}


def client(kind: Any, cloud: Served) -> Any:
    return kind(
        cloud.credential,
        cloud.sandbox.identity.subscription_id,
        base_url=cloud.sandbox.url,
        credential_scopes=[f"{cloud.sandbox.url}/.default"],
        connection_verify=str(authority.ca_bundle(cloud.sandbox.folder)),
    )
