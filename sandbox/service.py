"""Interfaces between the server and the parts that it composes: services, and the rules of resource types.

Every member is required. A service without machines, or with nothing to resume, has an empty method: then mypy reports
a misspelled name as a missing one, where `hasattr` would take it for "no hook".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from starlette.routing import BaseRoute

from sandbox.context import Behaviour, Machines, Sandbox


class Service(Protocol):
    """One service of one sandbox: an object that is made before the server starts, and ends with it."""

    name: str
    """Its name in the log, and in the warning of `sandbox start` about a service that was not resumed."""

    def behaviours(self) -> Mapping[str, Behaviour]:
        """Behaviours of ARM's resource types, by lower-case type."""

    def routes(self) -> Sequence[BaseRoute]:
        """Routes of the service's own addresses, outside ARM's."""

    def machines(self) -> Iterable[Machines]:
        """Deployed machines that use the subscription's vCPU quota."""

    async def resume(self) -> None:
        """Restart the work of an earlier process of this sandbox. Runs once, while the server already answers."""

    async def shutdown(self) -> None:
        """End all processes and tasks of the service. Runs once, after the last request."""


class ResourceRules(Protocol):
    """A module with rules of resource types, composed by the server or by one service."""

    def behaviours(self) -> Mapping[str, Behaviour]:
        """Behaviours of ARM's resource types, by lower-case type."""


class MachineRules(ResourceRules, Protocol):
    """`ResourceRules` of types that run machines."""

    def machines(self, sandbox: Sandbox) -> Iterable[Machines]:
        """Deployed machines that use the subscription's vCPU quota."""
