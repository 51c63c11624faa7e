"""Runs one command of the local run at a time, and ends its processes even after the command or the run was killed.

The Pulumi engine starts plugins in separate process groups, so the command gets its own session. Processes of a
recorded session that are still running are ended by process id at the next start.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from sandbox import processes, state_files


def start(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path, record: Path
) -> subprocess.Popen[bytes]:
    """Start `command` as the leader of a new session with its output in `log`; writes the session to `record`."""
    log.unlink(missing_ok=True)
    process = processes.start(command, log=log, environment=environment, folder=folder)
    started = psutil.Process(process.pid).create_time()
    state_files.write(record, json.dumps({"session": process.pid, "started": started}))
    return process


def end_leftovers(record: Path, *, argument: str = "") -> list[int]:
    """End the processes of the recorded session, and return their ids. Start times exclude reused process ids.

    argument: an argument of the command, which identifies the session if the record cannot be read.
    """
    try:
        recorded = state_files.read_json(record, "session", "started")
    except FileNotFoundError:
        return []
    except state_files.Unreadable:
        recorded = _session_with(argument)
    left = [process for process in psutil.process_iter(["create_time"]) if _belongs(process, recorded)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    record.unlink()
    return [process.pid for process in left]


def _session_with(argument: str) -> dict[str, float]:
    for process in psutil.process_iter(["cmdline"]):
        if argument and argument in (process.info["cmdline"] or []):
            with contextlib.suppress(OSError):
                return {"session": os.getsid(process.pid), "started": 0}
    return {"session": -1, "started": 0}


def _belongs(process: psutil.Process, recorded: Mapping[str, float]) -> bool:
    try:
        return os.getsid(process.pid) == recorded["session"] and process.create_time() >= recorded["started"] - 1
    except (OSError, psutil.Error):
        return False
