"""Reads users and items of a snapshot as rows of the scoring contract, with the dataset's spec.

Follows the file rules of training (`workloads/data/text_table.py`), so lines that training omits are omitted here.
Does not join tables or correct values: the endpoint checks the values.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli.errors import UserError
from workloads.data import raw_file, text_table
from workloads.data.text_table import Line
from workloads.errors import WorkloadError
from workloads.spec import MAX_STRING, MAX_STRINGS, Feature, Spec, Table

Row = dict[str, Any]


def side(spec: Spec, which: str, folder: Path) -> dict[str, Row]:
    """Return the rows of one side (`user` or `item`) by key. Raises `UserError` for a table that training refuses."""
    table = _table(spec, which)
    if table is None:
        return {}
    features = {name: feature for name, feature in spec.features.items() if feature.side == which}
    rows: dict[str, Row] = {}
    for line in _lines(spec, which, folder):
        key = line.fields[table.key or ""]
        if key in rows:
            raise UserError(f"{which}s in {folder}: line {line.number} repeats {table.key} {key!r}; it must be unique")
        rows[key] = {name: value(line.fields[feature.column or name], feature) for name, feature in features.items()}
    return {key: row for key, row in rows.items() if _fits_a_request(row)}


def _fits_a_request(row: Row) -> bool:
    """Return whether the row is within a request's limits. Training omits longer rows; one fails a whole ranking."""
    for field in row.values():
        strings = field if isinstance(field, list) else [field] if isinstance(field, str) else []
        if len(strings) > MAX_STRINGS or any(len(text) > MAX_STRING for text in strings):
            return False
    return True


def titles(spec: Spec, folder: Path) -> dict[str, str]:
    """Return the titles of the items by key; a title is empty if the table has no column of titles."""
    table = _table(spec, "item")
    if table is None:
        return {}
    return {
        line.fields[table.key or ""]: next((text for name, text in line.fields.items() if "title" in name), "")
        for line in _lines(spec, "item", folder)
    }


def _table(spec: Spec, which: str) -> Table | None:
    table = spec.users if which == "user" else spec.items
    return table if table and table.key else None


def _lines(spec: Spec, which: str, folder: Path) -> Iterator[Line]:
    """Yield the lines that training accepts."""
    table = _table(spec, which)
    assert table is not None
    key = (table.key or "", "string")
    wanted = [feature.wanted(name) for name, feature in spec.features_of(which).items()]
    try:
        file = raw_file.locate(folder, table, f"{which}s")
        yield from (line for line in text_table.read(file, table, [*wanted, key], [key]) if not line.malformed)
    except WorkloadError as fault:
        raise UserError(str(fault)) from None


def value(text: str, feature: Feature) -> Any:
    """Return a field in the type of its feature; None for a missing value and for one that training cannot read."""
    if feature.type == "strings" and text:
        return [part for part in text.split(feature.separator) if part]
    return scalar(text, "string" if feature.categorical else feature.type)


def scalar(text: str, kind: str) -> Any:
    """Return a field of a feature with one value in the type `kind`; None as for `value`."""
    try:
        parsed = text_table.value(text, kind)
    except ValueError:
        return None
    return None if isinstance(parsed, float) and not math.isfinite(parsed) else parsed
