"""Decide from the Accept header whether a client accepts JSON (RFC 9110, 12.5.1)."""

from functools import lru_cache

_RANGES = ("*/*", "application/*", "application/json")


_REMEMBERED = 200
"""Most bytes of a header whose result is cached. Longer ones would let a client fill the memory."""


def accepts_json(accept: bytes) -> bool:
    """Return whether the most specific range for application/json has a weight above 0; a malformed one counts as 1."""
    return _recent(accept) if len(accept) <= _REMEMBERED else _decide(accept)


def _decide(accept: bytes) -> bool:
    decided = (-1, False)
    for item in accept.decode("latin-1").lower().split(","):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        if media_range in _RANGES:
            decided = max(decided, (_RANGES.index(media_range), all(map(_weight, parameters))))
    return decided[1]


_recent = lru_cache(maxsize=256)(_decide)


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 1.0
