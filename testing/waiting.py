"""Wait for a condition that another process, thread or task brings about."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(get: Callable[[], T], done: Callable[[T], object] = bool, seconds: float = 20) -> T:
    """Call `get` until `done` accepts its value, and return that value; fail with the last value after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done(value := get()):
        assert time.monotonic() < deadline, value
        time.sleep(0.05)
    return value


async def eventually_in_loop(get: Callable[[], T], done: Callable[[T], object] = bool, seconds: float = 20) -> T:
    """Wait as `eventually` does, and let the other tasks of the event loop run meanwhile."""
    deadline = time.monotonic() + seconds
    while not done(value := get()):
        assert time.monotonic() < deadline, value
        await asyncio.sleep(0.001)
    return value
