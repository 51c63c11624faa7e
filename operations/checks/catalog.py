"""The table of what the program needs of Azure, `azure.yaml`."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict


class Catalog(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    types: Sequence[str]
    actions: Sequence[str]
    providers: Sequence[str]

    @property
    def top_level_types(self) -> dict[str, list[str]]:
        """By provider namespace. A nested type is offered where the type it lies in is."""
        found: dict[str, list[str]] = {namespace: [] for namespace in self.providers}
        for resource_type in self.types:
            namespace, _, kind = resource_type.partition("/")
            of_namespace = found.setdefault(namespace, [])
            if "/" not in kind:
                of_namespace.append(kind)
        return dict(sorted(found.items()))

    @property
    def permissions(self) -> list[str]:
        """Every action that `up` performs."""
        return sorted([*(f"{resource_type}/write" for resource_type in self.types), *self.actions])


@lru_cache
def load() -> Catalog:
    return Catalog.model_validate(yaml.safe_load(Path(__file__).with_name("azure.yaml").read_text()))
