"""A request's bytes to rows, or a `Problem` that says which row and field was not understood.

Never guesses: a row is either read in full or the whole request is refused. A key that stands twice in one JSON
object counts with its last value, as in every common JSON parser; finding it would cost a second parse.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from scoring.contract import Contract, RequestTypes, Row
from scoring.problems import Problem

WITHOUT_FEATURES = "no feature has a value"


@dataclass(frozen=True)
class ScoreRequest:
    rows: list[Row]
    ids: list[str | int] | None = None
    """The items' ids when this is a ranking request."""
    top: int | None = None


class RequestParser:
    def __init__(self, contract: Contract, max_rows: int) -> None:
        self.types = RequestTypes(contract, max_rows)
        self._sides = {feature.name: feature.side for feature in contract.features}
        self._width = len(contract.features)
        self._max_rows = max_rows
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
            return ScoreRequest(self._rows(request.rows))
        if request.user is UNSET or request.items is UNSET:
            raise Problem(400, 'send {"rows": [...]} to score, or {"user": {...}, "items": [...]} to rank')
        rows, ids = self._pairs(request.user, request.items)
        return ScoreRequest(rows, ids, len(ids) if request.top is UNSET else int(request.top))

    def _rows(self, structs: list[Struct]) -> list[Row]:
        self._check_count("rows", len(structs))
        rows = [msgspec.structs.astuple(struct)[: self._width] for struct in structs]
        return self._check_known("rows", rows)

    def _pairs(self, user: Struct, items: list[Any]) -> tuple[list[Row], list[str | int]]:
        self._check_count("items", len(items))
        pattern: list[Any] = [None] * self._width
        for place, value in zip(self._user_places, msgspec.structs.astuple(user), strict=False):
            pattern[place] = value
        rows: list[Row] = []
        for item in items:
            for place, value in zip(self._item_places, msgspec.structs.astuple(item)[1:], strict=False):
                pattern[place] = value
            rows.append(tuple(pattern))
        return self._check_known("items", rows), [item.id for item in items]

    def _check_count(self, part: str, count: int) -> None:
        if count == 0:
            raise Problem(400, f"{part} is empty: send at least one", part=part)
        if count > self._max_rows:
            raise Problem(413, f"{count} {part} sent; the limit is {self._max_rows} per request", part=part)

    def _check_known(self, part: str, rows: list[Row]) -> list[Row]:
        for number, row in enumerate(rows):
            if row.count(None) == self._width:
                raise Problem(400, WITHOUT_FEATURES, part=part, row=number)
        return rows

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
    "int | str": "string or integer",
    "bool": "boolean",
    "array | null": "array of strings or null",
}
_PHRASES = {
    "Expected number that's a multiple of 1.0": "Expected integer, got number with a fraction",
    "Number out of range": "Not a finite number",
}


def _non_finite(body: bytes) -> Problem | None:
    """NaN and Infinity are not JSON, but common writers produce them: name the place, not the byte."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for part, row, field, value in _fields(document):
        if isinstance(value, float) and not math.isfinite(value):
            return Problem(400, "Not a finite number; send null for a missing value", part=part, row=row, field=field)
    return None


def _fields(document: Any) -> Iterator[tuple[str, int | None, str, Any]]:
    for part, content in document.items() if isinstance(document, dict) else ():
        for row, features in enumerate(content) if isinstance(content, list) else ((None, content),):
            for field, value in features.items() if isinstance(features, dict) else ():
                yield part, row, field, value
