"""What a stack's state says of its resources, asked of the engine. Decrypts no secret."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operations.errors import UserError


@dataclass(frozen=True)
class Resource:
    urn: str
    kind: str
    """`storage:StorageAccount`: module and class, whichever provider it is of."""
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
        """The version its Azure API is asked in; empty for what Azure Resource Manager does not know."""
        return str(self.outputs.get("azureApiVersion", ""))


def ask(folder: Path, failed: str, *arguments: str) -> str:
    """What a short command of Pulumi's CLI prints. Raises `UserError`: that it `failed`, and the CLI's own words."""
    try:
        done = subprocess.run(["pulumi", *arguments, "--non-interactive"], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            "the Pulumi CLI is not on PATH: run `make bootstrap`, then `. .venv/personalization.sh`"
        ) from None
    if done.returncode:
        raise UserError(f"{failed}: {(done.stderr.strip() or done.stdout.strip()).removeprefix('error: ')}")
    return done.stdout


def resources(folder: Path, stack: str) -> list[Resource]:
    """Of the project in `folder`; no components and no providers. Raises `UserError` if there is no such stack."""
    exported = ask(folder, f"stack {stack} cannot be read", "stack", "export", "--stack", stack)
    found = json.loads(exported)["deployment"].get("resources") or []
    return [_read(resource) for resource in found if _is_real(resource)]


def _is_real(resource: dict[str, Any]) -> bool:
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
