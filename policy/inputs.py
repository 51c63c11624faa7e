"""Access to the inputs of a resource, of which a preview may not know some values yet."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pulumi_policy import PolicyResource, ResourceValidationArgs
from pulumi_policy.proxy import UnknownValueError

Resource = ResourceValidationArgs | PolicyResource
"""A single resource, or a resource in a whole stack."""


def read(properties: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path; None if it is not set.

    Raises `UnknownValueError` for a value that the preview does not know; the engine then reports that it skipped the
    rule.
    """
    value: Any = properties
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def known(value: Any) -> Any:
    """Return `value` as plain data: without unknown values, lists as objects by index, and JSON text decoded."""
    if isinstance(value, str):
        return _decoded(value)
    if not isinstance(value, Mapping | Sequence):
        return value
    items = {}
    for key in value if isinstance(value, Mapping) else range(len(value)):
        with contextlib.suppress(UnknownValueError):
            items[str(key)] = known(value[key])
    return items


def nodes(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value inside a result of `known`, objects included, with its dotted path."""
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nodes(item, f"{path}.{key}".lstrip("."))


def _decoded(text: str) -> Any:
    if text[:1] not in ("{", "["):
        return text
    try:
        return known(json.loads(text))
    except json.JSONDecodeError:
        return text
