"""Aliases of declared resources: the earlier types under which the engine may find them."""

import pulumi
import pytest

from infra.config import aliases
from testing.stack.infra_graph import graph


def test_aliases_keep_earlier_types_and_drop_api_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[pulumi.Alias] = []
    leave_out = aliases.leave_out_api_versions

    def and_look() -> None:
        leave_out()
        pulumi.runtime.register_stack_transformation(lambda args: seen.extend(args.opts.aliases or ()))

    monkeypatch.setattr(aliases, "leave_out_api_versions", and_look)
    graph(network__mode="private")
    types = {alias.type_ for alias in seen}
    assert {"azure-native:insights:Component", "azure-native:network:InterfaceEndpoint"} <= types
    assert [token for token in types if "/" in token] == []
