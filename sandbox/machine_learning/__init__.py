"""The sandbox's Azure ML: workspaces' assets, the extension, attached compute, online endpoints and their router.

Deployments run the real scoring service. There are no jobs, no training compute and no managed endpoints.
"""

from starlette.routing import BaseRoute

from sandbox.context import Behaviour, Sandbox
from sandbox.machine_learning import deployments, endpoints, extension, router, workspace


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    return router.routes(sandbox)


def behaviours(sandbox: Sandbox) -> dict[str, Behaviour]:
    modules = (extension, workspace, endpoints, deployments)
    return {kind: found for module in modules for kind, found in module.behaviours(sandbox).items()}


async def resume(sandbox: Sandbox) -> None:
    await deployments.resume(sandbox)


async def shutdown(sandbox: Sandbox) -> None:
    await endpoints.disband(sandbox)
