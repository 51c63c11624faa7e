"""The format of a data file: how bytes become lines, fields and values, and which lines are malformed.

Two readers use the same rules: `tables.py` applies them in Spark; `read` applies them in plain Python, for catalogues
that are small enough. Does not find or unpack files (`raw_file.py`), join tables or count rejected lines
(`tasks/prepare.py`).

A line is UTF-8 with tabs between fields and no quotes. Blank lines are skipped. An empty field is a missing value.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads.data import raw_file
from workloads.errors import WorkloadError
from workloads.spec import Table

Wanted = tuple[str, str]
"""A column's name and the type to read it as: integer, number or string. One column may be read as several."""

NOT_BLANK = r"[^\x00-\x20]"
"""A regular expression that matches somewhere in every line that is not blank, in Java and in Python."""
NUMBER = r"[\x00-\x20]*(?:[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:Infinity|NaN))[\x00-\x20]*"
"""Matches a field that is a number. Java's parser would also accept `1d`, `2f` and `0x1p4`, which are codes."""
_INTEGER = re.compile(r"[\x00-\x20\x7f]*([+-]?[0-9]+)[\x00-\x20\x7f]*")
"""Matches the strings that Spark casts to a bigint (UTF8String.toLong without fractions)."""
_NUMBER = re.compile(NUMBER)
_NOT_BLANK = re.compile(NOT_BLANK.encode())

NO_INTEGER, NO_NUMBER = "is not an integer", "is not a number"
NOT_UTF8 = "not UTF-8"
NUL = "holds a NUL character"
"""Text has no NUL characters; UTF-16 without a byte order mark has many."""

# Types as which a column can be read, by the type in the header.
_READABLE = {
    "token": ("integer", "number", "string"),
    "float": ("integer", "number"),
    "token_seq": ("string",),
    "float_seq": ("string",),
}


@dataclass(frozen=True)
class Header:
    columns: tuple[str, ...]
    """Names in file order."""
    types: tuple[str, ...]
    """Type of each column in the header; empty if it has none."""
    lines: int
    """Lines to skip: the header and blank lines before it; 0 if the spec names the columns."""

    def place(self, column: str) -> int:
        """Return the index of a column."""
        return self.columns.index(column)

    def in_order(self, file: Path, wanted: Iterable[Wanted]) -> list[Wanted]:
        """Return `wanted` without duplicates, in the order of the columns.

        Raises `WorkloadError` if a column is missing or repeated, or its type in the header cannot be read as wanted.
        """
        lower = [name.lower() for name in self.columns]
        if repeated := [name for name in self.columns if lower.count(name.lower()) > 1]:
            raise WorkloadError(f"{file}: column {repeated[0]!r} exists twice; names must differ in more than case")
        every = list(dict.fromkeys(wanted))
        for name, kind in every:
            if name not in self.columns:
                raise WorkloadError(
                    f"{file}: no column {name!r}; there are: {', '.join(map(visible, self.columns))}. "
                    "Land a file that has it, or name another column in the spec"
                )
            header_type = self.types[self.place(name)]
            if kind not in _READABLE.get(header_type, (kind,)):
                possible = " or ".join(each for each, readable in _READABLE.items() if kind in readable)
                raise WorkloadError(
                    f"{file}: column {name!r} has type {header_type} in the header, and the spec reads it as {kind}. "
                    f"Land it as {possible}, or change its type in the spec"
                )
        return sorted(every, key=lambda column: self.place(column[0]))


@dataclass(frozen=True)
class Line:
    number: int
    """Line number in the file, from 1; blank lines count."""
    values: Mapping[Wanted, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    """The text of every column."""
    malformed: str = ""
    """Reason if the line is malformed, which then has no values; empty otherwise."""


def header(file: Path, table: Table) -> Header:
    """Return the header. Raises `WorkloadError` if it is missing or cannot be read."""
    raw_file.check(file)
    if table.columns:
        columns, types = zip(*((name, "") for name in table.columns), strict=True)
        return Header(columns, types, 0)
    numbered = enumerate(raw_file.lines(file), 1)
    number, line = next(((n, line) for n, line in numbered if _NOT_BLANK.search(line)), (0, b""))
    if not number:
        raise WorkloadError(f"{file}: is empty, a header line was expected")
    if byte := first_bad_byte(line):
        raise WorkloadError(f"{file}: line {number}, the header, is {NOT_UTF8} at byte {byte}. Save the file as UTF-8")
    parts = [name.partition(":") for name in line.decode().split("\t")]
    return Header(tuple(name for name, _, _ in parts), tuple(given for _, _, given in parts), number)


def read(file: Path, table: Table, wanted: Iterable[Wanted], required: Iterable[Wanted]) -> Iterator[Line]:
    """Yield every line that is not blank, in file order. Raises `WorkloadError` for a file that cannot be read."""
    columns = header(file, table)
    wanted, required = columns.in_order(file, wanted), list(required)
    for number, line in enumerate(raw_file.lines(file), 1):
        if number > columns.lines and _NOT_BLANK.search(line):
            try:
                fields = _fields(line, columns)
                values = _values(fields, wanted, required)
            except ValueError as fault:
                yield Line(number, malformed=str(fault))
            else:
                yield Line(number, values, fields)


def _fields(line: bytes, header: Header) -> dict[str, str]:
    try:
        fields = line.decode().split("\t")
    except UnicodeDecodeError:
        raise ValueError(NOT_UTF8) from None
    if b"\0" in line:
        raise ValueError(NUL)
    if len(fields) != len(header.columns):
        raise ValueError(wrong_count(len(fields), len(header.columns)))
    return dict(zip(header.columns, fields, strict=True))


def _values(fields: Mapping[str, str], wanted: Iterable[Wanted], required: Iterable[Wanted]) -> dict[Wanted, Any]:
    values: dict[Wanted, Any] = {}
    for name, kind in wanted:
        try:
            values[name, kind] = value(fields[name], kind)
        except ValueError as fault:
            raise ValueError(f"{name} {fault}") from None
    for column in required:
        if values[column] is None:
            raise ValueError(missing(column[0]))
    for (name, kind), number in values.items():
        if kind == "number" and number is not None and not math.isfinite(number):
            raise ValueError(not_finite(name))
    return values


def value(text: str, kind: str) -> Any:
    """Return a field as integer, number or string; None if it is empty. Raises `ValueError` with the reason."""
    if not text:
        return None
    if kind == "string":
        return text
    if kind == "integer":
        match = _INTEGER.fullmatch(text)
        number = int(match[1]) if match and len(match[1]) < 1_000 else None
        if number is None or not -(2**63) <= number < 2**63:
            raise ValueError(NO_INTEGER)
        return number
    if not _NUMBER.fullmatch(text):
        raise ValueError(NO_NUMBER)
    return float(text.strip("".join(map(chr, range(33)))))


def not_finite(column: str) -> str:
    return f"{column} is not a finite number"


def missing(column: str) -> str:
    return f"{column} is missing"


def wrong_count(fields: object, columns: int) -> str:
    return f"{fields} columns, not {columns}"


def first_bad_byte(line: bytes) -> int | None:
    """Return the position in the line, from 1, of the first byte that is not UTF-8; None if there is none."""
    try:
        line.decode()
    except UnicodeDecodeError as fault:
        return fault.start + 1
    return None


def visible(name: str) -> str:
    """Return a name such that a terminal shows all its characters."""
    return name if name.isprintable() and name.strip() == name and name else repr(name)
