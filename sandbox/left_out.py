"""Services of Azure that the sandbox does not have: a request for one is refused by its name.

Types of ARM resources that are left out are in `types.yaml`, paths of Databricks in `databricks/__init__.py`.
"""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sandbox.cloud import CloudError

_PATHS = {
    "/v1.0/{path:path}": "Microsoft Graph",
    "/vault/{vault}/{path:path}": "keys, secrets and certificates of key vaults",
    "/{registry}/v2/{path:path}": "pulling and pushing images",
    "/{registry}/oauth2/exchange": "pulling and pushing images",
    **{f"/{service}/{{account}}/{{path:path}}": "files, queues and tables" for service in ("file", "queue", "table")},
}
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def routes() -> list[BaseRoute]:
    return [Route(path, partial(_refuse, name), methods=_METHODS) for path, name in _PATHS.items()]


async def _refuse(name: str, request: Request) -> Response:
    raise CloudError(501, "NotImplemented", f"The sandbox leaves out {name} ('{request.url.path}').")
