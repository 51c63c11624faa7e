"""The metastore of a workspace: its id, and who may create storage credentials, external locations and catalogs in it.

One metastore per workspace. The workspace's admins have the privileges until a request revokes them, as if Databricks
had assigned the metastore automatically; without a privilege, creation is refused. Every caller with a token is an
admin.

Source: https://learn.microsoft.com/azure/databricks/data-governance/unity-catalog/manage-privileges/admin-privileges
(workspaces that were enabled for Unity Catalog automatically); databricks/terraform-provider-databricks#2222;
databricks/terraform-provider-databricks#2828 (without the privilege).
"""

import uuid

from starlette.requests import Request

from sandbox.context import CloudError
from sandbox.databricks.workspace import Json, Workspace

ADMINS = "workspace admins"
_PRIVILEGES = {
    "storage-credentials": "CREATE_STORAGE_CREDENTIAL",
    "external-locations": "CREATE_EXTERNAL_LOCATION",
    "catalogs": "CREATE_CATALOG",
}
"""Privilege by the kind of object that it allows to create."""


def require_privilege(workspace: Workspace, kind: str) -> None:
    needed = _PRIVILEGES.get(kind)
    if needed and needed not in _held(workspace):
        message = f"User does not have {needed.replace('_', ' ')} on Metastore '{id_of(workspace)}'."
        raise CloudError(403, "PERMISSION_DENIED", message)


def record(workspace: Workspace) -> Json:
    """Return the metastore's record; its `grants` are privileges by principal."""
    default = {"grants": {ADMINS: sorted(_PRIVILEGES.values())}}
    return workspace.records.get(key(workspace)) or default


def key(workspace: Workspace) -> str:
    return workspace.record("unity", "metastores", id_of(workspace))


def id_of(workspace: Workspace) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{workspace.resource_id.lower()}/metastore"))


async def summary(workspace: Workspace, request: Request) -> Json:
    region = str((workspace.sandbox.store.get(workspace.resource_id) or {}).get("location", ""))
    known = {"metastore_id": id_of(workspace), "default_catalog_name": "main"}
    if request.url.path.endswith("metastore_summary"):
        return known | {"name": f"metastore_azure_{region}", "region": region, "cloud": "azure"}
    return known | {"workspace_id": int(uuid.uuid5(uuid.NAMESPACE_URL, workspace.resource_id)) >> 76}


async def effective(workspace: Workspace, request: Request) -> Json:
    """The caller's privileges, those of the admins included."""
    principal = request.query_params.get("principal", workspace.caller)
    held = [{"privilege": privilege} for privilege in sorted(_held(workspace))]
    return {"privilege_assignments": [{"principal": principal, "privileges": held}] if held else []}


def _held(workspace: Workspace) -> set[str]:
    granted = record(workspace)["grants"]
    return {privilege for principal in (ADMINS, workspace.caller) for privilege in granted.get(principal, ())}
