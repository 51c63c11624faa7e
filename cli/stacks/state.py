"""Resources and outputs of a stack's state, read through the Pulumi CLI. Decrypts no secret."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import pulumi_cli


@dataclass(frozen=True)
class Resource:
    urn: str
    kind: str
    """Module and class of its type, without the provider, such as `storage:StorageAccount`."""
    id: str
    protected: bool
    retained: bool
    """Whether the engine forgets it instead of deleting it."""
    outputs: dict[str, Any]

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]

    @property
    def api_version(self) -> str:
        """API version for requests to Azure Resource Manager; empty if it does not manage such resources."""
        return str(self.outputs.get("azureApiVersion", ""))


def resources(folder: Path, stack: str, environment: Mapping[str, str] | None = None) -> list[Resource]:
    """Return the resources of a stack of the project in `folder`, without components and providers.

    Raises `UserError` if the stack does not exist.
    """
    exported = pulumi_cli.output(
        folder,
        *("stack", "export", "--stack", stack),
        failure=f"stack {stack} cannot be read",
        environment=environment,
    )
    recorded = json.loads(exported)["deployment"].get("resources") or []
    return [_read(resource) for resource in recorded if _is_cloud_resource(resource)]


def outputs(
    folder: Path, stack: str, environment: Mapping[str, str] | None = None, *, missing_ok: bool = False
) -> dict[str, Any]:
    """Return the outputs of the stack's last `up`, with masked secrets.

    Raises `UserError` if the stack does not exist; with `missing_ok`, returns no outputs then.
    """
    if missing_ok and not _exists(folder, stack, environment):
        return {}
    printed = pulumi_cli.output(
        folder,
        *("stack", "output", "--json", "--stack", stack),
        failure=f"the outputs of stack {stack} cannot be read",
        environment=environment,
    )
    values: dict[str, Any] = json.loads(printed)
    return values


def _exists(folder: Path, stack: str, environment: Mapping[str, str] | None) -> bool:
    listed = pulumi_cli.output(
        folder, "stack", "ls", "--json", failure="stacks cannot be listed", environment=environment
    )
    names = {entry["name"].rpartition("/")[2] for entry in json.loads(listed)}
    return stack.rpartition("/")[2] in names


def _is_cloud_resource(resource: dict[str, Any]) -> bool:
    return bool(resource.get("custom")) and not resource["type"].startswith("pulumi:")


def _read(resource: dict[str, Any]) -> Resource:
    *_, module, name = resource["type"].split(":")
    return Resource(
        urn=resource["urn"],
        kind=f"{module.rpartition('/')[2]}:{name}",
        id=resource.get("id", ""),
        protected=bool(resource.get("protect")),
        retained=bool(resource.get("retainOnDelete")),
        outputs=resource.get("outputs") or {},
    )
