"""Retry of calls that Azure refuses until a role is in effect, minutes after it was assigned."""

import time
from collections.abc import Callable
from typing import TypeVar

import pulumi

from infra.cloud.network_refusal import network_refusal

T = TypeVar("T")
_PAUSE_SECONDS = (1, 2, 4, 8, 15, 30)


def retry_until_authorized(
    action: Callable[[], T], refused: tuple[type[Exception], ...], *, what: str, seconds: float = 600
) -> T:
    """Run `action`, and repeat it while it raises one of `refused`, for at most `seconds`.

    Raises the last refusal. A refusal by the network is raised at once, because waiting does not change it.

    what: name of the action in the log.
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
