"""Faults of a body by the models of `databricks-bundles`: unknown keys, missing ones, wrong kinds of values.

The models are generated from Databricks' API by another team than the SDK, for the bundles of its command line. Reads
only the annotations: `from_dict` of the package itself turns numbers into strings and back.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from databricks.bundles.core import Variable

_PLAIN = (str, int, float, bool)


def faults(model: type, body: Any, path: str = "") -> Iterator[str]:
    """Faults of a body, each with its path first."""
    if not isinstance(body, Mapping):
        yield f"{path or 'body'}: {body!r} is not an object"
        return
    known, hints = {field.name: field for field in dataclasses.fields(model)}, typing.get_type_hints(model)
    for name, field in known.items():
        if name not in body and field.default is field.default_factory is dataclasses.MISSING:
            yield f"{_join(path, name)}: is missing"
    for name, value in body.items():
        if name in known:
            yield from _of_value(hints[name], value, _join(path, name))
        else:
            yield f"{_join(path, name)}: is not known"


def at(model: type, path: str) -> Any:
    """Return the kind of value at a dotted path of a model, or None. A map's key may contain dots."""
    kind: Any = model
    for name in path.split("."):
        if get_origin(kind) is dict:
            return _kind(get_args(kind)[1])
        if not dataclasses.is_dataclass(kind) or name not in (hints := typing.get_type_hints(kind)):
            return None
        kind = _kind(hints[name])
    return kind


def _of_value(hint: Any, value: Any, path: str) -> Iterator[str]:
    kind = _kind(hint)
    if get_origin(kind) is list:
        if not isinstance(value, list):
            yield f"{path}: {value!r} is not a list"
            return
        for item in value:
            yield from _of_value(get_args(kind)[0], item, f"{path}[]")
    elif get_origin(kind) is dict:
        for key, item in value.items():
            yield from _of_value(get_args(kind)[1], item, f"{path}[{key!r}]")
    elif isinstance(kind, type) and issubclass(kind, Enum):
        if value not in [one.value for one in kind]:
            yield f"{path}: {value!r} is none of {', '.join(str(one.value) for one in kind)}"
    elif kind in _PLAIN:
        if type(value) is not kind:
            yield f"{path}: {value!r} is not of type {kind.__name__}"
    elif dataclasses.is_dataclass(kind):
        yield from faults(typing.cast(type, kind), value, path)


def _kind(hint: Any) -> Any:
    """The annotation without `None` and without references to a bundle's variables."""
    while get_origin(hint) in (Union, UnionType):
        kinds = [one for one in get_args(hint) if one is not NoneType and get_origin(one) is not Variable]
        if len(kinds) != 1:
            return Any
        hint = kinds[0]
    return hint


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
