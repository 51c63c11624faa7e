"""Secret scopes (`/api/2.0/secrets`): files that only their owner can read, in the workspace's folder.

Access lists are stored but not enforced: every caller with a token of this workspace is an admin. Has no scopes backed
by a key vault. `get` returns values, and so does `dbutils.secrets`, which reads the same files; lists have only keys.
"""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request

from sandbox import state_files
from sandbox.context import CloudError
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of

# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.create_scope: path)
_PREFIX = "/api/2.0/secrets"
# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.create_scope; put_secret: alphanumeric
# characters, dashes, underscores, and periods, 128 at most)
_NAME = re.compile(r"(?!\.+$)[\w.-]{1,128}", re.ASCII)
# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.put_secret: 128 KB)
_LIMIT = 128 * 1024
# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.put_secret)
_MOST = 1000
# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (AclPermission)
_PERMISSIONS = ("READ", "WRITE", "MANAGE")


def handlers() -> Iterator[tuple[str, str, Handler]]:
    writes: dict[str, Handler] = {"scopes/create": _create, "scopes/delete": _drop, "put": _put, "delete": _delete}
    writes |= {"acls/put": _put_acl, "acls/delete": _delete_acl}
    yield from (("POST", f"{_PREFIX}/{name}", handler) for name, handler in writes.items())
    reads: dict[str, Handler] = {"scopes/list": _scopes, "list": _list, "get": _get}
    reads |= {"acls/list": _acls, "acls/get": _acl}
    yield from (("GET", f"{_PREFIX}/{name}", handler) for name, handler in reads.items())


def folder(workspace: Workspace) -> Path:
    """Folder of all scopes; `<scope>/<key>` in it is a secret's file."""
    return workspace.folder / "secrets"


def _scope(workspace: Workspace, name: str) -> Path:
    scope = folder(workspace) / _valid("scope", name)
    if not scope.is_dir():
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.delete_scope:
        # RESOURCE_DOES_NOT_EXIST); databricks/cli libs/testserver/secret_scopes.go (404, "Scope %s does not exist")
        raise CloudError(404, "RESOURCE_DOES_NOT_EXIST", f"Scope {name} does not exist!")
    return scope


def _secret(workspace: Workspace, scope: str, key: str) -> Path:
    secret = _scope(workspace, scope) / _valid("key", key)
    if not secret.is_file():
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.delete_secret:
        # RESOURCE_DOES_NOT_EXIST)
        raise CloudError(404, "RESOURCE_DOES_NOT_EXIST", f"Secret does not exist with scope: {scope} and key: {key}")
    return secret


def _valid(kind: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.put_secret:
        # INVALID_PARAMETER_VALUE)
        raise ValueError(f"{kind} {name!r} is not a name of 1 to 128 letters, digits and -_. characters.")
    return name


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.create_scope: RESOURCE_ALREADY_EXISTS;
# initial_manage_principal)
async def _create(workspace: Workspace, request: Request) -> Json:
    body = await body_of(request)
    if body.get("scope_backend_type", "DATABRICKS") != "DATABRICKS":
        raise ValueError("The sandbox keeps secrets itself: scope_backend_type can be DATABRICKS only.")
    scope = folder(workspace) / _valid("scope", body.get("scope", ""))
    if scope.exists():
        raise CloudError(400, "RESOURCE_ALREADY_EXISTS", f"Scope {scope.name} already exists!")
    scope.mkdir(parents=True, mode=0o700)
    # The creator has MANAGE, or everybody with `initial_manage_principal`, which can only be `users`.
    manager = body.get("initial_manage_principal") or workspace.caller
    if manager not in ("users", workspace.caller):
        raise ValueError(f"initial_manage_principal can be users only, not {manager}.")
    workspace.records.put(_access(workspace, scope.name), {manager: "MANAGE"})
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.delete_scope)
async def _drop(workspace: Workspace, request: Request) -> Json:
    scope = _scope(workspace, (await body_of(request)).get("scope", ""))
    shutil.rmtree(scope)
    workspace.records.delete(_access(workspace, scope.name))
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.put_secret: exactly one value, 128 KB,
# 1000 secrets in a scope)
async def _put(workspace: Workspace, request: Request) -> Json:
    body = await body_of(request)
    given = [body[kind] for kind in ("string_value", "bytes_value") if kind in body]
    if len(given) != 1:
        raise ValueError("Exactly one of string_value and bytes_value is required.")
    value = body["string_value"].encode() if "string_value" in body else base64.b64decode(given[0], validate=True)
    if len(value) > _LIMIT:
        raise ValueError(f"A secret has at most {_LIMIT} bytes, this one {len(value)}.")
    secret = _scope(workspace, body.get("scope", "")) / _valid("key", body.get("key", ""))
    if not secret.exists() and len(list(secret.parent.iterdir())) >= _MOST:
        raise CloudError(400, "RESOURCE_LIMIT_EXCEEDED", f"Scope {secret.parent.name} has {_MOST} secrets already.")
    state_files.write(secret, value)
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.delete_secret)
async def _delete(workspace: Workspace, request: Request) -> Json:
    body = await body_of(request)
    _secret(workspace, body.get("scope", ""), body.get("key", "")).unlink()
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.list_scopes)
async def _scopes(workspace: Workspace, _: Request) -> Json:
    found = sorted(folder(workspace).iterdir()) if folder(workspace).is_dir() else []
    return {"scopes": [{"name": scope.name, "backend_type": "DATABRICKS"} for scope in found]}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.list_secrets)
