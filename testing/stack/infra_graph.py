"""The whole program under Pulumi's mocks, and its settings, with those that every stack requires."""

from collections.abc import Mapping

from cli.changes.mock_program import Declared, Graph, run
from infra.config.loading import load
from infra.config.settings import Settings

__all__ = ["RELEASE", "REQUIRED", "STACK", "Declared", "Graph", "graph", "settings"]

STACK = {
    "azure-native:location": "westeurope",
    "personalization:environment": "test",
    "personalization:production": "false",
}
RELEASE = {
    "training:snapshot": "2026-11-01",
    "access:deployers": '{"00000000-0000-0000-0000-000000000001": "ServicePrincipal"}',
}
REQUIRED = {**STACK, **RELEASE}


def graph(**config: str) -> Graph:
    """Run the program; keys are written with `__` for `:`, such as `serving__nodes_max="5"`."""
    return run(_with_required(config), "test")


def settings(**config: str) -> Settings:
    """Load the settings; keys are written as for `graph`."""
    return load(_with_required(config), "personalization")


def _with_required(config: Mapping[str, str]) -> dict[str, str]:
    return {**REQUIRED, **{key.replace("__", ":"): value for key, value in config.items()}}
