"""Reading what a resource is declared with, where a preview may not know a value yet."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pulumi_policy import PolicyResource, ResourceValidationArgs
from pulumi_policy.proxy import UnknownValueError

Resource = ResourceValidationArgs | PolicyResource
"""A resource as it is declared, or as a whole stack has it."""


def read(properties: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where nothing is said.

    Raises `UnknownValueError` for what the preview cannot know; the engine then says that the rule could not be run.
    """
    value: Any = properties
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def known(value: Any) -> Any:
    """`value` as plain data: without what the preview cannot know, lists by index, and JSON text as what it says."""
    if isinstance(value, str):
        return _opened(value)
    if not isinstance(value, Mapping | Sequence):
        return value
    found = {}
    for key in value if isinstance(value, Mapping) else range(len(value)):
        with contextlib.suppress(UnknownValueError):
            found[str(key)] = known(value[key])
    return found


def nodes(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside what `known` gives, objects included, with its dotted path."""
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nodes(item, f"{path}.{key}".lstrip("."))


def _opened(text: str) -> Any:
    if text[:1] not in ("{", "["):
        return text
    try:
        return known(json.loads(text))
    except json.JSONDecodeError:
        return text
