"""Waiting for what Azure grants late: a role assignment answers at once but works minutes later."""

import time
from collections.abc import Callable
from typing import TypeVar

import pulumi

from infra.cloud.network_refusal import network_refusal

T = TypeVar("T")
_PAUSE_SECONDS = (1, 2, 4, 8, 15, 30)


def until_allowed(
    action: Callable[[], T], refused: tuple[type[Exception], ...], *, what: str, seconds: float = 600
) -> T:
    """Run `action`, again while it raises one of `refused`, for at most `seconds`; the last refusal is raised.

    So is at once a refusal by the network, which no waiting changes.
    """
    deadline = time.monotonic() + seconds
    attempt = 0
    while True:
        try:
            return action()
        except refused as error:
            pause = _PAUSE_SECONDS[min(attempt, len(_PAUSE_SECONDS) - 1)]
            if time.monotonic() + pause > deadline or network_refusal(error):
                raise
            pulumi.log.info(f"{what}: not allowed yet, again in {pause} s ({str(error).splitlines()[0][:160]})")
            time.sleep(pause)
            attempt += 1
