"""Runs other programs: shows their last lines only if they fail, and ends them with this program."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Argument = str | Path
_SHOWN_LINES = 12


class Unavailable(Exception):
    """The machine lacks something; the message names it, its place, and the remedy."""


@dataclass(frozen=True)
class Outcome:
    detail: str
    changed: bool


def run(
    command: Sequence[Argument],
    on_failure: str,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Standard output of `command`. Raises `Unavailable` with `on_failure` and the command's last lines."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"{on_failure}\n  {error}") from error
    try:
        output, errors = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode != 0:
        last_lines = (output + errors).strip().splitlines()[-_SHOWN_LINES:]
        ending = f"{Path(command[0]).name} ended with {process.returncode}:"
        raise Unavailable("\n  ".join([on_failure, ending, *last_lines]))
    return output


def writable_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no write permission for {folder}")
    except OSError as error:
        raise Unavailable(
            f"the cache folder {folder} cannot be written: {error}\n"
            "  Free it, or set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    return folder


@contextmanager
def making_in(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, for files that are moved to their place once they are complete.

    Removes the temporary folders of killed attempts, so it must run within `one_at_a_time(folder)`.
    """
    for abandoned in folder.glob(".making-*"):
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as making:
        yield Path(making)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Lock the folder, so that simultaneous bootstraps run one after the other. The lock ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
