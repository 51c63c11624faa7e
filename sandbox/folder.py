"""What the folder of a sandbox says: whether one runs there, as which process, and on which port it will always be.

A lock, held as long as the server's process lives, decides whether a sandbox runs: the kernel drops it even when the
process is killed, where a file with a process id would stay.
"""

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO


class CannotServe(Exception):
    """What a person can mend: told in one line."""


class RunsAlready(Exception):
    """Another server has the folder."""


def runs(folder: Path) -> bool:
    try:
        with _lock_file(folder) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def process_id(folder: Path) -> int:
    """Of the running server, which writes it into its lock."""
    return int((folder / "lock").read_text())


def remembered_port(folder: Path) -> int | None:
    try:
        environment = json.loads((folder / "environment.json").read_text())
    except FileNotFoundError:
        return None
    return int(environment["ARM_METADATA_HOSTNAME"].rpartition(":")[2])


def lock(folder: Path) -> IO[str]:
    """Take the folder; it is free again when the file is closed or the process ends, however it ends."""
    file = _lock_file(folder)
    for _ in range(20):  # whoever only looks whether a sandbox runs holds the lock for a moment, too
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        time.sleep(0.05)
    raise RunsAlready(f"a sandbox runs already in {folder}")


def _lock_file(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "lock").open("a+")
    except OSError as error:
        message = f"cannot write to {folder}: {error.strerror}. Name a folder you can write to with --folder."
        raise CannotServe(message) from error
