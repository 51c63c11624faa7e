"""Parsed YAML as dataclasses: checks types, unknown and missing keys, and names the place of a fault.

Does not know datasets: `spec.py` has their dataclasses, which check the values.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from workloads.errors import WorkloadError

COMPUTED = {"computed": True}
"""Metadata of a field that is not a key of the document."""


def read(kind: Any, value: Any, where: str) -> Any:
    """Return `value` as `kind`. Raises `WorkloadError` for unknown or missing keys and wrong types."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else read(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise WorkloadError(f"{where}: must be a list, not {value!r}")
        return tuple(read(arguments[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise WorkloadError(f"{where}: must be a mapping, not {value!r}")
        return {str(name): read(arguments[1], entry, f"{where}: {name}") for name, entry in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise WorkloadError(f"{where}: must be a finite number, not {value!r}: JSON, and so the artefact, has no other")
    if type(value) is not kind:
        raise WorkloadError(f"{where}: must be of type {kind.__name__}, not {value!r}")
    return value


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise WorkloadError(f"{where}: must be a mapping, not {value!r}")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.metadata != COMPUTED}
    if unknown := [key for key in value if key not in fields]:
        raise WorkloadError(f"{where}: unknown key {unknown[0]!r}; there are: {', '.join(fields)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise WorkloadError(f"{where}: {name} is missing")
    hints = typing.get_type_hints(kind)
    try:
        return kind(**{key: read(hints[key], entry, f"{where}: {key}") for key, entry in value.items()})
    except ValueError as fault:
        raise WorkloadError(f"{where}: {fault}") from None
