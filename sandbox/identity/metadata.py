"""The document that gives a client all addresses of the cloud, when it has only a host name, in Azure's formats.

- from 2022-09-01: one object, which Azure CLI reads to register a cloud (`_populate_from_metadata_endpoint`)
- from 2018 until then: a list of clouds, which ARM_CLOUD_METADATA_URL takes (`retrieve_arm_cloud_metadata`)
- before: the four addresses that Azure Stack shows (`get_cloud_from_metadata_endpoint`)

Source: Azure/azure-cli src/azure-cli/azure/cli/command_modules/cloud/custom.py; Azure/azure-cli
src/azure-cli-core/azure/cli/core/cloud.py; Azure/msrestazure-for-python msrestazure/azure_cloud.py
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.context import CloudError, Sandbox
from sandbox.identity.entra import management_audience

_RESOURCES = (
    "resourceManager portal graph graphAudience media batch gallery sqlManagement activeDirectoryDataLake "
    "microsoftGraphResourceId appInsightsResourceId appInsightsTelemetryChannelResourceId attestationResourceId "
    "synapseAnalyticsResourceId logAnalyticsResourceId ossrDbmsResourceId"
)
_SUFFIXES = "storage keyVaultDns acrLoginServer sqlServerHostname mhsmDns azureFrontDoorEndpointSuffix"


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    async def endpoints(request: Request) -> Response:
        version = request.query_params.get("api-version")
        if not version:
            # Source: Azure/azure-dev#3914
            message = "The api-version query parameter (?api-version=) is required for all requests."
            raise CloudError(400, "MissingApiVersionParameter", message)
        if version < "2018":
            return JSONResponse(_oldest(sandbox))
        return JSONResponse([_cloud(sandbox)] if version < "2022-09-01" else _cloud(sandbox))

    # A client that appends the path to an address with a final slash sends two slashes.
    return [Route(path, endpoints) for path in ("/metadata/endpoints", "//metadata/endpoints")]


def _cloud(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "name": "Sandbox",
        "authentication": {
            # Clients append `/{tenant}`; for another tenant or provider than these they assume Azure Stack.
            "loginEndpoint": sandbox.url,
            "audiences": [management_audience(sandbox), f"{sandbox.url}/"],
            "tenant": "common",
            "identityProvider": "AAD",
        },
        **dict.fromkeys(_RESOURCES.split(), f"{sandbox.url}/"),
        "suffixes": dict.fromkeys(_SUFFIXES.split(), sandbox.authority),
    }


def _oldest(sandbox: Sandbox) -> dict[str, Any]:
    addresses = dict.fromkeys(("galleryEndpoint", "graphEndpoint", "portalEndpoint"), f"{sandbox.url}/")
    return {**addresses, "authentication": {"loginEndpoint": sandbox.url, "audiences": [f"{sandbox.url}/"]}}
