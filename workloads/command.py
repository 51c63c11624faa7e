"""How an entry point ends: a fault that a person can make with one line and exit code 1, ours with a traceback."""

from collections.abc import Callable

from workloads.errors import WorkloadError


def run(work: Callable[[], None]) -> None:
    try:
        work()
    except WorkloadError as fault:
        raise SystemExit(f"error: {fault}") from None
