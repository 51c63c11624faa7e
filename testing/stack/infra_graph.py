"""The whole program under Pulumi's mocks, with the settings that every stack requires."""

from cli.changes.mock_program import Declared, Graph, run

__all__ = ["RELEASE", "STACK", "Declared", "Graph", "graph"]

STACK = {
    "azure-native:location": "westeurope",
    "personalization:environment": "test",
    "personalization:production": "false",
}
RELEASE = {
    "training:snapshot": "2026-11-01",
    "access:deployers": '{"00000000-0000-0000-0000-000000000001": "ServicePrincipal"}',
}


def graph(**config: str) -> Graph:
    """Run the program; keys are written with `__` for `:`, such as `serving__nodes_max="5"`."""
    values = {key.replace("__", ":"): value for key, value in config.items()}
    return run({**STACK, **RELEASE, **values}, "test")
