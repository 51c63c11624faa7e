"""Azure regions and their availability zones (`regions.yaml`)."""

import difflib
from functools import lru_cache
from itertools import chain
from pathlib import Path

import yaml

_TABLE = Path(__file__).with_name("regions.yaml")


@lru_cache
def zones_by_region() -> dict[str, tuple[str, ...]]:
    """Zone numbers by region name; an empty tuple for a region without zones."""
    table = yaml.safe_load(_TABLE.read_text())
    return {
        region: zones
        for kind, zones in (("zones", ("1", "2", "3")), ("no_zones", ()))
        for region in chain.from_iterable(table[kind])
    }


def require(region: str) -> None:
    """Raise `ValueError` for a region that is not in the table; the message names similar ones."""
    known = zones_by_region()
    if region not in known:
        near = difflib.get_close_matches(region.lower().replace(" ", ""), known, n=3) or ["westeurope", "eastus2"]
        raise ValueError(
            f"'{region}' is not a region of infra/planning/regions.yaml. Did you mean {', '.join(near)}? "
            "A region that is newer than the table is added there in one word."
        )
