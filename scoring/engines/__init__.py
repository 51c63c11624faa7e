"""The interface of a scoring engine. Every engine computes the same probabilities for the same rows."""

from collections.abc import Sequence
from typing import Protocol

from scoring.contract import Row


class EngineUnavailable(Exception):
    """The engine cannot answer at present; a later attempt may succeed."""


class Engine(Protocol):
    @property
    def ready(self) -> bool:
        """Whether the engine can score rows now."""

    async def start(self) -> None:
        """Return once the first row can be scored."""

    async def probabilities(self, rows: Sequence[Row]) -> list[float]:
        """Return one probability per row, in the order of the rows. Raises `EngineUnavailable` if any row fails."""

    async def close(self) -> None:
        """Stop the engine and every process it started."""
