"""Processes that the sandbox starts. Each ends with the sandbox, and is stopped by its process id."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with_parent() -> None:
    """Make Linux kill this process when its parent dies, even by SIGKILL. Other systems need a regular stop."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    folder: Path,
    inherited: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command` in a new process group, output to `log`, with the `inherited` file descriptors.

    Call it from the main thread: Linux ties the parent-death signal to the thread that forked.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            pass_fds=inherited,
        )


def stop(process: subprocess.Popen[bytes], *, grace: float = 10.0) -> None:
    """Send SIGTERM to the process's group, and SIGKILL after `grace` seconds. Returns once the process is reaped."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        try:
            process.wait(timeout=grace)
            return
        except subprocess.TimeoutExpired:
            continue
