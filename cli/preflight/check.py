"""Types of preflight: the target of the checks, a check, and its findings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cli.azure_resource_manager import Arm
from infra.config.naming import Names
from infra.config.settings import Settings


class Level(StrEnum):
    OK = "ok"
    DEFERRED = "deferred"
    """The check is possible only after a resource exists."""
    WARNING = "warning"
    NOT_CHECKED = "not checked"
    """The check could not run. It stops like a blocking finding."""
    BLOCKING = "blocking"


@dataclass(frozen=True)
class Finding:
    subject: str
    level: Level
    message: str
    remedy: str = ""
    """Commands that correct the problem, one per line."""


@dataclass(frozen=True)
class Target:
    """The stack to deploy, and the subscription for it."""

    stack: str
    settings: Settings
    names: Names
    subscription: str
    principal: str
    """Entra object id of the login that runs the checks."""
    kind: str
    """`User` or `ServicePrincipal`."""
    arm: Arm
    folder: Path
    """Folder that holds the project and its stack files."""

    @property
    def scope(self) -> str:
        return f"/subscriptions/{self.subscription}"

    @property
    def group(self) -> str:
        return f"{self.scope}/resourceGroups/{self.names.resource_group}"

    def resource(self, resource_type: str, name: str) -> str:
        """Return the id of a resource of this stack, such as `("Microsoft.KeyVault/vaults", names.key_vault)`."""
        return f"{self.group}/providers/{resource_type}/{name}"

    def set(self, key: str, value: object) -> str:
        """Return the command that sets a config value of this stack."""
        return f"pulumi config set --stack {self.stack} {key} {value}"


@dataclass(frozen=True)
class Check:
    subject: str
    detail: str
    """Object of the check, for the message if the check cannot run."""
    run: Callable[[], Iterable[Finding]]
    """May raise `NotAnswered`; findings before the error still count."""
