"""Runs other programs: silent when they work, with their last lines when they do not, and never left behind."""

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
    """Something the machine lacks: the message says what, where, and what to install or free."""


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
    """Standard output of `command`; a failure is `Unavailable` with `on_failure` and the command's last lines."""
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
    """A place to make something that is then moved into `folder` whole; sweeps away what a killed attempt left there.

    Within `one_at_a_time(folder)` only: it takes what it finds for abandoned.
    """
    for abandoned in folder.glob(".making-*"):
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as making:
        yield Path(making)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Two bootstraps at once do their work after each other; the lock goes when its holder ends, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
