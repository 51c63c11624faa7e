"""The whole program under Pulumi's mocks: every resource a stack would declare, and its outputs, without a credential.

Does not ask the engine, so nothing is compared with what exists, and no provider checks names or required arguments:
`pulumi preview` does. What Azure would answer (ids, addresses) is made up.
"""

import asyncio
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import mocks

from cli.stacks import files

PROGRAM = files.PROJECT / "infra" / "__main__.py"
_SUBSCRIPTION = "00000000-0000-0000-0000-00000000000a"


@dataclass(frozen=True)
class Declared:
    type: str
    name: str
    inputs: dict[str, Any]


@dataclass
class Graph(mocks.Mocks):
    resources: list[Declared] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.resources.append(Declared(args.typ, args.name, args.inputs))
        outputs = {
            "principalId": f"principal-of-{args.name}",
            "clientId": f"client-of-{args.name}",
            "workspaceUrl": "adb-1.azuredatabricks.net",
            "loginServer": "acr.azurecr.io",
            "systemData": {"createdAt": "2026-11-01T00:00:00Z"},
            "primaryEndpoints": {"blob": "https://lake.blob.core/", "dfs": "https://lake.dfs.core/"},
            "volumes": "/Volumes/catalog/schema",
            "path": "/Workspace/Shared/wheel.whl",
            "job_id": "1",
            **args.inputs,
            "name": args.name,
        }
        own = {"type": "SystemAssigned", "principalId": f"principal-of-{args.name}"}
        if "identity" in outputs:
            outputs["identity"] = own
        if args.typ.endswith(":Extension"):
            outputs["aksAssignedIdentity"] = own
        if args.typ.endswith(":TrainingRun"):
            outputs["metrics"] = {}
        return f"/id/of/{args.typ}/{args.name}", outputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]]]:
        ours = {"clientId": "client", "objectId": "object", "subscriptionId": _SUBSCRIPTION, "tenantId": "tenant"}
        return ours, []

    def of(self, suffix: str) -> list[Declared]:
        return [found for found in self.resources if found.type.endswith(suffix)]


def declared(stack_file: Path) -> Graph:
    """What the stack of a `Pulumi.<stack>.yaml` declares. Raises `UserError` where the file is missing or wrong."""
    stack = files.stack_of(stack_file)
    config = files.read(stack_file.parent, stack)
    files.settings_of(config, str(stack_file))
    return run(config, stack)


def run(config: Mapping[str, str], stack: str) -> Graph:
    """The program with a flat config such as `{"serving:nodes_max": "5"}`."""
    graph = Graph()
    asyncio.set_event_loop(asyncio.new_event_loop())  # the mocks want one, and `asyncio.run` leaves none behind
    pulumi.runtime.settings.reset_options()  # another run's stack would lend its transformations to this one
    mocks.set_mocks(graph, project="personalization", stack=stack, preview=False)
    pulumi.runtime.set_all_config(dict(config))

    @pulumi.runtime.test
    def program() -> pulumi.Output[None]:
        runpy.run_path(str(PROGRAM))
        root = pulumi.runtime.get_root_resource()
        assert isinstance(root, pulumi.runtime.stack.Stack)
        return pulumi.Output.all(**root.outputs).apply(graph.outputs.update)

    program()
    return graph
