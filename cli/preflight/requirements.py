"""Reads `azure.yaml`: the resource types, actions and providers that the program needs in Azure."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from infra.config.settings import Settings


class Catalog(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    types: Sequence[str]
    private_types: Sequence[str]
    runner_types: Sequence[str]
    actions: Sequence[str]
    providers: Sequence[str]

    def types_of(self, settings: Settings) -> list[str]:
        """Return the types that a stack with these settings declares."""
        private = self.private_types if settings.network.is_private else ()
        return sorted([*self.types, *private, *(self.runner_types if settings.runners else ())])

    def kinds_by_namespace(self, settings: Settings) -> dict[str, list[str]]:
        """Return the types by provider namespace, such as `{"Microsoft.Storage": ["storageAccounts", …]}`."""
        kinds: dict[str, list[str]] = {namespace: [] for namespace in self.providers}
        for resource_type in self.types_of(settings):
            namespace, _, kind = resource_type.partition("/")
            kinds.setdefault(namespace, []).append(kind)
        return dict(sorted(kinds.items()))

    def permissions(self, settings: Settings) -> list[str]:
        """Return all actions that `up` performs."""
        return sorted([*(f"{resource_type}/write" for resource_type in self.types_of(settings)), *self.actions])


@lru_cache
def load() -> Catalog:
    return Catalog.model_validate(yaml.safe_load(Path(__file__).with_name("azure.yaml").read_text()))
