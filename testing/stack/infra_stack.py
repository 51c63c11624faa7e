"""The program's infrastructure through the real engine on a separate sandbox, without a release."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.local_run import sandbox
from cli.local_run.engine import Engine
from infra.cloud.clients import AzureClients
from infra.config.naming import RUNNER_SECRET
from testing.sandbox.process import in_environment

ROOT = Path(__file__).parents[2]
RUNNER = {
    "runner__repository": "octo-org/personalization",
    "runner__app": "1234",
    "runner__installation": "5678",
    "runner__ssh_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI someone",
}
"""Settings of a private stack with a runner inside it."""


@dataclass(frozen=True)
class InfraStacks:
    """Several stacks in one subscription."""

    folder: Path
    environment: dict[str, str]
    seconds: float = 600
    """Time limit of one command."""

    def configure(self, stack: str, **overrides: Any) -> None:
        """The repository's stack file, without a release, and with `overrides` (`__` for `:`)."""
        config = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"]
        config |= {"release:enabled": "false", **{key.replace("__", ":"): value for key, value in overrides.items()}}
        self._file(stack).write_text(yaml.safe_dump({"config": config}))

    def pulumi(self, stack: str, *arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            ["pulumi", *arguments, "--stack", stack, "--non-interactive", "--color", "never"]
            + ([] if arguments[0] in ("stack", "state") else ["--config-file", str(self._file(stack))]),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=self.seconds,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + (done.stderr if fails else "")

    def up(self, stack: str, **overrides: Any) -> None:
        self.configure(stack, **overrides)
        self.init(stack)
        self.pulumi(stack, "up", "--yes", "--skip-preview")

    def up_with_runner(self, stack: str, **overrides: Any) -> None:
        """Deploy in the order of docs/operations.md: the stack, the key in its vault, then the runner."""
        self.up(stack, **overrides)
        (vault,) = (it["id"] for it in self.resources(stack) if it["type"].endswith("keyvault:Vault"))
        with in_environment(self.environment):
            secret = {"properties": {"value": "a private key"}}
            AzureClients.discover().request(
                "PUT", f"{vault}/secrets/{RUNNER_SECRET}", "2024-11-01", secret
            ).raise_for_status()
        self.configure(stack, **overrides, **RUNNER)
        self.pulumi(stack, "up", "--yes", "--skip-preview")

    def init(self, stack: str) -> None:
        # `stack init` takes the name as an argument, unlike other commands; its stack file goes to a scratch folder.
        command = ["pulumi", "stack", "init", stack, "--non-interactive"]
        subprocess.run(command, cwd=self._scratch(), env=self.environment, check=True, capture_output=True)

    def resources(self, stack: str) -> list[dict[str, Any]]:
        return json.loads(self.pulumi(stack, "stack", "export"))["deployment"]["resources"]

    def _file(self, stack: str) -> Path:
        return self.folder / f"Pulumi.{stack}.yaml"

    def _scratch(self) -> Path:
        """A folder with only the project file: `stack init` writes a salt into the stack file next to it."""
        folder = self.folder / "project"
        folder.mkdir(exist_ok=True)
        (folder / "Pulumi.yaml").write_bytes((ROOT / "Pulumi.yaml").read_bytes())
        return folder


@contextmanager
def infra_stacks(folder: Path, *, seconds: float = 600) -> Iterator[InfraStacks]:
    started = sandbox.start(folder / "sandbox", None)
    try:
        yield InfraStacks(folder, dict(Engine(folder, started).environment), seconds)
    finally:
        sandbox.stop(folder / "sandbox")
