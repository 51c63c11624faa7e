"""Decode the bytes of a request into rows, or raise a `Problem` that names the row, the field and the reason.

A request is refused as a whole if any row cannot be read in full. Duplicate JSON keys are refused too. msgspec keeps
the last of them without an error, so the number of colons in the body is compared with the number of decoded members.
Only if there are more colons (text may contain some) is the body parsed again by a slower, strict reader.

Time and memory are linear in the size of any body. Does not explain bodies that are not JSON: `malformed` does.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from scoring.contract import Contract, RequestTypes, Row
from scoring.http import malformed
from scoring.http.problems import Problem
from scoring.settings import Limits

WITHOUT_FEATURES = "no feature has a value"


@dataclass(frozen=True)
class ScoreRequest:
    rows: list[Row]
    ids: list[str | int] | None = None
    """Ids of the items of a ranking request; None for a request of rows."""
    top: int | None = None


class RequestParser:
    def __init__(self, contract: Contract, limits: Limits) -> None:
        self.types = RequestTypes(contract, limits)
        self._sides = {feature.name: feature.side for feature in contract.features}
        self._width = len(contract.features)
        self._nothing: Row = (None,) * self._width
        self._limits = limits
        places = {feature.name: i for i, feature in enumerate(contract.features) if feature.type == "strings"}
        lists = {
            cross.name: [places[name] for name in cross.of if name in places] for cross in contract.encoder.crosses
        }
        self._products = {name: of for name, of in lists.items() if len(of) > 1}
        self._decoder = msgspec.json.Decoder(self.types.request)
        members = [(name, Raw | UnsetType, UNSET) for name in _MEMBERS]
        self._outer = msgspec.json.Decoder(msgspec.defstruct("Outer", members, forbid_unknown_fields=True))
        sides = {side: [f.name for f in contract.features if (f.side == "item") == (side == "item")] for side in _SIDES}
        self._known = {"rows": [f.name for f in contract.features], "user": sides["user"], "items": sides["item"]}
        # Position in a row of each value of an item, and of the user. In a decoded item, `id` precedes the values.
        self._item_places = [i for i, feature in enumerate(contract.features) if feature.side == "item"]
        self._user_places = [i for i, feature in enumerate(contract.features) if feature.side != "item"]

    def parse(self, body: bytes) -> ScoreRequest:
        self.types.start_counting()
        try:
            request: Any = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._explain(body, str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise malformed.explain(body, error) from None
        except RecursionError:
            raise Problem(400, "nested too deeply") from None
        if request.rows is not UNSET:
            if (request.user, request.items, request.top) != (UNSET, UNSET, UNSET):
                raise Problem(400, 'send either "rows", or "user" and "items", not both')
            rows, members = self._rows(request.rows)
            _refuse_repeated(body, 1 + members)
            self._check_known("rows", rows)
            return ScoreRequest(rows)
        if request.user is UNSET or request.items is UNSET:
            raise Problem(400, 'send {"rows": [...]} to score, or {"user": {...}, "items": [...]} to rank')
        rows, members = self._pairs(request.user, request.items)
        top = len(rows) if request.top is UNSET else int(request.top)
        _refuse_repeated(body, 2 + (request.top is not UNSET) + members)
        self._check_known("items", rows)
        return ScoreRequest(rows, [item.id for item in request.items], top)

    def _rows(self, structs: list[Struct]) -> tuple[list[Row], int]:
        """The rows, and the total number of members of their objects."""
        if not structs:
            raise Problem(400, "must hold at least one row", part="rows")
        rows: list[Row] = []
        members = 0
        for struct in structs:
            values = msgspec.structs.astuple(struct)
            row = values[:-1]
            unset = row.count(UNSET)
            members += self._width - unset + (values[-1] is not UNSET)  # the label is the last
            rows.append(tuple([None if value is UNSET else value for value in row]) if unset else row)
        return rows, members

    def _pairs(self, user: Struct, items: list[Any]) -> tuple[list[Row], int]:
        """One row for each item, combined with the user, and the total number of members of their objects."""
        if not items:
            raise Problem(400, "must hold at least one item", part="items")
        columns: list[Iterable[Any]] = [()] * self._width
        values = msgspec.structs.astuple(user)
        members = len(values) - values.count(UNSET)
        for place, value in zip(self._user_places, values, strict=False):
            columns[place] = repeat(None if value is UNSET else value, len(items))
        # Column by column, so that the loop over a thousand items runs in C.
        ids, *item_columns, labels = zip(*map(msgspec.structs.astuple, items), strict=True)
        members += len(ids) + len(labels) - _unset(labels)
        for place, column in zip(self._item_places, item_columns, strict=True):
            unset = _unset(column)
            members += len(column) - unset
            columns[place] = [None if value is UNSET else value for value in column] if unset else column
        return list(zip(*columns, strict=True)), members

    def _check_known(self, part: str, rows: list[Row]) -> None:
        if self._nothing in rows:
            raise Problem(400, WITHOUT_FEATURES, part=part, row=rows.index(self._nothing))
        for name, places in self._products.items():
            for number, row in enumerate(rows):
                lists = [row[place] for place in places]
                combinations = math.prod([max(len(of), 1) for of in lists if isinstance(of, list)])
                if combinations > self._limits.strings:
                    reason = f"its lists give {combinations} combinations; the limit is {self._limits.strings}"
                    raise Problem(400, reason, part=part, row=number, field=name)

    def _explain(self, body: bytes, message: str) -> Problem:
        part = row = field = position = None
        reason, _, at = message.rpartition(" - at `$")
        try:
            self._outer.decode(body)
        except msgspec.ValidationError as error:
            # An error of the outer object has no position; a member name that looks like one must not be taken for it.
            reason, at = str(error), ""
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # malformed JSON after the error that was found first
        if place := _PLACE.fullmatch(at):
            part, row, field, position = place.groups()
        reason = reason or message
        if unknown := _UNKNOWN.fullmatch(reason):
            field = unknown[1]
            reason = self._unknown(part, field)
        else:
            reason = _plain(reason)
            if position is not None:
                reason = f"element {position}: {reason}"
        return Problem(400, reason, part=part, row=None if row is None else int(row), field=field)

    def _unknown(self, part: str | None, name: str) -> str:
        if side := self._sides.get(name):
            return f"is a feature of {side}: send it {'with each item' if side == 'item' else 'in user'}"
        if part is None:
            return 'unknown member; known are "rows", "user", "items" and "top"'
        return f"unknown feature; known are {_listed(self._known[part])}"


def _unset(column: Sequence[Any]) -> int:
    return sum(map(is_, column, repeat(UNSET)))


_MEMBERS = ("rows", "user", "items", "top")
_SIDES = ("user", "item")
_PLACE = re.compile(r"\.(rows|items|user|top)(?:\[(\d{1,7})\])?(?:\.(.*?))?(?:\[(\d{1,7})\])?`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_TOKEN = re.compile(r"`([^`]*)`")
_WORDS = {
    "float": "number",
    "float | null": "number or null",
    "str": "string",
    "str | null": "string or null",
    "int": "integer",
    "int | float | str": "string or integer",
    "bool": "boolean",
    "array | null": "array of strings or null",
    "bool | float | str | null": "number, string, boolean or null",
}
_PHRASES = (
    (re.compile(r"Expected (?:number|integer) >= (.*?)(?:\.0)?"), r"must be at least \1"),
    (re.compile(r"Expected (?:number|integer) <= (.*?)(?:\.0)?"), r"must be at most \1"),
    (re.compile(r"Expected string of length <= (\d+)"), r"must be at most \1 characters long"),
    (re.compile(r"Expected array of length <= (\d+)"), r"must hold at most \1 strings"),
    (re.compile(r"Expected number that's a multiple of 1\.0"), "Expected integer, got number with a fraction"),
    (re.compile(r"Number out of range"), "Not a finite number"),
)
_LISTED = 600
"""Most characters of a list of features in a message."""


def _plain(reason: str) -> str:
    """The decoder's message with JSON's type names instead of Python's."""
    reason = _TOKEN.sub(lambda token: _WORDS.get(token[1], token[1]), reason)
    for pattern, phrase in _PHRASES:
        if match := pattern.fullmatch(reason):
            return match.expand(phrase)
    return reason


def _listed(names: Sequence[str]) -> str:
    """The names as text, cut after `_LISTED` characters."""
    text, shown = "", 0
    while shown < len(names) and len(text) + len(names[shown]) < _LISTED:
        text += (", " if text else "") + names[shown]
        shown += 1
    return text if shown == len(names) else f"{text} and {len(names) - shown} more"


# The colon of a member follows the closing quotation mark of its name, or white space after that mark.
_COLONS = (b'":', b" :", b"\t:", b"\n:", b"\r:")


def _refuse_repeated(body: bytes, members: int) -> None:
    """Raise `Problem` if the body has a duplicate key; `members` is the number of members decoded from it."""
    if body.count(b":") == members or sum(map(body.count, _COLONS)) == members:
        return
    document = json.loads(body, object_pairs_hook=_object, parse_int=len, parse_float=len)
    for part, row, content in [(None, None, document), *malformed.objects(document)]:
        if isinstance(content, _Repeated):
            raise Problem(400, "appears twice in one object", part=part, row=row, field=content.name)


@dataclass(frozen=True, slots=True)
class _Repeated:
    """An object in which a name appears twice."""

    name: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return _Repeated(name)
