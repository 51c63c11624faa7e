"""What a change would do to every stack, found out without a cloud account.

The base of the change stands up in a sandbox with the real Pulumi engine, and the working tree is previewed against it.
The release is switched off on both sides, so nothing trains and no model is served. Both sides use the packages, the
provider and the sandbox of the working tree; secret configuration cannot be read here and is left out.
"""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from cli.changes import preview
from cli.changes.preview import Preview
from cli.errors import UserError
from cli.local_run import engine, sandbox
from cli.stacks import files

PLACE = "sandbox"
_POLICY = Path("policy")


def previews(head: Path, base: str, stacks: Sequence[str], say: Callable[[str], None]) -> Iterator[Preview]:
    """Preview each stack of the project folder `head` as a change of the git revision `base`.

    Without `stacks`, all that have a stack file, except the one of `make local`. Raises `UserError` where the base
    cannot be had or does not stand up; an error of the head is part of its preview.
    """
    stacks = stacks or [found for found in files.names(head) if found != engine.STACK]
    if not stacks:
        raise UserError(f"{head} has no stack file Pulumi.<stack>.yaml: run this in the project's folder")
    with tempfile.TemporaryDirectory(prefix="personalization-") as made:
        state = Path(made)
        tree = _tree(head, base, state / "base")
        with _sandbox(state) as environment:
            for stack in stacks:
                if stack in files.names(tree):
                    say(f"{stack}: {base} is stood up in the sandbox")
                run = _Run(stack, state, environment)
                run.stand_up(tree, base)
                say(f"{stack}: the working tree is previewed against it")
                yield run.preview(head)


class _Run:
    def __init__(self, stack: str, state: Path, environment: Mapping[str, str]) -> None:
        self._stack, self._state, self._environment = stack, state, environment

    def stand_up(self, tree: Path, base: str) -> None:
        configured = self._configured(tree) if self._stack in files.names(tree) else None
        # `stack init` would ask the secrets provider that the file names, which may be a key vault.
        files.file_of(tree, self._stack).unlink(missing_ok=True)
        made = self._pulumi(tree, "stack", "init", self._stack)
        if configured and made.returncode == 0:
            made = self._pulumi(tree, "up", "--yes", "--skip-preview", *configured)
        if made.returncode:
            raise UserError(
                f"stack {self._stack} of {base} does not stand up in the sandbox with the packages of this tree, so "
                f"there is nothing to compare with:\n{made.stdout[-3000:]}{made.stderr[-3000:]}"
            )

    def preview(self, head: Path) -> Preview:
        policy = ["--policy-pack", str(head / _POLICY)] if (head / _POLICY).is_dir() else []
        done = self._pulumi(head, "preview", "--json", *policy, *self._configured(head))
        if not done.stdout:
            raise UserError(f"stack {self._stack} cannot be previewed:\n{done.stderr.strip()}")
        return preview.read(done.stdout, self._stack)

    def _configured(self, tree: Path) -> list[str]:
        """Arguments that name the stack and its configuration as the sandbox can have it."""
        path = files.file_of(tree, self._stack)
        if not path.is_file():
            raise UserError(f"stack {self._stack} has no file {path.name} in {tree}")
        config = {key: value for key, value in files.read(tree, self._stack).items() if _can_be_had(key)}
        config["release:enabled"] = "false"
        written = self._state / f"{tree.name}-{path.name}"
        written.write_text(yaml.safe_dump({"config": config}))
        return ["--stack", self._stack, "--config-file", str(written)]

    def _pulumi(self, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--color", "never"],
            cwd=folder,
            # The tree's own packages come before those that are installed, which are the working tree's.
            env={**self._environment, **preview.STREAMING, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )


@contextmanager
def _sandbox(state: Path) -> Iterator[Mapping[str, str]]:
    folder = state / "sandbox"
    try:
        yield engine.Engine(state, sandbox.start(folder, None)).environment
    finally:
        sandbox.stop(folder)


def _can_be_had(key: str) -> bool:
    """Not where the real provider is to log in."""
    return not key.startswith("azure-native:") or key == files.LOCATION


def _tree(head: Path, revision: str, folder: Path) -> Path:
    """The files of a git revision, without touching the work tree or what git knows of it."""
    archive = ["git", "-C", str(head), "archive", "--format=tar", f"{revision}^{{tree}}"]
    done = subprocess.run(archive, capture_output=True)
    if done.returncode:
        raise UserError(
            f"the base {revision!r} is not to be had here: {done.stderr.decode().strip()}. "
            "Name a commit, branch or tag that this clone holds (a shallow clone holds few: git fetch --deepen 1)."
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder)  # git's own, of this repository
    return folder
