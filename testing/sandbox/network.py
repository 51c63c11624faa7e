"""A sandbox with a virtual network, and the private resources of a stack in it, created through ARM."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt

from sandbox.caller_network import environment
from testing.sandbox.process import RunningSandbox, in_environment, running_sandbox

GROUP, NETWORK = "resourceGroups/rg", "vnet"
PROVIDERS = f"{GROUP}/providers"
LAKE = f"{PROVIDERS}/Microsoft.Storage/storageAccounts/privatelake"
WORKSPACE = f"{PROVIDERS}/Microsoft.Databricks/workspaces/dbw"
VAULT = f"{PROVIDERS}/Microsoft.KeyVault/vaults/kv-private"
VNET = f"{PROVIDERS}/Microsoft.Network/virtualNetworks/{NETWORK}"
CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
ZONES = {
    "blob": "privatelink.blob.core.windows.net",
    "dfs": "privatelink.dfs.core.windows.net",
    "databricks_ui_api": "privatelink.azuredatabricks.net",
    "browser_authentication": "privatelink.azuredatabricks.net",
    "vault": "privatelink.vaultcore.azure.net",
    "amlworkspace": "privatelink.api.azureml.ms",
}
CLOSED = {"publicNetworkAccess": "Disabled"}


class Azure:
    """One resource group: a lake, a Databricks workspace and a vault without public access, and a network."""

    def __init__(self, sandbox: RunningSandbox) -> None:
        self.sandbox = sandbox
        sandbox.settings(role_propagation=0)
        self.put(GROUP)
        self.network(NETWORK)
        self.put(LAKE, CLOSED, kind="StorageV2", sku={"name": "Standard_LRS"})
        self.put(f"{LAKE}/blobServices/default/containers/raw", {})
        self.put(WORKSPACE, {"computeMode": "Hybrid", **CLOSED}, sku={"name": "premium"})
        sku = {"family": "A", "name": "standard"}
        self.put(VAULT, {"tenantId": sandbox.environment["ARM_TENANT_ID"], "sku": sku, **CLOSED})
        role = f"{sandbox.subscription}/providers/Microsoft.Authorization/roleDefinitions/{CONTRIBUTOR}"
        principal = {"principalId": self.object_id(), "principalType": "ServicePrincipal", "roleDefinitionId": role}
        path = f"{LAKE}/providers/Microsoft.Authorization/roleAssignments/00000000-0000-0000-0000-00000000000a"
        self.put(path, principal)

    def object_id(self) -> str:
        return str(jwt.decode(self.sandbox.token(), options={"verify_signature": False})["oid"])

    def id(self, path: str) -> str:
        return f"{self.sandbox.subscription}/{path}"

    def attempt(self, path: str, properties: Any = None, **body: Any) -> dict[str, Any]:
        """Error of the answer or of its operation; empty without one."""
        body = {"location": "westeurope", **body} | ({} if properties is None else {"properties": properties})
        answer = self.sandbox.arm("PUT", path, body)
        if "azure-asyncoperation" in answer.headers:
            return dict(self.sandbox.settle(answer).get("error", {}))
        return {} if answer.is_success else dict(answer.json()["error"])

    def put(self, path: str, properties: Any = None, **body: Any) -> None:
        assert self.attempt(path, properties, **body) == {}

    def network(self, name: str) -> None:
        subnets = [{"name": "endpoints", "properties": {"addressPrefix": "10.0.0.0/26"}}]
        space = {"addressSpace": {"addressPrefixes": ["10.0.0.0/24"]}, "subnets": subnets}
        self.put(f"{PROVIDERS}/Microsoft.Network/virtualNetworks/{name}", space)

    def endpoint(self, name: str, target: str, group: str | list[str], network: str = NETWORK) -> dict[str, Any]:
        vnet = self.id(f"{PROVIDERS}/Microsoft.Network/virtualNetworks/{network}")
        connection = {"privateLinkServiceId": self.id(target), "groupIds": [group] if isinstance(group, str) else group}
        properties = {
            "subnet": {"id": f"{vnet}/subnets/endpoints"},
            "privateLinkServiceConnections": [{"name": name, "properties": connection}],
        }
        return self.attempt(f"{PROVIDERS}/Microsoft.Network/privateEndpoints/{name}", properties)

    def zone(self, endpoint: str, group: str, network: str = NETWORK, *, linked: bool = True) -> None:
        zone = f"{PROVIDERS}/Microsoft.Network/privateDnsZones/{ZONES[group]}"
        self.put(zone, {}, location="Global")
        if linked:
            vnet = self.id(f"{PROVIDERS}/Microsoft.Network/virtualNetworks/{network}")
            self.put(f"{zone}/virtualNetworkLinks/{network}", {"virtualNetwork": {"id": vnet}}, location="Global")
        config = {"name": group.replace("_", "-"), "properties": {"privateDnsZoneId": self.id(zone)}}
        path = f"{PROVIDERS}/Microsoft.Network/privateEndpoints/{endpoint}/privateDnsZoneGroups/default"
        self.put(path, {"privateDnsZoneConfigs": [config]})

    def remove(self, *paths: str) -> None:
        for path in paths:
            answer = self.sandbox.arm("DELETE", path)
            if "azure-asyncoperation" in answer.headers:
                self.sandbox.settle(answer)

    def remove_endpoints(self) -> None:
        kinds = ("privateEndpoints", "privateDnsZones")
        for kind in kinds:
            bodies = self.sandbox.arm("GET", f"{PROVIDERS}/Microsoft.Network/{kind}").json()["value"]
            self.remove(*(body["id"] for body in bodies))

    @contextmanager
    def caller(self, network: str | None) -> Iterator[None]:
        """The environment of a client inside the network, or outside every network."""
        inside = environment(self.sandbox.folder, network) if network else {}
        with in_environment({**self.sandbox.environment, **inside}):
            yield


@contextmanager
def private_azure(folder: Path) -> Iterator[Azure]:
    with running_sandbox(folder) as sandbox:
        yield Azure(sandbox)
