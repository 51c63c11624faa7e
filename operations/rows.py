"""Users and items of a snapshot as rows the scoring contract takes, read through the dataset's own spec.

Does not join or clean: the endpoint decides about every value it is sent.
"""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.spec import MAX_STRING, MAX_STRINGS, Feature, Spec, Table

Row = dict[str, Any]


def side(spec: Spec, which: str, folder: Path) -> dict[str, Row]:
    """Rows of one side (`user` or `item`) by their key."""
    table = spec.users if which == "user" else spec.items
    if table is None or table.key is None:
        return {}
    features = {name: feature for name, feature in spec.features.items() if feature.side == which}
    rows = {raw[table.key]: _row(raw, features) for raw in read(table, folder)}
    return {key: row for key, row in rows.items() if _may_be_sent(row)}


def _may_be_sent(row: Row) -> bool:
    """Whether a request may hold it; training left out the same lines, and one of them would fail a whole ranking."""
    for given in row.values():
        strings = given if isinstance(given, list) else [given] if isinstance(given, str) else []
        if len(strings) > MAX_STRINGS or any(len(text) > MAX_STRING for text in strings):
            return False
    return True


def read(table: Table, folder: Path) -> Iterator[dict[str, str]]:
    """The raw lines of a table by column name; a typed header such as `age:token` names the column `age`."""
    path = table.among(folder.iterdir())[0]
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = table.columns or [name.partition(":")[0] for name in next(lines)]
        for line in lines:
            yield dict(zip(names, line, strict=False))


def _row(raw: dict[str, str], features: dict[str, Feature]) -> Row:
    return {name: value(raw.get(feature.column or name, ""), feature) for name, feature in features.items()}


def value(text: str, feature: Feature) -> Any:
    """None where it is missing, or not what training could have read either."""
    if feature.type == "strings" and text.strip():
        return [part for part in text.split(feature.separator) if part]
    return scalar(text, feature.type)


def scalar(text: str, kind: str) -> Any:
    """As `value`, of a feature with one value."""
    if not text.strip():
        return None
    if kind == "string":
        return text
    try:
        return int(text) if kind == "integer" else float(text)
    except ValueError:
        return None
