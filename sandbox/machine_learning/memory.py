"""Memory of a replica's processes, as Kubernetes compares it with the limit at which it kills a container.

Counts the memory that the kernel cannot reclaim when a container reaches its limit: anonymous and shared memory. File
pages, which the kernel reclaims first, do not count. Measures on Linux only; elsewhere the result is 0.
"""

from collections.abc import Iterable
from pathlib import Path

import psutil

# Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max, memory.stat)
_COUNTED = ("RssAnon:", "RssShmem:")


def family(process_id: int) -> list[int]:
    """The process and all its descendants."""
    try:
        return [process_id, *(child.pid for child in psutil.Process(process_id).children(recursive=True))]
    except psutil.Error:
        return [process_id]


def held(process_ids: Iterable[int]) -> int:
    """Bytes of all processes together. A process that has ended has 0."""
    return sum(_held(process_id) for process_id in process_ids)


def _held(process_id: int) -> int:
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_COUNTED))
