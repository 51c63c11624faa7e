"""Ownership of objects with a fixed name in the Databricks workspace, by resource of the state; and their permissions.

A forced replacement (`pulumi up --replace`, `pulumi state taint`) creates before it deletes: `create` adopts the object
by its name, and `delete` of the old resource would then remove it. So `create` ends by writing the resource's
incarnation into a file of the workspace, and only the resource with that incarnation deletes the object. Deleting first
(`delete_before_replace`) would need no file, but loses grants, a job's runs and a scope's access lists.

If `up` is killed before the file is written, the old resource still owns the object and the next `up` starts again.
"""

import contextlib
import hashlib
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from infra.dynamic.provider import OutputsT, ReleaseProvider
from infra.dynamic.workspace import WorkspaceInputs, databricks_of

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

FOLDER = "/personalization"
"""A folder in the root: "Only workspace admins can create objects in the Workspace root folder"; below /Shared, "All
users have the Can Manage permission".

Source: https://learn.microsoft.com/azure/databricks/security/auth/access-control/ ("Folder ACLs")
"""
_OWNERS = f"{FOLDER}/owners"


WorkspaceInputsT = TypeVar("WorkspaceInputsT", bound=WorkspaceInputs)


class WorkspaceProvider(ReleaseProvider[WorkspaceInputsT, OutputsT], Generic[WorkspaceInputsT, OutputsT]):
    object_name: ClassVar[tuple[str, ...]]
    """Inputs that name the object in its workspace."""

    def owns(self, inputs: WorkspaceInputsT) -> bool:
        """True also without a file: earlier versions wrote none."""
        from databricks.sdk.errors import NotFound

        try:
            with databricks_of(inputs).workspace.download(self._owner(inputs)) as file:
                return file.read().decode() == inputs.incarnation
        except NotFound:
            return True

    def claim(self, inputs: WorkspaceInputsT) -> None:
        from databricks.sdk.service.workspace import ImportFormat

        files = databricks_of(inputs).workspace
        files.mkdirs(_OWNERS)
        content = str(inputs.incarnation).encode()
        files.upload(self._owner(inputs), content, format=ImportFormat.AUTO, overwrite=True)

    def forget(self, inputs: WorkspaceInputsT) -> None:
        from databricks.sdk.errors import NotFound

        with contextlib.suppress(NotFound):
            databricks_of(inputs).workspace.delete(self._owner(inputs))

    def _owner(self, inputs: WorkspaceInputsT) -> str:
        name = "\0".join(str(getattr(inputs, part)) for part in self.object_name)
        return f"{_OWNERS}/{type(self).__name__.strip('_')}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.txt"


def permit(client: "WorkspaceClient", kind: str, object_id: str, level: str, team: str | None) -> None:
    """Replace the permissions of all groups with the team's; admins keep theirs."""
    from databricks.sdk.service.iam import AccessControlRequest, PermissionLevel

    entries = [AccessControlRequest(group_name=team, permission_level=PermissionLevel(level))] if team else []
    client.permissions.set(kind, object_id, access_control_list=entries)


def make_folder(client: "WorkspaceClient", folder: str, level: str, team: str | None) -> None:
    """Create a folder that only admins may change; `level` is the team's permission."""
    client.workspace.mkdirs(folder)
    permit(client, "directories", str(client.workspace.get_status(folder).object_id), level, team)
