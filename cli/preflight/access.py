"""Rights of the login: whether it may perform the actions of `up`, and write to the lake.

Checks the login that runs it. Does not check other principals, such as a pipeline's.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial

from cli.preflight.arm_models import Anything, Permission
from cli.preflight.check import Check, Finding, Level, Target
from cli.preflight.requirements import load

# Source: Azure/bicep-types-az generated/authorization/microsoft.authorization/2022-04-01/types.json
_PERMISSIONS = "2022-04-01"
# Source: Azure/azure-rest-api-specs
# specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json
_GROUPS = "2021-04-01"
# Source: MicrosoftDocs/azure-docs articles/role-based-access-control/built-in-roles/privileged.md
_ASSIGNING = "Microsoft.Authorization/"
_ADMINISTRATOR = "Role Based Access Control Administrator"


def checks(target: Target) -> Iterator[Check]:
    yield Check("permissions", "this login", partial(_permissions, target))
    yield Check("deployers", "the lake", partial(_deployers, target))


def allows(permissions: Sequence[Permission], action: str) -> bool:
    """Return whether one of the roles contains the action in its `actions` and not in its `notActions`.

    Source: https://learn.microsoft.com/azure/role-based-access-control/role-definitions#how-actions-are-evaluated
    """

    def matches(patterns: Sequence[str]) -> bool:
        return any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), action, re.IGNORECASE) for pattern in patterns)

    return any(matches(role.actions) and not matches(role.not_actions) for role in permissions)


def _permissions(target: Target) -> Iterator[Finding]:
    # If the group exists, the login may have rights only on the group.
    scope = target.group if target.arm.get(Anything, target.group, _GROUPS) else target.scope
    path = f"{scope}/providers/Microsoft.Authorization/permissions"
    permissions = target.arm.list(Permission, path, _PERMISSIONS)
    needed = load().permissions(target.settings)
    missing = [action for action in needed if not allows(permissions, action)]
    for role, lacking in (
        (_ADMINISTRATOR, [action for action in missing if action.startswith(_ASSIGNING)]),
        ("Contributor", [action for action in missing if not action.startswith(_ASSIGNING)]),
    ):
        if lacking:
            message = f"{target.principal} may not do {', '.join(lacking[:3])}"
            message += f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            yield Finding("permissions", Level.BLOCKING, f"{message} at {scope}", _assign(target, role, scope))
    if not missing:
        yield Finding("permissions", Level.OK, f"all {len(needed)} actions at {scope}")
        unconditional = [role for role in permissions if not role.condition]
        if not allows(unconditional, f"{_ASSIGNING}roleAssignments/write"):
            message = "role assignments have a condition: check that it allows the roles in infra/components/roles.py"
            yield Finding(
                "permissions", Level.WARNING, message, f"az role assignment list --assignee {target.principal} --all"
            )


def _assign(target: Target, role: str, scope: str) -> str:
    return f'az role assignment create --assignee {target.principal} --role "{role}" --scope {scope}'


def _deployers(target: Target) -> Iterator[Finding]:
    deployers = target.settings.access.deployers
    if target.principal in deployers or "Group" in deployers.values():
        yield Finding("deployers", Level.OK, "this login, or a group, may write to the lake")
    else:
        message = f"{target.principal}, this login, is not in access:deployers and could not upload rows to the lake"
        add = f"pulumi config set --stack {target.stack} --path 'access:deployers.{target.principal}' {target.kind}"
        yield Finding("deployers", Level.WARNING, message, f"{add}\nmake up STACK={target.stack}")
