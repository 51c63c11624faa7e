"""`checkAccess`: whether role assignments that are in effect allow a principal certain actions at a scope.

Evaluates assignments to the principal itself. Does not evaluate groups, deny assignments or conditions.

Source: kubeguard/guard authz/providers/azure/rbac/rbac.go (path, API version, 404 for a resource that is gone);
kubeguard/guard authz/providers/azure/rbac/checkaccessreqhelper.go (request, answer: a list of decisions)
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.context import CloudError, Sandbox
from sandbox.identity import role_assignments, role_definitions

PATH = "/providers/microsoft.authorization"
ACTION = "checkaccess"


def allowed(sandbox: Sandbox, principal: str, action: str, scope: str, *, data: bool = False) -> bool:
    """Whether an assignment in effect at `scope` or above allows the principal the action."""
    return any(
        role_definitions.allows(_role(body), action, data=data) and role_assignments.in_effect(sandbox, body)
        for body in role_assignments.find(sandbox.store, scope, f"atScope() and principalId eq '{principal.lower()}'")
    )


async def check(sandbox: Sandbox, scope: str, request: Request) -> Response:
    asked = await request.json()
    principal, actions = dig(asked, "Subject.Attributes.ObjectId"), asked.get("Actions")
    if not principal or not actions or dig(asked, "Resource.Id") is None:
        raise CloudError(
            400, "BadRequestFormat", "A check must have Subject.Attributes.ObjectId, Actions and Resource.Id."
        )
    return JSONResponse([_decision(sandbox, str(principal), action, scope) for action in actions])


def _decision(sandbox: Sandbox, principal: str, asked: dict[str, Any], scope: str) -> Body:
    action, data = str(asked["Id"]), bool(asked.get("IsDataAction"))
    verdict = "Allowed" if allowed(sandbox, principal, action, scope, data=data) else "NotAllowed"
    return {"actionId": action, "accessDecision": verdict, "isDataAction": data, "timeToLiveInMs": 0}


def _role(body: Body) -> str:
    return str(body["properties"]["roleDefinitionId"]).rpartition("/")[2]
