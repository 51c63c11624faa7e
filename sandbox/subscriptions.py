"""The one subscription: whose requests it admits, and what it says of itself."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.cloud import CloudError, Sandbox
from sandbox.entra import require_token

PATH = "/subscriptions/{subscription}"


# Source: Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md ("Arguments for CRUD on Resource")
def admit(sandbox: Sandbox, request: Request) -> None:
    """What ARM asks of every request: a token, an API version (any will do), and our subscription."""
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
        body = {"id": own, **ids, "displayName": "Sandbox", "state": "Enabled"}
        return JSONResponse(body if request.path_params else {"value": [body]})

    return [Route("/subscriptions", subscriptions), Route(PATH, subscriptions)]
