"""The document by which a client that knows only a host name learns the whole cloud, in its schema of 2022-09-01."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.cloud import Sandbox

_RESOURCES = (
    "resourceManager portal graph graphAudience media batch gallery sqlManagement activeDirectoryDataLake "
    "microsoftGraphResourceId appInsightsResourceId appInsightsTelemetryChannelResourceId attestationResourceId "
    "synapseAnalyticsResourceId logAnalyticsResourceId ossrDbmsResourceId"
)
_SUFFIXES = "storage keyVaultDns acrLoginServer sqlServerHostname mhsmDns azureFrontDoorEndpointSuffix"


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    async def endpoints(request: Request) -> Response:
        document = {
            "name": "Sandbox",
            "authentication": {
                # Clients append `/{tenant}`; any other tenant or provider than these means Azure Stack to them.
                "loginEndpoint": sandbox.url,
                "audiences": [f"{sandbox.url}/"],
                "tenant": "common",
                "identityProvider": "AAD",
            },
            **dict.fromkeys(_RESOURCES.split(), f"{sandbox.url}/"),
            "suffixes": dict.fromkeys(_SUFFIXES.split(), sandbox.authority),
        }
        return JSONResponse(document)

    return [Route("/metadata/endpoints", endpoints)]
