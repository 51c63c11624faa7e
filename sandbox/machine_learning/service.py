"""Azure ML as a service of a sandbox, composed of this package's modules.

Deployments run the real scoring service. Has no jobs, training compute or managed endpoints.
"""

from collections.abc import Iterable

from starlette.routing import BaseRoute

from sandbox.context import Behaviour, Machines, Sandbox
from sandbox.machine_learning import deployments, endpoints, extension, router, workspace
from sandbox.service import ResourceRules

_RULES: tuple[ResourceRules, ...] = (extension, workspace, endpoints, deployments)


class MachineLearningService:
    name = "machine_learning"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[BaseRoute]:
        return router.routes(self._sandbox)

    def behaviours(self) -> dict[str, Behaviour]:
        return {kind: behaviour for rules in _RULES for kind, behaviour in rules.behaviours().items()}

    def machines(self) -> Iterable[Machines]:
        """Replicas run on the cluster's nodes, which the cluster's own rules count."""
        return ()

    async def resume(self) -> None:
        await deployments.resume(self._sandbox)

    async def shutdown(self) -> None:
        await endpoints.disband(self._sandbox)
