"""The endpoint's key for the notebooks: one secret in a scope of the Databricks workspace.

`create` and `update` copy the key from Azure ML to the scope; it is neither an input nor an output, so no state holds
it. The deployer and the workspace's admins may read it. A refresh notices a key that was regenerated. Does not renew a
token (`serving:auth: AMLToken`), which expires after hours: `pulumi up --replace <urn>` of this resource writes the
current one, and keeps the scope with its access lists.
"""

import hashlib
from typing import TYPE_CHECKING

from infra.cloud.clients import AzureClients
from infra.cloud.live_deployment import endpoint_key
from infra.dynamic.inputs import InputField, Outputs, replaces, updates
from infra.dynamic.ownership import WorkspaceProvider
from infra.dynamic.provider import Creation, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.dynamic.workspace import WorkspaceInputs, databricks_of

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from databricks.sdk import WorkspaceClient

KEY = "endpoint-key"


class EndpointKeyInputs(WorkspaceInputs):
    scope: InputField[str] = replaces()
    ml_workspace_id: InputField[str] = updates()
    endpoint_name: InputField[str] = replaces()
    endpoint_revision: InputField[str] = updates()


class EndpointKeyOutputs(Outputs):
    """Each is None in the state of an earlier version."""

    written: str | None
    key_digest: str | None


class _EndpointKeyProvider(WorkspaceProvider[EndpointKeyInputs, EndpointKeyOutputs]):
    object_name = ("scope",)

    def create_object(self, inputs: EndpointKeyInputs) -> Creation[EndpointKeyOutputs]:
        return Creation(f"{inputs.scope}/{KEY}", _put(inputs))

    def read_object(self, state: ResourceState[EndpointKeyInputs, EndpointKeyOutputs]) -> EndpointKeyInputs | None:
        """Gone if the secret is missing or was written by somebody else, or if the endpoint now has another key."""
        from azure.core.exceptions import ResourceNotFoundError
        from databricks.sdk.errors import NotFound

        inputs, before = state.inputs, state.outputs
        try:
            written = _written(databricks_of(inputs), inputs.scope)
            digest = _digest(AzureClients.discover().machine_learning(inputs.ml_workspace_id), inputs.endpoint_name)
        except (NotFound, ResourceNotFoundError):
            return None
        return inputs if before.written in (None, written) and before.key_digest in (None, digest) else None

    def update_object(
        self, _state: ResourceState[EndpointKeyInputs, EndpointKeyOutputs], inputs: EndpointKeyInputs
    ) -> EndpointKeyOutputs:
        return _put(inputs)

    def delete_object(self, state: ResourceState[EndpointKeyInputs, EndpointKeyOutputs]) -> None:
        from databricks.sdk.errors import NotFound

        try:
            databricks_of(state.inputs).secrets.delete_scope(state.inputs.scope)
        except NotFound:
            return


def _put(inputs: EndpointKeyInputs) -> EndpointKeyOutputs:
    registry, client = AzureClients.discover().machine_learning(inputs.ml_workspace_id), databricks_of(inputs)
    # Before the key: the next refresh notices a change in between.
    digest = _digest(registry, inputs.endpoint_name)
    key, secrets = endpoint_key(registry, inputs.endpoint_name), client.secrets
    if inputs.scope not in {scope.name for scope in secrets.list_scopes()}:
        secrets.create_scope(inputs.scope)
    secrets.put_secret(inputs.scope, KEY, string_value=key)
    return EndpointKeyOutputs(written=_written(client, inputs.scope), key_digest=digest)


def _written(client: "WorkspaceClient", scope: str) -> str:
    """Time of the secret's last write; empty if it is missing. Raises the SDK's `NotFound` without the scope.

    The value cannot be compared: Databricks returns it only to notebooks (databricks-sdk, `get_secret`).
    """
    times = {secret.key: secret.last_updated_timestamp for secret in client.secrets.list_secrets(scope)}
    return str(times.get(KEY, ""))


def _digest(registry: "MLClient", endpoint: str) -> str:
    """Sixteen hex digits of sha-256 of the endpoint's key, from which the random key cannot be computed.

    Empty for a token, because each request may return another one.
    """
    key = getattr(registry.online_endpoints.get_keys(endpoint), "primary_key", None)
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


class EndpointKey(
    DynamicResource[EndpointKeyInputs], module="databricks", name="EndpointKey", provider=_EndpointKeyProvider
):
    """The secret and its scope."""
