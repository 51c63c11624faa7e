"""Users and items of a snapshot as rows the scoring contract takes, read through the dataset's own spec.

The rules for the files are those of training (`workloads/data/text_table.py`): a line that training leaves out is
left out here.
Does not join or clean: the endpoint decides about every value it is sent.
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
    """Rows of one side (`user` or `item`) by their key. Raises `UserError` for a table that training would refuse."""
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
    return {key: row for key, row in rows.items() if _may_be_sent(row)}


def _may_be_sent(row: Row) -> bool:
    """Whether a request may hold it; training left out the same lines, and one of them would fail a whole ranking."""
    for given in row.values():
        strings = given if isinstance(given, list) else [given] if isinstance(given, str) else []
        if len(strings) > MAX_STRINGS or any(len(text) > MAX_STRING for text in strings):
            return False
    return True


def titles(spec: Spec, folder: Path) -> dict[str, str]:
    """Return the title of each item by its key; empty where the table has no column of titles."""
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
    """Those that training understands."""
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
    """Return a field as the type of its feature; None where it is missing or training could not read it either."""
    if feature.type == "strings" and text:
        return [part for part in text.split(feature.separator) if part]
    return scalar(text, "string" if feature.categorical else feature.type)


def scalar(text: str, kind: str) -> Any:
    """As `value`, of a feature with one value."""
    try:
        found = text_table.value(text, kind)
    except ValueError:
        return None
    return None if isinstance(found, float) and not math.isfinite(found) else found
