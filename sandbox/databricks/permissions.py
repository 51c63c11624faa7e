"""Permissions on clusters, policies and jobs: stored and returned, not enforced.

Levels: https://docs.databricks.com/aws/en/security/auth/access-control (one table for each kind of object). A job has
exactly one owner, which is never a group; at first its creator. Folders: `folder_permissions.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from sandbox.databricks import clusters, jobs, policies
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of

# Source: databricks-sdk==0.156.0 databricks/sdk/service/iam.py (AccessControlRequest)
_PRINCIPALS = ("group_name", "user_name", "service_principal_name")


@dataclass(frozen=True)
class _Kind:
    name: str
    levels: tuple[str, ...]
    find: Callable[[Workspace, str], Any]
    """Raise `CloudError` where the object does not exist."""


# Source: databricks/terraform-provider-databricks permissions/permission_definitions.go (cluster, cluster policy, job)
_KINDS = {
    "clusters": _Kind("cluster", ("CAN_ATTACH_TO", "CAN_RESTART", "CAN_MANAGE"), clusters.find),
    "cluster-policies": _Kind("cluster-policy", ("CAN_USE",), policies.find),
    "jobs": _Kind("job", ("CAN_VIEW", "CAN_MANAGE_RUN", "IS_OWNER", "CAN_MANAGE"), jobs.find),
}


def handlers() -> Iterator[tuple[str, str, Handler]]:
    for method in ("GET", "PUT", "PATCH"):
        yield method, "/api/2.0/permissions/{kind}/{id}", _permissions
    yield "GET", "/api/2.0/permissions/{kind}/{id}/permissionLevels", _levels


# Source: databricks-sdk==0.156.0 databricks/sdk/service/iam.py (PermissionsAPI.get; set: replaces; update)
async def _permissions(workspace: Workspace, request: Request) -> Json:
    kind, object_id, found = _sought(workspace, request)
    record = workspace.record("permissions", request.path_params["kind"], object_id)
    granted: dict[str, str] | None = workspace.records.get(record)
    if granted is None:
        granted = {f"service_principal_name={found['creator_user_name']}": "IS_OWNER"} if kind.name == "job" else {}
    if request.method != "GET":
        asked = (await body_of(request)).get("access_control_list", [])
        wrong = sorted({str(entry.get("permission_level")) for entry in asked} - set(kind.levels))
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)} is not a permission level of a {kind.name}: {', '.join(kind.levels)}."
            )
        changed = {principal_of(entry): entry["permission_level"] for entry in asked}
        granted = changed if request.method == "PUT" else _with(granted, changed)
        if kind.name == "job":
            _require_owner(granted)
        workspace.records.put(record, granted)
    entries = [
        _entry(principal, {"permission_level": level, "inherited": False}) for principal, level in granted.items()
    ]
    shown_id = f"/{request.path_params['kind']}/{object_id}"
    return {"object_id": shown_id, "object_type": kind.name, "access_control_list": entries}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/iam.py (PermissionsAPI.get_permission_levels)
async def _levels(workspace: Workspace, request: Request) -> Json:
    kind, _, _ = _sought(workspace, request)
    return {"permission_levels": [{"permission_level": level} for level in kind.levels]}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/iam.py (PermissionsAPI.get: request_object_type)
def _sought(workspace: Workspace, request: Request) -> tuple[_Kind, str, Any]:
    kind, object_id = _KINDS.get(request.path_params["kind"]), request.path_params["id"]
    if kind is None:
        raise ValueError(f"The sandbox has permissions of {', '.join(_KINDS)} only.")
    return kind, object_id, kind.find(workspace, object_id)


def _with(granted: dict[str, str], changed: dict[str, str]) -> dict[str, str]:
    """The permissions after the change. A new owner replaces the old one."""
    if "IS_OWNER" in changed.values():
        granted = {principal: level for principal, level in granted.items() if level != "IS_OWNER"}
    return granted | changed


def _require_owner(granted: dict[str, str]) -> None:
    owners = [principal for principal, level in granted.items() if level == "IS_OWNER"]
    if len(owners) != 1:
        # Source: databricks/cli libs/testserver/permissions.go ("must have exactly one owner", verified against the
        # backend)
        raise ValueError("The job must have exactly one owner.")
    if owners[0].startswith("group_name="):
        # No source: give a group IS_OWNER of a job and read the error.
        raise ValueError("Groups can not be owners.")


def principal_of(entry: Json) -> str:
    named = [f"{key}={entry[key]}" for key in _PRINCIPALS if entry.get(key)]
    if len(named) != 1:
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/iam.py (AccessControlRequest)
        # No source: set permissions with an entry of two names and read the error.
        raise ValueError("an access control entry names one of group_name, user_name and service_principal_name.")
    return named[0]


def _entry(principal: str, permission: Json) -> Json:
    key, _, name = principal.partition("=")
    return {key: name, "all_permissions": [permission]}
