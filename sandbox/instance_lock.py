"""State of a sandbox folder: whether a server runs, its process id, and its port, which never changes.

The server holds a file lock while it runs. The kernel releases the lock even if the process is killed; a file with a
process id would stay.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import IO

import psutil

from sandbox import state_files
from sandbox.state_files import Unreadable

FRESH = "stop the sandbox, remove its folder and start again, or name another --folder"
"""Remedy for a file that cannot be recreated, because stored resources and clients refer to its content."""


class CannotServe(Exception):
    """An error that the user can correct, reported in one line."""

    exit_code = 2


class Damaged(CannotServe):
    """The folder's state is unusable; the remedy is a new folder."""

    exit_code = 4

    def __init__(self, cause: object) -> None:
        super().__init__(f"{cause}. It cannot be recreated: {FRESH}.")


class RunsAlready(Exception):
    """Another server has the folder."""


def runs(folder: Path) -> bool:
    try:
        with (folder / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # without the file, look for the process
        return _server(folder) is not None
    return False


def process_id(folder: Path) -> int | None:
    """Process id of the running server, from its lock; if that is missing, from its command line."""
    try:
        return int((folder / "lock").read_text())
    except (OSError, ValueError):
        return _server(folder)


def remembered_port(folder: Path) -> int | None:
    """The port of the first start, or None before it. Raises `Damaged`."""
    try:
        address = environment(folder)["ARM_METADATA_HOSTNAME"]
        return int(address.rpartition(":")[2])
    except FileNotFoundError:
        return None
    except ValueError:
        raise Damaged(Unreadable(folder / "environment.json", f"{address!r} has no port")) from None


def environment(folder: Path) -> dict[str, str]:
    """Variables that a client needs. Raises `FileNotFoundError` before the first start, and `Damaged`."""
    try:
        return state_files.read_json(folder / "environment.json", "ARM_METADATA_HOSTNAME")
    except Unreadable as error:
        raise Damaged(error) from error


def make(folder: Path) -> None:
    """Create the folder if it is missing, readable by its owner only. Raises `CannotServe`."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        message = f"cannot write to {folder}: {error.strerror}. Name a folder you can write to with --folder."
        raise CannotServe(message) from error


def lock(folder: Path) -> IO[str]:
    """Lock the folder, until the file is closed or the process ends. Raises `RunsAlready`."""
    make(folder)
    file = (folder / "lock").open("a+")
    for _ in range(20):  # `runs` holds the lock for a moment, too
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        time.sleep(0.05)
    raise RunsAlready(f"a sandbox runs already in {folder}")


def _server(folder: Path) -> int | None:
    """Process id of the server that was started for this folder, by its arguments."""
    resolved = str(folder.resolve())
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "sandbox", "serve"] and resolved in words:
            return process.pid
    return None
