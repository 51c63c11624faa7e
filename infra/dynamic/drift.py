"""Comparison of an object in a service with its declaration, for the `read` of dynamic resources.

A service fills in defaults, so an object is compared only as far as its declaration goes. Does not call a service:
each provider does.
"""

import json
from typing import Any


def observed(declared: str, held: Any) -> str:
    """Return `declared`, JSON text, if `held` agrees with it; else `held` as JSON text, which the next diff reports."""
    return declared if agrees(json.loads(declared), held) else json.dumps(held, sort_keys=True)


def agrees(declared: Any, held: Any) -> bool:
    """Whether `held` has everything that is declared. Objects in a list may come in another order.

    A declared 0, "" or empty list agrees with a missing value: services omit such values from their answers.
    """
    if isinstance(declared, dict):
        return isinstance(held, dict) and all(agrees(value, held.get(key)) for key, value in declared.items())
    if isinstance(declared, list) and any(isinstance(item, dict) for item in declared):
        known = held if isinstance(held, list) else []
        return len(declared) == len(known) and all(any(agrees(item, other) for other in known) for item in declared)
    return declared == held or (not declared and held is None)
