"""The one subscription: its admission of requests, and its own description."""

from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.arm.resource_body import merge
from sandbox.arm.store import Body
from sandbox.context import CloudError, Sandbox
from sandbox.identity.entra import require_token

PATH = "/subscriptions/{subscription}"
TABLE = Path(__file__).with_name("offerings.yaml")


def table(sandbox: Sandbox) -> dict[str, Any]:
    """Offerings of the subscription: the shipped table, overridden by the one in the sandbox's folder."""
    own = sandbox.folder / TABLE.name
    return merge(yaml.safe_load(TABLE.read_text()), yaml.safe_load(own.read_text()) if own.exists() else {})


# Source: Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md ("Arguments for CRUD on Resource")
def admit(sandbox: Sandbox, request: Request) -> None:
    """Require a token, an API version (any), and the sandbox's subscription, as ARM does for every request."""
    require_token(sandbox, request, sandbox.url)
    if "api-version" not in request.query_params:
        # Source: Azure/azure-dev#3914; Azure/azure-sdk-for-go#22571 (the status)
        message = "The api-version query parameter (?api-version=) is required for all requests."
        raise CloudError(400, "MissingApiVersionParameter", message)
    path = request.scope["path"].split("/")
    if path[1] == "subscriptions" and len(path) > 2 and path[2].lower() != sandbox.identity.subscription_id:
        # Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/troubleshooting/common-deployment-errors.md
        # (`SubscriptionNotFound`); Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md (the status)
        raise CloudError(404, "SubscriptionNotFound", f"The subscription '{path[2]}' could not be found.")


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    who = sandbox.identity
    own = f"/subscriptions/{who.subscription_id}"

    # Source: Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/subscriptions/models.tsp (`Subscription`)
    async def subscriptions(request: Request) -> Response:
        admit(sandbox, request)
        ids = {"subscriptionId": who.subscription_id, "tenantId": who.tenant_id}
        policies = {"locationPlacementId": "Public_2014-09-01", "quotaId": table(sandbox)["offer"]}
        body: Body = {
            "id": own,
            **ids,
            "displayName": "Sandbox",
            "state": "Enabled",
            "authorizationSource": "RoleBased",
        }
        body |= {"subscriptionPolicies": {**policies, "spendingLimit": "Off"}}
        return JSONResponse(body if request.path_params else {"value": [body]})

    return [Route("/subscriptions", subscriptions), Route(PATH, subscriptions)]
