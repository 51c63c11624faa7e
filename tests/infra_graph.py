"""The whole program under Pulumi's mocks: every resource it would declare, as (type, name, inputs)."""

import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import mocks

PROGRAM = Path(__file__).parents[1] / "infra" / "__main__.py"
SUBSCRIPTION = "00000000-0000-0000-0000-00000000000a"
RELEASE = {
    "training:snapshot": "2026-11-01",
    "access:deployers": '{"00000000-0000-0000-0000-000000000001": "ServicePrincipal"}',
}


@dataclass(frozen=True)
class Declared:
    type: str
    name: str
    inputs: dict[str, Any]


@dataclass
class Graph(mocks.Mocks):
    resources: list[Declared] = field(default_factory=list)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.resources.append(Declared(args.typ, args.name, args.inputs))
        outputs = {
            "principalId": f"principal-of-{args.name}",
            "clientId": f"client-of-{args.name}",
            "workspaceUrl": "adb-1.azuredatabricks.net",
            "loginServer": "acr.azurecr.io",
            "primaryEndpoints": {"blob": "https://lake.blob.core/", "dfs": "https://lake.dfs.core/"},
            "volumes": "/Volumes/catalog/schema",
            "path": "/Workspace/Shared/wheel.whl",
            **args.inputs,
            "name": args.name,
        }
        if "identity" in outputs or args.typ.endswith(":Extension"):
            outputs["identity"] = {"type": "SystemAssigned", "principalId": f"principal-of-{args.name}"}
        return f"/id/of/{args.typ}/{args.name}", outputs

    def call(self, args: mocks.MockCallArgs) -> dict[Any, Any]:
        return {"clientId": "client", "objectId": "object", "subscriptionId": SUBSCRIPTION, "tenantId": "tenant"}

    def of(self, suffix: str) -> list[Declared]:
        return [found for found in self.resources if found.type.endswith(suffix)]


def graph(**config: str) -> Graph:
    """Run the program; keys are written with `__` for `:`, such as `serving__nodes_max="5"`."""
    recorder = Graph()
    pulumi.runtime.settings.reset_options()  # another run's stack would lend its transformations to this one
    mocks.set_mocks(recorder, project="personalization", stack="test", preview=False)
    values = {key.replace("__", ":"): value for key, value in config.items()}
    pulumi.runtime.set_all_config(
        {"azure-native:location": "westeurope", "personalization:environment": "test", **RELEASE, **values}
    )

    @pulumi.runtime.test
    def run() -> None:
        runpy.run_path(str(PROGRAM))

    run()
    return recorder
