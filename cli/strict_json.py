"""Parses JSON from the user as strictly as the scoring service does.

Python's parser accepts duplicate names, NaN, numbers beyond a double and halves of surrogate pairs. Not used for JSON
that Pulumi, Azure or this program wrote.
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


def parse(text: str, subject: str, kind: type[dict[str, Any]] | type[list[Any]] | None = None) -> Any:
    """Return the document. Raises `UserError` with the position of an error.

    subject: name of the document in errors. kind: required type of the document.
    """
    try:
        document = json.loads(text, object_pairs_hook=_members, parse_constant=_refuse_constant)
    except RecursionError:
        raise UserError(f"{subject} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{subject} is not JSON: {error}: {_shown(text)}") from None
    if kind is not None and not isinstance(document, kind):
        raise UserError(f"{subject} must be a JSON {'object' if kind is dict else 'list'}: {_shown(text)}")
    for path, value in _values(document, ""):
        if isinstance(value, str) and _SURROGATE.search(value):
            raise UserError(
                f"{subject} is not JSON: {path or 'it'} contains half of a surrogate pair, which is not a character"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{subject} is not JSON: {path or 'it'} is a number too large for a double")
    return document


def load(path: Path, subject: str) -> Any:
    """Return the document in a file. Raises `UserError` like `parse`."""
    try:
        return parse(path.read_text("utf-8-sig"), f"{subject} {path}")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{subject} {path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
    except OSError as error:
        raise UserError(f"{subject} {path} cannot be read: {error.strerror}") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{name!r} appears twice in one object")
        members[name] = value
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number; use null for a missing value")


def _values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, member in value.items():
            inside = f"{path}.{name}".lstrip(".").encode(errors="backslashreplace").decode()
            yield inside, name
            yield from _values(member, inside)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _values(item, f"{path}[{number}]")
    else:
        yield path, value


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
