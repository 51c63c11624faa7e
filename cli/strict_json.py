"""JSON that a person hands to a command, read as strictly as the scoring service reads it.

Python's own reader takes the last of two equal names, NaN, numbers beyond a double and halves of surrogate pairs. Does
not read what Pulumi, Azure or this program wrote.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 60


def parse(text: str, what: str, kind: type[dict[str, Any]] | type[list[Any]] | None = None) -> Any:
    """Return the document. `what` names it in errors, `kind` is its type. Raises `UserError` with the place."""
    try:
        document = json.loads(text, object_pairs_hook=_members, parse_constant=_refuse_constant)
    except RecursionError:
        raise UserError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{what} is not JSON: {error}: {_shown(text)}") from None
    if kind is not None and not isinstance(document, kind):
        raise UserError(f"{what} must be a JSON {'object' if kind is dict else 'list'}: {_shown(text)}")
    for place, value in _values(document, ""):
        if isinstance(value, str) and _SURROGATE.search(value):
            raise UserError(
                f"{what} is not JSON: {place or 'it'} holds half of a surrogate pair, which is not a character"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{what} is not JSON: {place or 'it'} is a number too large for a double")
    return document


def load(path: Path, what: str) -> Any:
    """The document in a file. Raises `UserError`."""
    try:
        return parse(path.read_text("utf-8-sig"), f"{what} {path}")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} {path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{name!r} is there twice in one object")
        members[name] = value
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON; use null for a missing value")


def _values(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, member in value.items():
            inside = f"{place}.{name}".lstrip(".").encode(errors="backslashreplace").decode()
            yield inside, name
            yield from _values(member, inside)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _values(item, f"{place}[{number}]")
    else:
        yield place, value


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
