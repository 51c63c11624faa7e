"""Runs the whole program under Pulumi's mocks: all resources and outputs that a stack declares, without a login.

Does not run the engine or providers, so resources are not compared with existing ones, and names and required arguments
are not checked: `pulumi preview` does both. Values that Azure would return (ids, addresses) are invented.
"""

import asyncio
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import mocks

from cli.paths import PROJECT
from cli.stacks import files

PROGRAM = PROJECT / "infra" / "__main__.py"
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
        login = {"clientId": "client", "objectId": "object", "subscriptionId": _SUBSCRIPTION, "tenantId": "tenant"}
        return login, []

    def of(self, suffix: str) -> list[Declared]:
        """Return the resources whose type ends with `suffix`."""
        return [resource for resource in self.resources if resource.type.endswith(suffix)]


def declared(stack_file: Path) -> Graph:
    """Return the declarations of the stack with this file. Raises `UserError` if the file is missing or wrong."""
    stack = files.stack_of(stack_file)
    config = files.read(stack_file.parent, stack)
    files.settings_of(config, str(stack_file))
    return run(config, stack)


def run(config: Mapping[str, str], stack: str) -> Graph:
    """Run the program with a flat config such as `{"serving:nodes_max": "5"}`."""
    graph = Graph()
    asyncio.set_event_loop(asyncio.new_event_loop())  # the mocks need one, and `asyncio.run` removes it
    pulumi.runtime.settings.reset_options()  # otherwise transformations of an earlier run's stack apply
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
