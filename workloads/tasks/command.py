"""How an entry point ends: a fault that a person can make with one line and exit code 1, ours with a traceback."""

from collections.abc import Callable
from pathlib import Path

from workloads.errors import WorkloadError


def run(work: Callable[[], None]) -> None:
    try:
        work()
    except WorkloadError as fault:
        raise SystemExit(f"error: {fault}") from None


def writable(file: Path) -> None:
    """Make the folder of a file that is written after long work. Raises `WorkloadError` where it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        file.open("ab").close()
        if new:
            file.unlink()
    except OSError as fault:
        raise WorkloadError(f"{file} cannot be written: {fault.strerror}. Give the path of a file") from None
