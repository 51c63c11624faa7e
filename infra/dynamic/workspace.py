"""The Databricks workspace of a dynamic resource: its inputs, and its client.

Does not decide who owns an object in it: `ownership.py` does.
"""

from typing import TYPE_CHECKING

from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Inputs, replaces, updates

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/databricks/workspace.py
_API_VERSION = "2026-01-01"


class WorkspaceInputs(Inputs):
    workspace_url: InputField[str] = updates()
    workspace_id: InputField[str] = replaces()
    workspace_uid: InputField[str] = replaces()


def databricks_of(inputs: WorkspaceInputs) -> "WorkspaceClient":
    """Return the client of the resource's workspace.

    Raises the SDK's `NotFound` if that workspace does not exist, or is another one under the same resource id: its host
    name may then not answer at all.
    """
    from databricks.sdk.errors import NotFound

    cloud, workspace_id, uid = AzureClients.discover(), inputs.workspace_id, inputs.workspace_uid
    if not cloud.has(workspace_id, _API_VERSION, key="workspaceId", uid=uid):
        raise NotFound(f"the Databricks workspace {workspace_id} (number {uid}) does not exist")
    return cloud.databricks(inputs.workspace_url, workspace_id)
