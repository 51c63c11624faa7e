"""The cloud the data-plane clients talk to, found the way azure-native finds it, with the same login.

`ARM_METADATA_HOSTNAME` names a metadata service (Azure Government, Azure Stack, any other); without it, public Azure.
The login is one for a process: all dynamic resources of an `up` share its tokens, which it renews by itself. Does not
keep clients: each resource makes those it needs, and asks first whether its cloud is there.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from azure.core.credentials import TokenCredential

_PUBLIC_METADATA = "management.azure.com"
_KNOWN_CLOUDS = ("AzureCloud", "AzureUSGovernment", "AzureChinaCloud")
# Azure ML's SDK leaves the name of its cloud in the environment, where the SDK of a child process takes it for one that
# it knows. This program always names the cloud itself.
os.environ.pop("AZUREML_CURRENT_CLOUD", None)
DATABRICKS_APPLICATION = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d"  # the same in every cloud


@dataclass(frozen=True)
class Cloud:
    name: str
    resource_manager: str
    authority: str
    portal: str
    storage_suffix: str

    @classmethod
    def discover(cls) -> "Cloud":
        """Ask the metadata service. Raises `requests.RequestException` naming the address if it does not answer."""
        host = os.environ.get("ARM_METADATA_HOSTNAME") or _PUBLIC_METADATA
        url = host if "://" in host else f"https://{host}"
        answer = requests.get(f"{url}/metadata/endpoints", params={"api-version": "2022-09-01"}, timeout=30)
        answer.raise_for_status()
        found = answer.json()
        found = found[0] if isinstance(found, list) else found
        return cls(
            name=found["name"],
            resource_manager=found["resourceManager"].rstrip("/"),
            authority=found["authentication"]["loginEndpoint"].rstrip("/"),
            portal=found["portal"],
            storage_suffix=found["suffixes"]["storage"],
        )

    @property
    def scope(self) -> str:
        return f"{self.resource_manager}/.default"

    def credential(self) -> TokenCredential:
        """The login azure-native uses: client secret, workload identity token, else what the machine offers."""
        return _login(
            self.authority,
            tenant=os.environ.get("ARM_TENANT_ID"),
            client=os.environ.get("ARM_CLIENT_ID"),
            secret=os.environ.get("ARM_CLIENT_SECRET"),
            oidc=_is_set("ARM_USE_OIDC"),
            disable_instance_discovery=_is_set("ARM_DISABLE_INSTANCE_DISCOVERY"),
        )

    def machine_learning(self, workspace_id: str) -> Any:
        """An `azure.ai.ml.MLClient` for the workspace with this resource id."""
        from azure.ai.ml import MLClient

        part = workspace_id.split("/")
        options: dict[str, Any] = {"cloud": self.name}
        if self.name not in _KNOWN_CLOUDS:
            # The SDK keeps a cloud it was told of for the life of the process, under this name.
            options["cloud"] = self.resource_manager
            options["cloud_metadata"] = {
                "azure_portal": self.portal,
                "resource_manager": self.resource_manager + "/",
                "active_directory": self.authority + "/",
                "aml_resource_id": self.resource_manager,
                "storage_endpoint": self.storage_suffix,
                "registry_discovery_endpoint": self.resource_manager + "/",
            }
        return MLClient(
            self.credential(), part[2], part[4], part[8], enable_telemetry=False, show_progress=False, **options
        )

    def databricks(self, workspace_url: str, workspace_id: str) -> Any:
        """A `databricks.sdk.WorkspaceClient` for the workspace at this host, logged in through Entra."""
        from databricks.sdk import WorkspaceClient
        from databricks.sdk.config import Config
        from databricks.sdk.credentials_provider import CredentialsProvider, CredentialsStrategy

        credential, manager = self.credential(), self.scope

        class Entra(CredentialsStrategy):
            """A token per call: serves every cloud (the SDK knows three authorities by name) and outlives an hour."""

            def auth_type(self) -> str:
                return "entra"

            def __call__(self, _config: Config) -> CredentialsProvider:
                def headers() -> dict[str, str]:
                    token = credential.get_token(f"{DATABRICKS_APPLICATION}/.default").token
                    return {
                        "Authorization": f"Bearer {token}",
                        "X-Databricks-Azure-SP-Management-Token": credential.get_token(manager).token,
                        "X-Databricks-Azure-Workspace-Resource-Id": workspace_id,
                    }

                return headers

        return WorkspaceClient(config=Config(host=f"https://{workspace_url}", credentials_strategy=Entra()))

    def registry_tasks(self, subscription_id: str) -> Any:
        """A client for registry builds (`azure.mgmt.containerregistrytasks`)."""
        from azure.mgmt.containerregistrytasks import ContainerRegistryTasksMgmtClient

        return ContainerRegistryTasksMgmtClient(
            self.credential(), subscription_id, base_url=self.resource_manager, credential_scopes=[self.scope]
        )

    def blobs(self, endpoint: str) -> Any:
        """An `azure.storage.blob.BlobServiceClient` for an account's blob endpoint."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient(endpoint, credential=self.credential(), max_block_size=64 * 1024 * 1024)


@functools.cache
def _login(
    authority: str,
    *,
    tenant: str | None,
    client: str | None,
    secret: str | None,
    oidc: bool,
    disable_instance_discovery: bool,
) -> TokenCredential:
    from azure.identity import ClientAssertionCredential, ClientSecretCredential, DefaultAzureCredential

    options: dict[str, Any] = {"authority": authority, "disable_instance_discovery": disable_instance_discovery}
    if tenant and client and secret:
        return ClientSecretCredential(tenant, client, secret, **options)
    if tenant and client and oidc:
        return ClientAssertionCredential(tenant, client, _oidc_token, **options)
    return DefaultAzureCredential(**options)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"


def _oidc_token() -> str:
    """The runner's identity token, from where azure-native also takes it."""
    if token := os.environ.get("ARM_OIDC_TOKEN"):
        return token
    if path := os.environ.get("ARM_OIDC_TOKEN_FILE_PATH"):
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    url, bearer = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"), os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not url or not bearer:
        raise RuntimeError(
            "ARM_USE_OIDC is true but no token can be had: set ARM_OIDC_TOKEN, ARM_OIDC_TOKEN_FILE_PATH, or run in a "
            "workflow with the id-token permission."
        )
    audience = os.environ.get("ARM_OIDC_AUDIENCE", "api://AzureADTokenExchange")
    answer = requests.get(url, params={"audience": audience}, headers={"Authorization": f"Bearer {bearer}"}, timeout=30)
    answer.raise_for_status()
    return answer.json()["value"]


def databricks_of(props: Mapping[str, Any]) -> Any:
    """The `databricks.sdk.WorkspaceClient` of the workspace that a dynamic resource is in."""
    return Cloud.discover().databricks(props["workspace_url"], props["workspace_id"])
