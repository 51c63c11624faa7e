"""Earlier names of the modules that hold dynamic providers.

Pulumi's SDK stores a provider in the state as a reference to its class (pulumi/pulumi
sdk/python/lib/pulumi/dynamic/dynamic.py, `serialize_provider`), so a state keeps the module name of the version that
wrote it. A delete or a refresh imports that name. A provider that moves gets a row here, and the row stays.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "infra.attachment": "infra.aks.attachment",
    "infra.node_pools": "infra.aks.node_pools",
    "infra.placement": "infra.components.placement",
    "infra.release.catalog": "infra.release.training_stage.catalog",
    "infra.release.environment": "infra.release.serving_stage.environment",
    "infra.release.experiment": "infra.release.training_stage.experiment",
    "infra.release.image": "infra.release.serving_stage.image",
    "infra.release.interactive": "infra.release.interactive_access.cluster",
    "infra.release.job": "infra.release.training_stage.job",
    "infra.release.model": "infra.release.training_stage.model",
    "infra.release.notebooks": "infra.release.interactive_access.notebooks",
    "infra.release.reference": "infra.release.serving_stage.live_record",
    "infra.release.rollout": "infra.release.serving_stage.rollout",
    "infra.release.secret": "infra.release.interactive_access.endpoint_key",
    "infra.release.snapshot": "infra.release.training_stage.snapshot",
    "infra.release.training": "infra.release.training_stage.training_run",
    "infra.release.workload": "infra.release.training_stage.workload",
    "infra.role_propagation": "infra.components.role_propagation",
    "infra.system_pool": "infra.aks.system_pool",
}
"""Earlier module name → today's."""


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its earlier name: a module with the members of today's."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        members = vars(importlib.import_module(MOVED[module.__name__]))
        vars(module).update({name: value for name, value in members.items() if not name.startswith("__")})


def find_moved_modules() -> None:
    """Let imports find the earlier names. Runs once in each process."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
