"""Permissions on workspace folders (`/api/2.0/permissions/directories`), stored and inherited, not enforced.

Levels and inheritance are those of Azure Databricks' "Access control lists" and "Share workspace objects using
folders": an object inherits the permissions of its folder, and below /Shared every user has CAN_MANAGE, which cannot be
revoked there. Admins' own entries are left out, as everywhere in this workspace.
"""

from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request

from sandbox.context import CloudError
from sandbox.databricks.files import local_path
from sandbox.databricks.permissions import principal_of
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of

# Source: databricks/terraform-provider-databricks permissions/permission_definitions.go (directory)
_LEVELS = ("CAN_READ", "CAN_RUN", "CAN_EDIT", "CAN_MANAGE")


def handlers() -> Iterator[tuple[str, str, Handler]]:
    for method in ("GET", "PUT", "PATCH"):
        yield method, "/api/2.0/permissions/directories/{id}", _permissions


# Source: databricks-sdk==0.156.0 databricks/sdk/service/iam.py (PermissionsAPI.get; set; update)
async def _permissions(workspace: Workspace, request: Request) -> Json:
    root, object_id = local_path(workspace, "/"), request.path_params["id"]
    folders = (path for path in (root, *root.rglob("*")) if path.is_dir() and _id(path) == object_id)
    folder = next(folders, None)
    if folder is None:
        # No source: get the permissions of an unknown directory id and read the error.
        raise CloudError(404, "RESOURCE_DOES_NOT_EXIST", f"Node ID {object_id} does not exist.")
    if request.method != "GET":
        asked = (await body_of(request)).get("access_control_list", [])
        if wrong := sorted({str(entry.get("permission_level")) for entry in asked} - set(_LEVELS)):
            raise ValueError(f"{', '.join(wrong)} is not a permission level of a directory: {', '.join(_LEVELS)}.")
        changed = {principal_of(entry): entry["permission_level"] for entry in asked}
        before = {} if request.method == "PUT" else _granted(workspace, folder)
        workspace.records.put(_record(workspace, folder), {"path": str(folder), "granted": before | changed})
    entries: dict[str, list[Json]] = {}
    for path in (folder, *folder.parents[: len(folder.relative_to(root).parts)]):
        inherited = {"inherited": path != folder, "inherited_from_object": [f"/directories/{_id(path)}"]}
        for principal, level in _granted(workspace, path).items():
            entries.setdefault(principal, []).append(
                {"permission_level": level, **(inherited if path != folder else {})}
            )
    shown = [
        {principal.partition("=")[0]: principal.partition("=")[2], "all_permissions": levels}
        for principal, levels in entries.items()
    ]
    return {"object_id": f"/directories/{object_id}", "object_type": "directory", "access_control_list": shown}


def _granted(workspace: Workspace, folder: Path) -> dict[str, str]:
    found = workspace.records.get(_record(workspace, folder)) or {}
    # The inode number of a deleted folder may be reused.
    granted: dict[str, str] = found.get("granted", {}) if found.get("path") == str(folder) else {}
    # No source: get the permissions of /Shared and of a folder in it.
    everybody = {"group_name=users": "CAN_MANAGE"} if folder == local_path(workspace, "/Shared") else {}
    return granted | everybody


def _record(workspace: Workspace, folder: Path) -> str:
    return workspace.record("permissions", "directories", _id(folder))


def _id(folder: Path) -> str:
    return str(folder.stat().st_ino)
