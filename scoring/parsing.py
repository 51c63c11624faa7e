"""A request's bytes to rows, or a `Problem` that says which row and field was not understood.

Never guesses: a row is either read in full or the whole request is refused. A member that stands twice in one object
is refused too. The decoder would take the last; but a body in which nothing stands twice has as many colons as members
were decoded, and only where it has more (text may hold colons) is it read a second time, slowly.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from scoring.contract import Contract, RequestTypes, Row
from scoring.problems import Problem
from scoring.settings import Limits

WITHOUT_FEATURES = "no feature has a value"


@dataclass(frozen=True)
class ScoreRequest:
    rows: list[Row]
    ids: list[str | int] | None = None
    """The items' ids when this is a ranking request."""
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
        # Where each of an item's values stands in a row; `id` comes before them.
        self._item_places = [i for i, feature in enumerate(contract.features) if feature.side == "item"]
        self._user_places = [i for i, feature in enumerate(contract.features) if feature.side != "item"]

    def parse(self, body: bytes) -> ScoreRequest:
        try:
            request: Any = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._explain(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _non_finite(body) or Problem(400, f"not JSON: {error}") from None
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
        """The rows, and how many members their objects have in all."""
        self._check_count("rows", len(structs))
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
        """Rows of the user with each item, and how many members their objects have in all."""
        self._check_count("items", len(items))
        columns: list[Iterable[Any]] = [()] * self._width
        values = msgspec.structs.astuple(user)
        members = len(values) - values.count(UNSET)
        for place, value in zip(self._user_places, values, strict=False):
            columns[place] = repeat(None if value is UNSET else value, len(items))
        # By column: what is done a thousand times is then done in C.
        ids, *of_items, labels = zip(*map(msgspec.structs.astuple, items), strict=True)
        members += len(ids) + len(labels) - _unset(labels)
        for place, column in zip(self._item_places, of_items, strict=True):
            unset = _unset(column)
            members += len(column) - unset
            columns[place] = [None if value is UNSET else value for value in column] if unset else column
        return list(zip(*columns, strict=True)), members

    def _check_count(self, part: str, count: int) -> None:
        if count == 0:
            raise Problem(400, f"{part} is empty: send at least one", part=part)
        if count > self._limits.rows:
            raise Problem(413, f"{count} {part} sent; the limit is {self._limits.rows} per request", part=part)

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

    def _explain(self, message: str) -> Problem:
        reason, _, at = message.rpartition(" - at `$")
        place = _PLACE.fullmatch(at)
        part, row, field, position = place.groups() if place else (None, None, None, None)
        if found := _UNKNOWN.fullmatch(reason or message):
            side = self._sides.get(found[1])
            field = found[1][:_NAME_SHOWN]
            reason = (
                f"is a feature of {side}: send it {'with each item' if side == 'item' else 'in user'}"
                if side
                else "unknown feature; the known ones are listed at /openapi.json"
                if part
                else 'unknown member; known are "rows", "user", "items" and "top"'
            )
        else:
            reason = _TOKEN.sub(lambda token: _WORDS.get(token[1], token[1]), reason or message)
            reason = _PHRASES.get(reason, reason)
            if position is not None:
                reason = f"element {position}: {reason}"
        return Problem(400, reason, part=part, row=None if row is None else int(row), field=field)


def _unset(column: Sequence[Any]) -> int:
    return sum(map(is_, column, repeat(UNSET)))


_PLACE = re.compile(r"\.(rows|items|user|top)(?:\[(\d+)\])?(?:\.(.*?))?(?:\[(\d+)\])?`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_NAME_SHOWN = 100
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
}
_PHRASES = {
    "Expected number that's a multiple of 1.0": "Expected integer, got number with a fraction",
    "Number out of range": "Not a finite number",
}


# A member's colon follows its name's quotation mark, or white space after that.
_COLONS = (b'":', b" :", b"\t:", b"\n:", b"\r:")


def _refuse_repeated(body: bytes, members: int) -> None:
    """`members` that differ were decoded from this body."""
    if body.count(b":") == members or sum(map(body.count, _COLONS)) == members:
        return
    try:
        document = json.loads(body, object_pairs_hook=_Object, parse_int=len, parse_float=len)
    except RecursionError:
        raise Problem(400, "nested too deeply") from None
    for part, row, content in [(None, None, document), *_objects(document)]:
        if content.repeated is not None:
            raise Problem(400, "stands twice in one object", part=part, row=row, field=content.repeated[:_NAME_SHOWN])


class _Object(dict[str, Any]):
    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = (
            next((name for name in names if names.count(name) > 1), None) if len(self) < len(names) else None
        )


def _non_finite(body: bytes) -> Problem | None:
    """NaN and Infinity are not JSON, but common writers produce them: name the place, not the byte."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for part, row, features in _objects(document):
        for field, value in features.items():
            if isinstance(value, float) and not math.isfinite(value):
                reason = "Not a finite number; send null for a missing value"
                return Problem(400, reason, part=part, row=row, field=field[:_NAME_SHOWN])
    return None


def _objects(document: Any) -> Iterator[tuple[str, int | None, Any]]:
    """The objects that hold features, and where they stand."""
    for part, content in document.items() if isinstance(document, dict) else ():
        for row, features in enumerate(content) if isinstance(content, list) else ((None, content),):
            if isinstance(features, dict):
                yield part[:_NAME_SHOWN], row, features
