"""One log line per minute with the number and latency of the answered requests, for the alerts and the dashboard.

Holds counts and times only, never a feature value. A replica without requests writes its line too, so the number of
replicas can be counted from the lines.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from scoring.logs import event

SECONDS = 60.0
_KEPT = 20_000
"""Most durations stored per minute. After that each new one replaces the oldest, so p99 covers the newest."""

log = logging.getLogger("scoring.summary")


class Summary:
    def __init__(self, model: str, trained_at: datetime | None) -> None:
        self._model, self._trained_at = model, trained_at
        self._reset()

    def _reset(self) -> None:
        self.requests = self.errors = self.without_features = self.rows = 0
        self._seconds: list[float] = []

    def observe(self, status: int, seconds: float) -> None:
        if self.requests >= _KEPT:
            self._seconds[self.requests % _KEPT] = seconds
        else:
            self._seconds.append(seconds)
        self.requests += 1
        self.errors += status >= 500

    def take(self) -> dict[str, object]:
        """Return the figures since the last call, and reset them."""
        slowest = sorted(self._seconds)
        age = None if self._trained_at is None else (datetime.now(UTC) - self._trained_at).total_seconds() / 3600
        line: dict[str, object] = {
            "requests": self.requests,
            "errors": self.errors,
            "without_features": self.without_features,
            "rows": self.rows,
            "p99_ms": round(slowest[int(len(slowest) * 0.99)] * 1000, 3) if slowest else None,
            "model": self._model,
            "model_age_hours": None if age is None else round(age, 2),
        }
        self._reset()
        return line

    @contextlib.asynccontextmanager
    async def written(self, seconds: float = SECONDS) -> AsyncIterator[None]:
        """Write a line every `seconds`, and a last one on exit for the requests since then."""

        async def write() -> None:
            due = 0.0
            while True:
                # A sleep may end a millisecond early, so take the later of clock and last due time: no line is doubled.
                now = time.monotonic()
                due = max(due, now // seconds * seconds) + seconds
                await asyncio.sleep(due - now)
                event(log, logging.INFO, "summary", **self.take())

        writing = asyncio.create_task(write())
        yield
        writing.cancel()
        event(log, logging.INFO, "summary", **self.take())
