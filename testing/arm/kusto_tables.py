"""Log Analytics tables by their documented columns, for tests that run or check queries.

`data/azure_monitor/tables.json` names for each table the page it was taken from. Azure's own columns of the same name
on every table are among them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "azure_monitor"


def documented(name: str) -> dict[str, Any]:
    """Content of the list `tables`, `metrics` or `log_categories`."""
    content: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return content


def columns() -> Mapping[str, Mapping[str, str]]:
    """Type of each column, by table."""
    return {table: entry["columns"] for table, entry in documented("tables").items()}
