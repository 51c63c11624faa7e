"""Previews a change on every stack without a cloud account.

Deploys the base revision in a sandbox with the real Pulumi engine, then previews the working tree against it. The
release is disabled on both sides, so nothing is trained or served. Both sides use the packages, the provider and the
sandbox of the working tree. Secret configuration cannot be read here and is omitted.
"""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from cli import pulumi_cli
from cli.changes import preview
from cli.changes.preview import Preview
from cli.errors import UserError
from cli.local_run import engine, sandbox
from cli.stacks import files

PLACE = "sandbox"
_POLICY = Path("policy")


def previews(head: Path, base: str, stacks: Sequence[str], report: Callable[[str], None]) -> Iterator[Preview]:
    """Preview each stack of the project folder `head` as a change of the git revision `base`.

    stacks: names; if empty, all stacks with a file except `local`. report: gets one line per step.
    Raises `UserError` if the base is missing or cannot be deployed. An error of the head is part of its preview.
    """
    stacks = stacks or [name for name in files.names(head) if name != engine.STACK]
    if not stacks:
        raise UserError(f"{head} has no stack file Pulumi.<stack>.yaml: run this in the project's folder")
    with tempfile.TemporaryDirectory(prefix="personalization-") as scratch:
        state = Path(scratch)
        tree = _tree(head, base, state / "base")
        with _sandbox(state) as environment:
            for stack in stacks:
                if stack in files.names(tree):
                    report(f"{stack}: deploying {base} in the sandbox")
                comparison = _Comparison(stack, state, environment)
                comparison.deploy(tree, base)
                report(f"{stack}: previewing the working tree against {base}")
                yield comparison.preview(head)


class _Comparison:
    def __init__(self, stack: str, state: Path, environment: Mapping[str, str]) -> None:
        self._stack, self._state, self._environment = stack, state, environment

    def deploy(self, tree: Path, base: str) -> None:
        options = self._options(tree) if self._stack in files.names(tree) else None
        # With the file, `stack init` would call the secrets provider that the file names, which may be a key vault.
        files.file_of(tree, self._stack).unlink(missing_ok=True)
        done = self._pulumi(tree, "stack", "init", self._stack)
        if options and done.returncode == 0:
            done = self._pulumi(tree, "up", "--yes", "--skip-preview", *options)
        if done.returncode:
            raise UserError(
                f"stack {self._stack} of {base} cannot be deployed in the sandbox with the packages of this tree, so "
                f"there is nothing to compare with:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )

    def preview(self, head: Path) -> Preview:
        policy = ["--policy-pack", str(head / _POLICY)] if (head / _POLICY).is_dir() else []
        done = self._pulumi(head, "preview", "--json", *policy, *self._options(head))
        if not done.stdout:
            raise UserError(f"stack {self._stack} cannot be previewed:\n{done.stderr.strip()}")
        return preview.read(done.stdout, self._stack)

    def _options(self, tree: Path) -> list[str]:
        """Return the options for the stack and for a copy of its configuration that is usable in the sandbox."""
        path = files.file_of(tree, self._stack)
        if not path.is_file():
            raise UserError(f"stack {self._stack} has no file {path.name} in {tree}")
        config = {key: value for key, value in files.read(tree, self._stack).items() if _usable_in_sandbox(key)}
        config["release:enabled"] = "false"
        written = self._state / f"{tree.name}-{path.name}"
        written.write_text(yaml.safe_dump({"config": config}))
        return ["--stack", self._stack, "--config-file", str(written)]

    def _pulumi(self, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        # The installed packages are those of the working tree; PYTHONPATH puts the folder's own before them.
        environment = {**self._environment, **preview.STREAMING, "PYTHONPATH": str(folder)}
        return pulumi_cli.run(folder, *arguments, environment=environment)


@contextmanager
def _sandbox(state: Path) -> Iterator[Mapping[str, str]]:
    folder = state / "sandbox"
    try:
        yield engine.Engine(state, sandbox.start(folder, None)).environment
    finally:
        sandbox.stop(folder)


def _usable_in_sandbox(key: str) -> bool:
    """Return whether a setting applies to the sandbox; those for the login of the real provider do not."""
    return not key.startswith("azure-native:") or key == files.LOCATION


def _tree(head: Path, revision: str, folder: Path) -> Path:
    """Extract the files of a git revision into `folder`, without changing the work tree or the index."""
    archive = ["git", "-C", str(head), "archive", "--format=tar", f"{revision}^{{tree}}"]
    done = subprocess.run(archive, capture_output=True)
    if done.returncode:
        raise UserError(
            f"the base {revision!r} is not in this clone: {done.stderr.decode().strip()}. "
            "Name another commit, branch or tag, or fetch more of a shallow clone: git fetch --deepen 1."
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder)  # safe: git created the archive from this repository
    return folder
