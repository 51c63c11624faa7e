"""Built-in roles of `roles.yaml`, by name and id. Has no custom roles, and does not enforce roles itself."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from sandbox.arm.store import Body
from sandbox.context import CloudError, Sandbox

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
    message = (
        f"The specified role definition with ID '{role}' does not exist among those of sandbox/identity/roles.yaml."
    )
    # Source: JulianHayward/AzAPICall#23 (the code; the status is not shown)
    raise CloudError(404, "RoleDefinitionDoesNotExist", message)


def find(sandbox: Sandbox, asked: str) -> list[Body]:
    roles = [_shown(sandbox, name, known) for name, known in _roles().items()]
    if not asked:
        return roles
    clause = _FILTER.fullmatch(asked.strip())
    if clause is None:
        supported = "either roleName eq '{value}' or type eq 'BuiltInRole|CustomRole'"
        message = f"The filter '{asked}' is not supported. Supported filters are {supported}."
        # Source: Azure/azure-cli#30593 (code and message)
        raise CloudError(400, "UnsupportedFilter", message)
    if clause[1]:
        key = {"rolename": "roleName", "type": "type"}[clause[1].lower()]
        value = clause[2].replace("''", "'").lower()
        roles = [role for role in roles if role["properties"][key].lower() == value]
    return roles


def allows(role: str, action: str, *, data: bool = False) -> bool:
    """Whether the role with this id has the action. A role that is not in `roles.yaml` has no action.

    A `*` matches any part of an action, also an empty one between two slashes: AKS needs
    `userAssignedIdentities/assign/action`, and the role for it has `userAssignedIdentities/*/assign/action`.
    Source: MicrosoftDocs/azure-docs articles/role-based-access-control/role-definitions.md;
    aztfmod/terraform-azurerm-caf#928
    """
    known = next((each for each in _roles().values() if each["id"] == role.lower()), {})
    given, excluded = ("dataActions", "notDataActions") if data else ("actions", "notActions")
    return _names(known.get(given, ()), action) and not _names(known.get(excluded, ()), action)


def _names(patterns: Iterable[str], action: str) -> bool:
    wanted = action.lower()
    spelled = (form.lower() for pattern in patterns for form in (pattern, pattern.replace("/*/", "/")))
    return any(fnmatch.fnmatchcase(wanted, form) for form in spelled)


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
