"""Run a task's entry point: a `WorkloadError` ends it with one line and exit code 1, any other error with traceback."""

from collections.abc import Callable
from pathlib import Path

from workloads.errors import WorkloadError


def run(work: Callable[[], None]) -> None:
    try:
        work()
    except WorkloadError as fault:
        raise SystemExit(f"error: {fault}") from None


def writable(file: Path) -> None:
    """Create the folder of a file that is written at the end of a long task.

    Raises `WorkloadError` if the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        file.open("ab").close()
        if new:
            file.unlink()
    except OSError as fault:
        raise WorkloadError(f"{file} cannot be written: {fault.strerror}. Give the path of a file") from None
