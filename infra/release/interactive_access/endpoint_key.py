"""The endpoint's key for the notebooks: one secret in a scope of the Databricks workspace.

`create` and `update` copy the key from Azure ML to the scope; it is neither an input nor an output, so no state holds
it. The deployer and the workspace's admins may read it. A refresh notices a key that was regenerated. Does not renew a
token (`serving:auth: AMLToken`), which expires after hours: `pulumi up --replace <urn>` of this resource writes the
current one, and keeps the scope with its access lists.
"""

import hashlib
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.clients import AzureClients, databricks_of
from infra.cloud.live_deployment import endpoint_key
from infra.dynamic.ownership import WorkspaceProvider
from infra.dynamic.provider import gone

KEY = "endpoint-key"


class _EndpointKeyProvider(WorkspaceProvider):
    object_name = ("scope",)
    identity = ("workspace_id", "workspace_uid", "scope", "endpoint_name")
    inputs = ("workspace_url", "ml_workspace_id", "endpoint_revision")

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(f"{props['scope']}/{KEY}", {**props, **_put(props)})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Gone if the secret is missing or was written by somebody else, or if the endpoint now has another key."""
        from azure.core.exceptions import ResourceNotFoundError
        from databricks.sdk.errors import NotFound

        try:
            written = _written(databricks_of(props), props["scope"])
            digest = _digest(AzureClients.discover().machine_learning(props["ml_workspace_id"]), props["endpoint_name"])
        except (NotFound, ResourceNotFoundError):
            return gone()
        now = {"written": written, "key_digest": digest}
        return ReadResult(id_, props) if all(props.get(name) in (None, now[name]) for name in now) else gone()

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({**news, **_put(news)})

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        from databricks.sdk.errors import NotFound

        try:
            databricks_of(props).secrets.delete_scope(props["scope"])
        except NotFound:
            return


def _put(props: dict[str, Any]) -> dict[str, str]:
    registry, client = AzureClients.discover().machine_learning(props["ml_workspace_id"]), databricks_of(props)
    # Before the key: the next refresh notices a change in between.
    digest = _digest(registry, props["endpoint_name"])
    key, secrets = endpoint_key(registry, props["endpoint_name"]), client.secrets
    if props["scope"] not in {scope.name for scope in secrets.list_scopes()}:
        secrets.create_scope(props["scope"])
    secrets.put_secret(props["scope"], KEY, string_value=key)
    return {"written": _written(client, props["scope"]), "key_digest": digest}


def _written(client: Any, scope: str) -> str:
    """Time of the secret's last write; empty if it is missing. Raises the SDK's `NotFound` without the scope.

    The value cannot be compared: Databricks returns it only to notebooks (databricks-sdk, `get_secret`).
    """
    times = {secret.key: secret.last_updated_timestamp for secret in client.secrets.list_secrets(scope)}
    return str(times.get(KEY, ""))


def _digest(registry: Any, endpoint: str) -> str:
    """Sixteen hex digits of sha-256 of the endpoint's key, from which the random key cannot be computed.

    Empty for a token, because each request may return another one.
    """
    key = getattr(registry.online_endpoints.get_keys(endpoint), "primary_key", None)
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


class EndpointKey(Resource, module="databricks", name="EndpointKey"):
    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        scope: str,
        ml_workspace_id: pulumi.Input[str],
        endpoint_name: pulumi.Input[str],
        endpoint_revision: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "scope": scope,
            "ml_workspace_id": ml_workspace_id,
            "endpoint_name": endpoint_name,
            "endpoint_revision": endpoint_revision,
        }
        super().__init__(_EndpointKeyProvider(), name, props, opts)
