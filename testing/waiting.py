"""Waiting for results of other processes or threads."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(get: Callable[[], T], done: Callable[[T], object] = bool, seconds: float = 20) -> T:
    """The first value that satisfies `done`. Fails with the last value after so many seconds."""
    deadline = time.monotonic() + seconds
    while not done(value := get()):
        assert time.monotonic() < deadline, value
        time.sleep(0.05)
    return value
