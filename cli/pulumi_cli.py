"""The Pulumi CLI as a process: one way to run a command to its end, and one to follow it line by line.

Does not interpret the output: `cli/stacks/state.py`, `cli/local_run/engine.py` and `cli/changes/preview.py` do. The
engine of the local run starts its long commands through `supervised_process.py`, because it has to end them if the run
is killed.
"""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from cli.errors import UserError

MISSING = "the Pulumi CLI is not on PATH: run `make bootstrap`, then `. .venv/personalization.sh`"


def command(*arguments: str) -> list[str]:
    """Return the command line, without questions and without colours."""
    return ["pulumi", *arguments, "--non-interactive", "--color", "never"]


def run(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end in a project's folder, for at most `timeout` seconds.

    Raises `UserError` if the CLI is not on PATH, and `subprocess.TimeoutExpired`.
    """
    try:
        return subprocess.run(
            command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except FileNotFoundError:
        raise UserError(MISSING) from None


def output(folder: Path, *arguments: str, failure: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a short command and return its standard output.

    Raises `UserError` with `failure`, the first part of the message, and the CLI's own error.
    """
    done = run(folder, *arguments, environment=environment)
    if done.returncode:
        raise UserError(f"{failure}: {(done.stderr.strip() or done.stdout.strip()).removeprefix('error: ')}")
    return done.stdout


def follow(folder: Path, *arguments: str, on_line: Callable[[str], None]) -> tuple[int, str]:
    """Run a long command, pass each line to `on_line` as it is printed, and return exit code and whole output.

    Standard error is part of the output. Raises `UserError` if the CLI is not on PATH.
    """
    lines = []
    try:
        process = subprocess.Popen(
            command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except FileNotFoundError:
        raise UserError(MISSING) from None
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            on_line(line.rstrip())
    return process.returncode, "".join(lines)
