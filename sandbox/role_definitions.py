"""Built-in roles by name and id, as `roles.yaml` holds them: read and listed. Has no custom roles and enforces none."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from sandbox.cloud import CloudError, Sandbox
from sandbox.store import Body

TYPE = "microsoft.authorization/roledefinitions"
_TABLE = Path(__file__).with_name("roles.yaml")
# Source: MicrosoftDocs/azure-docs articles/role-based-access-control/role-definitions-list.md (`atScopeAndBelow`,
# `type`); Azure/azure-cli#30593 (`roleName`)
_FILTER = re.compile(r"(roleName|type) eq '((?:[^']|'')*)'|atScopeAndBelow\(\)", re.IGNORECASE)
# Source: MicrosoftDocs/azure-docs articles/role-based-access-control/role-definitions.md
_PERMISSIONS = ("actions", "notActions", "dataActions", "notDataActions")


def get(sandbox: Sandbox, role: str) -> Body:
    for name, known in _roles().items():
        if known["id"] == role.lower():
            return _shown(sandbox, name, known)
    message = f"The specified role definition with ID '{role}' does not exist among those of sandbox/roles.yaml."
    # Source: JulianHayward/AzAPICall#23 (the code; the status is not shown)
    raise CloudError(404, "RoleDefinitionDoesNotExist", message)


def find(sandbox: Sandbox, asked: str) -> list[Body]:
    found = [_shown(sandbox, name, known) for name, known in _roles().items()]
    if not asked:
        return found
    clause = _FILTER.fullmatch(asked.strip())
    if clause is None:
        supported = "either roleName eq '{value}' or type eq 'BuiltInRole|CustomRole'"
        message = f"The filter '{asked}' is not supported. Supported filters are {supported}."
        # Source: Azure/azure-cli#30593 (code and message)
        raise CloudError(400, "UnsupportedFilter", message)
    if clause[1]:
        key = {"rolename": "roleName", "type": "type"}[clause[1].lower()]
        found = [role for role in found if role["properties"][key].lower() == clause[2].replace("''", "'").lower()]
    return found


@lru_cache
def _roles() -> Mapping[str, Mapping[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(_TABLE.read_bytes())
    return loaded


def _shown(sandbox: Sandbox, name: str, known: Mapping[str, Any]) -> Body:
    path = f"/subscriptions/{sandbox.identity.subscription_id}/providers/Microsoft.Authorization/roleDefinitions"
    properties = {
        "roleName": name,
        "type": "BuiltInRole",
        "description": known["description"],
        "assignableScopes": ["/"],
        "permissions": [{part: known.get(part, []) for part in _PERMISSIONS}],
    }
    resource = {"id": f"{path}/{known['id']}", "name": known["id"], "type": "Microsoft.Authorization/roleDefinitions"}
    return {**resource, "properties": properties}
