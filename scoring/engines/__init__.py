"""What can score: the same rows, the same probabilities, whichever engine is configured."""

from collections.abc import Sequence
from typing import Protocol

from scoring.contract import Row


class EngineUnavailable(Exception):
    """The engine cannot answer at present; asking again later may work."""


class Engine(Protocol):
    @property
    def ready(self) -> bool:
        """Whether a request sent now would be answered."""

    async def start(self) -> None:
        """Return once the first row can be scored."""

    async def probabilities(self, rows: Sequence[Row]) -> list[float]:
        """One probability per row in the rows' order, or `EngineUnavailable` for all of them."""

    async def close(self) -> None:
        """Stop, and leave no process behind."""
