"""Clients of the data plane, for the same cloud and with the same login as azure-native.

`ARM_METADATA_HOSTNAME` names a metadata service (Azure Government, Azure Stack, any other); without it, public Azure.
A process has one login: all dynamic resources of an `up` share its tokens, which it renews by itself. Only the ARM_*
variables select the login; variables for other programs (AZURE_*, DATABRICKS_*) have no effect. Does not keep clients:
each resource creates those it needs, and first checks that its parent exists.
"""

import functools
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import requests
from azure.core.credentials import AccessToken, TokenCredential
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

# Source: Azure/azure-cli src/azure-cli-core/azure/cli/core/cloud.py (`HARD_CODED_CLOUD_LIST`)
_PUBLIC_METADATA = "management.azure.com"
_KNOWN_CLOUDS = ("AzureCloud", "AzureUSGovernment", "AzureChinaCloud")
# Azure ML's SDK writes the name of its cloud into the environment, and the SDK of a child process would use it. This
# program always passes the cloud explicitly.
os.environ.pop("AZUREML_CURRENT_CLOUD", None)
# Source: pulumi/pulumi-azure-native provider/pkg/provider/auth_azidentity.go
_LOGIN = (
    *("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "CLIENT_CERTIFICATE_PATH", "CLIENT_CERTIFICATE_PASSWORD"),
    *("SUBSCRIPTION_ID", "USE_OIDC", "USE_MSI", "USE_DEFAULT_AZURE_CREDENTIAL", "DISABLE_INSTANCE_DISCOVERY"),
)
"""Variables that select the login, without ARM_."""
_LAST_SECONDS = 300
"""Seconds before the end of a token when it is renewed, as in azure-core.

Source: azure-core==1.41.0 azure/core/pipeline/policies/_authentication.py (`_need_new_token`)
"""
_CLI_SECONDS = 60
"""Time limit of `az` for one token: it takes 1 to 2 s, longer on a busy machine, and azure-identity's default is 10."""
# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/storage/storage_account.py; databricks-sdk==0.156.0
# databricks/sdk/environments.py
_STORAGE_API_VERSION = "2024-01-01"
DATABRICKS_APPLICATION = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d"


@dataclass(frozen=True)
class AzureClients:
    """One Azure cloud: its endpoints, the login, and a method for each client."""

    name: str
    resource_manager: str
    authority: str
    portal: str
    storage_suffix: str
    management: str
    """Audience of Resource Manager for other services: `https://management.core.windows.net/`."""

    @classmethod
    def discover(cls) -> "AzureClients":
        """Read the metadata service. Raises `requests.RequestException` with its address if it does not answer."""
        host = os.environ.get("ARM_METADATA_HOSTNAME") or _PUBLIC_METADATA
        url = host if "://" in host else f"https://{host}"
        answer = requests.get(f"{url}/metadata/endpoints", params={"api-version": "2022-09-01"}, timeout=30)
        answer.raise_for_status()
        document = answer.json()
        endpoints = document[0] if isinstance(document, list) else document
        return cls(
            name=endpoints["name"],
            resource_manager=endpoints["resourceManager"].rstrip("/"),
            authority=endpoints["authentication"]["loginEndpoint"].rstrip("/"),
            portal=endpoints["portal"],
            storage_suffix=endpoints["suffixes"]["storage"],
            management=endpoints["authentication"]["audiences"][0],
        )

    @property
    def scope(self) -> str:
        return f"{self.resource_manager}/.default"

    def credential(self) -> TokenCredential:
        """The login of azure-native, selected by the same variables in the same order.

        Source: pulumi/pulumi-azure-native provider/pkg/provider/auth_azidentity.go (newSingleMethodAuthCredential)
        """
        return _login(self.authority, **{name: os.environ.get(f"ARM_{name}") or None for name in _LOGIN})

    def resource(self, resource_id: str, api_version: str) -> dict[str, Any] | None:
        """A resource as ARM returns it; None if it does not exist.

        Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/troubleshooting/common-deployment-errors.md
        (`SubscriptionNotFound`)
        """
        answer = self.request("GET", resource_id, api_version)
        if answer.status_code == 404 and "SubscriptionNotFound" not in answer.text:
            return None
        answer.raise_for_status()
        return answer.json()

    def request(self, method: str, resource_id: str, api_version: str, body: Any = None) -> requests.Response:
        """Return ARM's answer with any status. The request is repeated while ARM is too busy or fails."""
        retry = Retry(total=4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
        with requests.Session() as session:
            session.mount("https://", HTTPAdapter(max_retries=retry))
            return session.request(
                method,
                f"{self.resource_manager}{resource_id}",
                params={"api-version": api_version},
                json=body,
                headers={"Authorization": f"Bearer {self.credential().get_token(self.scope).token}"},
                timeout=60,
            )

    def has(self, resource_id: str, api_version: str, *, key: str, uid: str | None) -> bool:
        """Whether the resource exists with the value `uid` of its property `key`; another one may have its id now."""
        resource = self.resource(resource_id, api_version)
        return resource is not None and uid in (None, resource["properties"].get(key))

    def machine_learning(self, workspace_id: str) -> Any:
        """An `azure.ai.ml.MLClient` for the workspace with this resource id."""
        from azure.ai.ml import MLClient

        _silence_machine_learning()
        part = workspace_id.split("/")
        options: dict[str, Any] = {"cloud": self.name}
        if self.name not in _KNOWN_CLOUDS:
            # The SDK keeps a configured cloud for the life of the process, under this name.
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

        # The audience ends with a slash, and so does the scope before `/.default`.
        # Source: databricks/databricks-sdk-py databricks/sdk/environments.py
        # (service_management_endpoint)
        credential, management = self.credential(), f"{self.management}/.default"

        Config.attributes()  # It stores the list on the class that is called first, and finds none on a subclass.

        class Named(Config):
            """A configuration that ignores the variables DATABRICKS_* and ARM_*, which the SDK reads despite the login.

            With a token and a client secret it would fail: "more than one authorization method configured"
            (databricks/terraform-provider-databricks#266). A workspace id goes into the headers of each request.
            """

            @classmethod
            def attributes(cls) -> Any:
                return Config.attributes()  # from the class that was called first

            def _load_from_env(self) -> None:
                return

        class Entra(CredentialsStrategy):
            """Login with a token per call, for every cloud (the SDK knows three) and longer than an hour."""

            def auth_type(self) -> str:
                return "entra"

            def __call__(self, _config: Config) -> CredentialsProvider:
                def headers() -> dict[str, str]:
                    token = credential.get_token(f"{DATABRICKS_APPLICATION}/.default").token
                    return {
                        "Authorization": f"Bearer {token}",
                        "X-Databricks-Azure-SP-Management-Token": credential.get_token(management).token,
                        "X-Databricks-Azure-Workspace-Resource-Id": workspace_id,
                    }

                return headers

        return WorkspaceClient(config=Named(host=f"https://{workspace_url}", credentials_strategy=Entra()))

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


def _silence_machine_learning() -> None:
    """Azure ML's SDK logs its steps to stderr and prints a dot for each poll, also with `show_progress=False`.

    The engine shows both between its own messages. Source: `AzureMLPolling.update_status` and
    `initialize_logger_info` in azure-ai-ml 1.35.
    """
    from azure.ai.ml._utils._azureml_polling import AzureMLPolling
    from azure.mgmt.core.polling.arm_polling import ARMPolling

    logging.getLogger("azure.ai.ml").setLevel(logging.WARNING)
    AzureMLPolling.update_status = ARMPolling.update_status


class CachedCredential:
    """A credential that fetches one token per scope and keeps it until shortly before it ends.

    Not every credential caches: `AzureCliCredential` "doesn't cache the tokens it acquires" (its docstring in
    azure-identity) and starts `az` each time. Threads wait for one another instead of fetching the same token.
    """

    def __init__(self, credential: TokenCredential) -> None:
        self.credential = credential
        self._tokens: dict[Any, AccessToken] = {}
        self._fetching = threading.Lock()

    def get_token(self, *scopes: str, claims: str | None = None, **options: Any) -> AccessToken:
        """Return a token for `scopes`; with `claims`, which answer a challenge, always a new one."""
        key = (scopes, *sorted(options.items()))
        with self._fetching:
            token = self._tokens.get(key)
            if claims or token is None or token.expires_on - time.time() < _LAST_SECONDS:
                challenge = {"claims": claims} if claims else {}
                token = self._tokens[key] = self.credential.get_token(*scopes, **challenge, **options)
            return token


@functools.cache
def _login(authority: str, **arm: str | None) -> CachedCredential:
    """`arm`: the variables of `_LOGIN`, by their names without ARM_."""
    import azure.identity as identity

    tenant, client = arm["TENANT_ID"], arm["CLIENT_ID"]
    options: dict[str, Any] = {
        "authority": authority,
        "disable_instance_discovery": _is_true(arm["DISABLE_INSTANCE_DISCOVERY"]),
    }
    credential: TokenCredential
    if _is_true(arm["USE_DEFAULT_AZURE_CREDENTIAL"]):
        credential = identity.DefaultAzureCredential(**options)
    elif tenant and client and (path := arm["CLIENT_CERTIFICATE_PATH"]):
        password = arm["CLIENT_CERTIFICATE_PASSWORD"]
        credential = identity.CertificateCredential(tenant, client, path, password=password, **options)
    elif tenant and client and (secret := arm["CLIENT_SECRET"]):
        credential = identity.ClientSecretCredential(tenant, client, secret, **options)
    elif tenant and client and _is_true(arm["USE_OIDC"]):
        credential = identity.ClientAssertionCredential(tenant, client, _oidc_token, **options)
    elif _is_true(arm["USE_MSI"]):
        credential = identity.ManagedIdentityCredential(client_id=client)
    else:
        # `az account get-access-token`: "Please specify only one of subscription and tenant, not both".
        account = {"subscription": arm["SUBSCRIPTION_ID"]} if arm["SUBSCRIPTION_ID"] else {"tenant_id": tenant or ""}
        credential = identity.AzureCliCredential(process_timeout=_CLI_SECONDS, **account)
    return CachedCredential(credential)


def _is_true(value: str | None) -> bool:
    return (value or "").lower() == "true"


def _oidc_token() -> str:
    """The runner's identity token, from the same sources as azure-native."""
    if token := os.environ.get("ARM_OIDC_TOKEN"):
        return token
    if path := os.environ.get("ARM_OIDC_TOKEN_FILE_PATH"):
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    url, bearer = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"), os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not url or not bearer:
        raise RuntimeError(
            "ARM_USE_OIDC is true but no token was found: set ARM_OIDC_TOKEN, ARM_OIDC_TOKEN_FILE_PATH, or run in a "
            "workflow with the id-token permission."
        )
    audience = os.environ.get("ARM_OIDC_AUDIENCE", "api://AzureADTokenExchange")
    answer = requests.get(url, params={"audience": audience}, headers={"Authorization": f"Bearer {bearer}"}, timeout=30)
    answer.raise_for_status()
    return answer.json()["value"]


def has_lake(lake_id: str | None, lake_uid: str | None) -> bool:
    """Whether the storage account of a dynamic resource's files exists. The state of an earlier version has no ids."""
    return not lake_id or AzureClients.discover().has(lake_id, _STORAGE_API_VERSION, key="creationTime", uid=lake_uid)
