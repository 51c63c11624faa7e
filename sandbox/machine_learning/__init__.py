"""The sandbox's Azure ML: workspaces' assets, attached Kubernetes compute, online endpoints and their router.

Deployments run the real scoring service. There are no jobs, no training compute and no managed endpoints.
"""

from starlette.routing import BaseRoute

from sandbox.cloud import Behaviour, Sandbox
from sandbox.machine_learning import deployments, endpoints, router, workspace


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    return router.routes(sandbox)


def behaviours(sandbox: Sandbox) -> dict[str, Behaviour]:
    return workspace.behaviours(sandbox) | endpoints.behaviours(sandbox) | deployments.behaviours(sandbox)


async def resume(sandbox: Sandbox) -> None:
    await deployments.resume(sandbox)


async def shutdown(sandbox: Sandbox) -> None:
    await endpoints.disband(sandbox)
