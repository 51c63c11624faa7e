"""Types that the checks share: the target of a check, a question and a finding."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cli.azure_resource_manager import Arm
from infra.config.naming import Names
from infra.config.settings import Settings


class Level(StrEnum):
    OK = "ok"
    LATER = "known later"
    WARNING = "warning"
    UNASKED = "could not be asked"
    BLOCKING = "blocking"


@dataclass(frozen=True)
class Finding:
    subject: str
    level: Level
    says: str
    remedy: str = ""
    """Commands that correct it, one per line."""


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
        """Id of a resource of this stack, such as `("Microsoft.KeyVault/vaults", names.key_vault)`."""
        return f"{self.group}/providers/{resource_type}/{name}"

    def set(self, key: str, value: object) -> str:
        """The command that changes this stack's config."""
        return f"pulumi config set --stack {self.stack} {key} {value}"


@dataclass(frozen=True)
class Question:
    subject: str
    about: str
    ask: Callable[[], Iterable[Finding]]
    """May raise `NotAnswered`; findings before that still count."""
