"""What a stack's state says of its resources, asked of the engine. Decrypts no secret."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.errors import UserError

NO_PULUMI = "the Pulumi CLI is not on PATH: run `make bootstrap`, then `. .venv/personalization.sh`"


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


def ask(folder: Path, failed: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What a short command of Pulumi's CLI prints. Raises `UserError`: that it `failed`, and the CLI's own words."""
    command = ["pulumi", *arguments, "--non-interactive"]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(NO_PULUMI) from None
    if done.returncode:
        raise UserError(f"{failed}: {(done.stderr.strip() or done.stdout.strip()).removeprefix('error: ')}")
    return done.stdout


def resources(folder: Path, stack: str, environment: Mapping[str, str] | None = None) -> list[Resource]:
    """Of the project in `folder`; no components and no providers. Raises `UserError` if there is no such stack."""
    failed = f"stack {stack} cannot be read"
    exported = ask(folder, failed, "stack", "export", "--stack", stack, environment=environment)
    found = json.loads(exported)["deployment"].get("resources") or []
    return [_read(resource) for resource in found if _is_real(resource)]


def outputs(folder: Path, stack: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the stack's last `up` told; secrets stay hidden. Raises `UserError` if there is no such stack."""
    failed = f"the outputs of stack {stack} cannot be read"
    return json.loads(ask(folder, failed, "stack", "output", "--json", "--stack", stack, environment=environment))


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
