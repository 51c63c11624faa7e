"""Role assignments: stored, and checked for consistency.

ARM does not enforce them on its own requests. Other modules enforce roles on blob data (`blob.py`), of a cluster's
identity on its kubelet's (`resource_rules/cluster_identity.py`), and of Azure ML's identity on a cluster that it
attaches (`machine_learning/workspace.py`).
"""

import datetime
import json
import re

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body, ResourceStore
from sandbox.context import Behaviour, CloudError, Sandbox

TYPE = "Microsoft.Authorization/roleAssignments"
# Source: azure-mgmt-authorization==4.0.0
# azure/mgmt/authorization/v2022_04_01/operations/_role_assignments_operations.py (`list_for_scope`);
# MicrosoftDocs/azure-docs articles/role-based-access-control/role-assignments-list-rest.md
_CLAUSE = r"(?:atScope\(\)|principalId eq '[^']+'|assignedTo\('[^']+'\))"
_FILTER = re.compile(rf"{_CLAUSE}(?: and {_CLAUSE})*")
_PART = f"/providers/{TYPE}/"


def behaviours() -> dict[str, Behaviour]:
    return {TYPE.lower(): Behaviour(on_put=_assign)}


def find(store: ResourceStore, scope: str, asked: str) -> list[Body]:
    """Role assignments at and above a scope; without `atScope()` in the filter also below it."""
    if asked and not _FILTER.fullmatch(asked.strip()):
        message = (
            f"The filter '{asked}' is not supported. Supported filters are either 'atScope()' or "
            "'principalId eq '{value}' or assignedTo('{value}')'."
        )
        # Source: Azure/azure-rest-api-specs#28255 (the message)
        # No source: list role assignments on Azure with a filter that is none of these, and read the code.
        raise CloudError(400, "UnsupportedQuery", message)
    principal = re.search(r"(?:principalId eq |assignedTo\()'([^']+)'", asked)
    assignments = []
    for resource_id, body in store.below(""):
        if body["type"] == TYPE:
            at, here = f"{_scope(resource_id)}/".lower(), f"{scope}/".lower()
            fits = here.startswith(at) or (at.startswith(here) and "atScope()" not in asked)
            if fits and (not principal or body["properties"]["principalId"].lower() == principal[1].lower()):
                assignments.append(body)
    return assignments


def in_effect(sandbox: Sandbox, body: Body) -> bool:
    """Whether the assignment is in effect, which it is some time after its creation.

    If the clock was set back, its age is 0.
    """
    created = datetime.datetime.fromisoformat(dig(body, "systemData.createdAt"))
    age = (datetime.datetime.now(datetime.UTC) - created).total_seconds()
    return max(age, 0.0) >= sandbox.settings.role_propagation


# Source: MicrosoftDocs/azure-docs articles/role-based-access-control/role-assignments-rest.md
async def _assign(sandbox: Sandbox, resource_id: str, body: Body) -> None:
    properties = body["properties"]
    for name in ("principalId", "roleDefinitionId"):
        if not properties.get(name):
            # No source: PUT a role assignment without it on Azure, and read the code.
            raise CloudError(400, "InvalidRequestContent", f"A role assignment needs properties.{name}.")
    if "principalType" not in properties:
        if not _exists(sandbox, properties["principalId"]):
            # Source: Azure/avdaccelerator#99; hashicorp/terraform-provider-azurerm
            # internal/services/authorization/role_assignment_resource.go (repeats it, as it passes)
            message = (
                f"Principal {properties['principalId']} does not exist in the directory {sandbox.identity.tenant_id}. "
                "Check that you have the correct principal ID. If you are creating this principal and then immediately "
                "assigning a role, this error might be related to a replication delay. In this case, set the role "
                "assignment principalType property to a value, such as ServicePrincipal, User, or Group."
            )
            raise CloudError(400, "PrincipalNotFound", message)
        properties["principalType"] = "ServicePrincipal"
    scope = _scope(resource_id)
    properties["scope"] = scope
    changes = {"createdOn": "createdAt", "updatedOn": "lastModifiedAt"}
    properties |= {name: dig(body, f"systemData.{known}") for name, known in changes.items()}
    properties |= dict.fromkeys(("createdBy", "updatedBy"), sandbox.identity.object_id)
    for other, assigned in sandbox.store.below(scope):
        if not other.lower().startswith((scope + _PART).lower()):
            continue
        same = _grant(assigned) == _grant(body)
        if other.lower() == resource_id.lower() and not same:
            # Source: MicrosoftDocs/azure-docs articles/role-based-access-control/troubleshooting.md;
            # Azure/Azure-Landing-Zones#2040
            message = "Tenant ID, application ID, principal ID, and scope are not allowed to be updated."
            raise CloudError(400, "RoleAssignmentUpdateNotPermitted", message)
        if other.lower() != resource_id.lower() and same:
            # Source: MicrosoftDocs/azure-docs articles/role-based-access-control/troubleshooting.md
            known = assigned["name"].replace("-", "")
            message = f"The role assignment already exists. The ID of the existing role assignment is {known}."
            raise CloudError(409, "RoleAssignmentExists", message)


def _scope(resource_id: str) -> str:
    return resource_id[: resource_id.lower().rindex(_PART.lower())]


def _grant(body: Body) -> tuple[str, str]:
    role = body["properties"]["roleDefinitionId"].rsplit("/", 1)[-1]
    return body["properties"]["principalId"].lower(), role.lower()


def _exists(sandbox: Sandbox, principal: str) -> bool:
    """Whether it is the sandbox's service principal, or an identity that a stored resource has."""
    shown = (json.dumps(body).lower() for _, body in sandbox.store.below("") if body.get("type") != TYPE)
    return principal.lower() == sandbox.identity.object_id or any(f'"{principal.lower()}"' in body for body in shown)
