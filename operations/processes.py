"""One foreground command of the local run, which leaves nothing behind when it or the run is killed.

The Pulumi engine starts plugins in process groups of their own, so a group is not enough: the command gets a session,
and whatever of a recorded session still lives is ended by process id at the next start.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from sandbox import processes


def start(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path, record: Path
) -> subprocess.Popen[bytes]:
    """Start `command` as leader of a new session, output to `log`; `record` names the session for `end_leftovers`."""
    log.unlink(missing_ok=True)
    process = processes.start(command, log=log, environment=environment, folder=folder)
    record.write_text(json.dumps({"session": process.pid, "started": psutil.Process(process.pid).create_time()}))
    return process


def end_leftovers(record: Path) -> list[int]:
    """End what is left of the recorded session; returns the ids ended. A reused id is recognised by its time."""
    if not record.exists():
        return []
    recorded = json.loads(record.read_text())
    left = [process for process in psutil.process_iter(["create_time"]) if _belongs(process, recorded)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    record.unlink()
    return [process.pid for process in left]


def _belongs(process: psutil.Process, recorded: Mapping[str, float]) -> bool:
    try:
        return os.getsid(process.pid) == recorded["session"] and process.create_time() >= recorded["started"] - 1
    except (OSError, psutil.Error):
        return False
