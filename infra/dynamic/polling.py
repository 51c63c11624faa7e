"""Pauses between two polls of a long operation: short at first, because some operations end at once, then longer.

Does not poll and has no time limit: the callers do, with the interval that their service needs.
"""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class PollInterval:
    """Seconds between two polls: `quick` during the first `quick_for` seconds of an operation, then `slow`."""

    quick: float
    quick_for: float
    slow: float

    def pause(self, began: float) -> None:
        """Sleep until the next poll. `began` is the operation's start on the clock of `time.monotonic`."""
        time.sleep(self.quick if time.monotonic() - began < self.quick_for else self.slow)
