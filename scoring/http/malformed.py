"""Explain why a body is not JSON, with the position in the body if it is known.

Called for refused bodies only. Does not explain bodies that are JSON but not a valid request: `parsing` does.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from scoring.http.problems import Problem

_OTHER_ENCODINGS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_LONE_SURROGATE = re.compile(
    rb"(?:[^\\]++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\(?!u[dD][89a-fA-F])[\s\S])*+"
    rb"(\\u[dD][89a-fA-F][0-9a-fA-F]{0,2})"
)
"""Matches up to the first escaped half of a surrogate pair. Possessive quantifiers: one pass without backtracking."""


def explain(body: bytes, error: Exception) -> Problem:
    """Return the problem to answer for a body that the decoder refused with `error`."""
    if body.startswith(b"\xef\xbb\xbf"):
        # RFC 8259, 8.1: JSON that is sent must not begin with one.
        return Problem(400, "not JSON: the body begins with a byte order mark (BOM); send UTF-8 without one")
    for mark, name in _OTHER_ENCODINGS:
        if body.startswith(mark):
            return Problem(400, f"not JSON: the body is {name}; send UTF-8")
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return Problem(400, f"not UTF-8: byte 0x{body[fault.start]:02x} at position {fault.start} of the body")
    if problem := _non_finite(body):
        return problem
    if surrogate := _LONE_SURROGATE.match(body):
        return Problem(400, f"not text: half of a surrogate pair at position {surrogate.start(1)} of the body")
    return Problem(400, f"not JSON: {error}")


def _non_finite(body: bytes) -> Problem | None:
    """NaN and Infinity are not JSON, but common JSON writers produce them: name the row and field, not the byte."""
    try:
        document = json.loads(body, parse_int=len)
    except (ValueError, RecursionError):
        return None
    for part, row, features in objects(document):
        for field, value in features.items() if isinstance(features, dict) else ():
            if isinstance(value, float) and not math.isfinite(value):
                reason = "Not a finite number; send null for a missing value"
                return Problem(400, reason, part=part, row=row, field=field)
    return None


def objects(document: Any) -> Iterator[tuple[str, int | None, Any]]:
    """Yield (part, row, content) for each member or element of a request that may be an object of features."""
    for part, content in document.items() if isinstance(document, dict) else ():
        for row, features in enumerate(content) if isinstance(content, list) else ((None, content),):
            yield part, row, features