async def _list(workspace: Workspace, request: Request) -> Json:
    secrets = sorted(_scope(workspace, request.query_params.get("scope", "")).iterdir())
    return {
        "secrets": [
            {"key": secret.name, "last_updated_timestamp": int(secret.stat().st_mtime * 1000)} for secret in secrets
        ]
    }


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.get_secret)
# No source: whether a call from outside of a notebook is refused (BAD_REQUEST), as that docstring says: databricks
# secrets get-secret <scope> <key>.
async def _get(workspace: Workspace, request: Request) -> Json:
    scope, key = (request.query_params.get(name, "") for name in ("scope", "key"))
    return {"key": key, "value": base64.b64encode(_secret(workspace, scope, key).read_bytes()).decode()}


def _access(workspace: Workspace, scope: str) -> str:
    return workspace.record("secret-acls", scope)


def _granted(workspace: Workspace, scope: str) -> dict[str, str]:
    return workspace.records.get(_access(workspace, _scope(workspace, scope).name)) or {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.put_acl: "Creates or overwrites";
# INVALID_PARAMETER_VALUE)
async def _put_acl(workspace: Workspace, request: Request) -> Json:
    body = await body_of(request)
    granted, permission = _granted(workspace, body.get("scope", "")), body.get("permission")
    if permission not in _PERMISSIONS or not body.get("principal"):
        raise ValueError(f"An access list names a principal and one of {', '.join(_PERMISSIONS)}, not {permission}.")
    workspace.records.put(_access(workspace, body["scope"]), granted | {body["principal"]: permission})
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.delete_acl)
async def _delete_acl(workspace: Workspace, request: Request) -> Json:
    body = await body_of(request)
    granted = _granted(workspace, body.get("scope", ""))
    _require_listed(granted, body.get("scope", ""), body.get("principal", ""))
    kept = {principal: permission for principal, permission in granted.items() if principal != body["principal"]}
    workspace.records.put(_access(workspace, body["scope"]), kept)
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (ListAclsResponse)
async def _acls(workspace: Workspace, request: Request) -> Json:
    granted = _granted(workspace, request.query_params.get("scope", ""))
    return {"items": [{"principal": principal, "permission": permission} for principal, permission in granted.items()]}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.get_acl)
async def _acl(workspace: Workspace, request: Request) -> Json:
    scope, principal = (request.query_params.get(name, "") for name in ("scope", "principal"))
    granted = _granted(workspace, scope)
    _require_listed(granted, scope, principal)
    return {"principal": principal, "permission": granted[principal]}


def _require_listed(granted: dict[str, str], scope: str, principal: str) -> None:
    if principal not in granted:
        message = f"Failed to get secret acl for principal {principal} for scope {scope}."
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.get_acl:
        # RESOURCE_DOES_NOT_EXIST)
        # No source: get the ACL of a principal without one and read the message.
        raise CloudError(404, "RESOURCE_DOES_NOT_EXIST", message)
