"""Rules of YAML files: every key of an entry is one, unless it is listed here, and the key `sources` names its origin.

`resource_types.yaml` and `roles.yaml` of the sandbox have one entry per type or role, each with `sources`; every other
file is one entry. A source may be given for a whole key, or for each of its items: a mapping with the same keys, the
same list items or, for deeper ones, dotted paths. One source for several keys names them together: `name, required: …`.
`sources` of a whole file may also be one text, and an item may have its own under `source`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.sources import unique_keys
from tools.sources.form import Malformed, Statement, read_all
from tools.sources.rules import Fault, Rule

ENTRIES = ("sandbox/arm/resource_types.yaml", "sandbox/identity/roles.yaml")
WHOLE = (
    "sandbox/arm/offerings.yaml",
    "sandbox/resource_rules/transformations.yaml",
    "infra/planning/capacity.yaml",
    "infra/planning/compatibility.yaml",
    "infra/planning/prices.yaml",
    "infra/planning/regions.yaml",
    "infra/planning/vm_prices.yaml",
    "infra/planning/vm_sizes.yaml",
)
OWN = {
    # Compared with the genuine SDK by tests/sandbox/azure_native/test_bodies.py; `seconds` is the sandbox's time.
    "sandbox/arm/resource_types.yaml": ("token", "api_version", "path", "flattened", "left_out", "seconds"),
    "sandbox/identity/roles.yaml": (),
    "sandbox/arm/offerings.yaml": ("unregistered", "absent"),
    "sandbox/resource_rules/transformations.yaml": (),
    # Measured here: docs/benchmarks.md.
    "infra/planning/capacity.yaml": ("service_ms", "memory_min", "beside_heap"),
    "infra/planning/compatibility.yaml": ("current", "scoring", "tracking"),
    "infra/planning/prices.yaml": (
        "currency",
        "date",
        "to_be_verified",
        "left_out",
        "hours_per_month",
        "runs_per_month",
    ),
    "infra/planning/regions.yaml": (),
    "infra/planning/vm_prices.yaml": ("date",),
    "infra/planning/vm_sizes.yaml": (),
}
"""Keys by file that state no rule of Azure's, or that a test compares with Azure's own SDK."""


def find(root: Path) -> Iterator[Rule | Fault]:
    for name in ENTRIES:
        for key, entry in (unique_keys.load(root / name) or {}).items():
            yield from of_entry(name, entry or {}, OWN[name], f"{key}: ")
    for name in WHOLE:
        yield from of_entry(name, unique_keys.load(root / name), OWN[name], "")


def of_entry(file: str, entry: Mapping[str, Any], own: tuple[str, ...], before: str) -> Iterator[Rule | Fault]:
    sources = entry.get("sources", {})
    rules = {key: value for key, value in entry.items() if key != "sources" and key not in own}
    if isinstance(sources, Mapping):
        for key, times in Counter(key for keys in sources for key in _single(keys)).items():
            if times > 1:
                yield Fault(file, f"{before}sources.{key}", f"is there {times} times: write one list of its sources.")
    sources = spread(sources) if isinstance(sources, Mapping) else dict.fromkeys(rules, sources)
    for key in sources.keys() - rules.keys():
        yield Fault(file, f"{before}sources.{key}", "names no rule of this entry.")
    for key, value in rules.items():
        if key == "name" and set(value) <= {"input", "auto"}:
            continue  # the SDK's: which input holds the name
        remedy = f"write '{key}: <owner>/<repository> <path>' (or 'No source: <what settles it>') below 'sources:'"
        if inner := dict(_inner(value)):
            stated = sources.get(key, {})
            yield from _of_items(file, f"{before}{key}", value, {**inner, **stated}, remedy)
        elif key not in sources:
            yield Rule(file, f"{before}{key}", None, remedy)
        elif isinstance(sources[key], Mapping):
            yield from _of_items(file, f"{before}{key}", value, sources[key], remedy)
        else:
            yield _rule(file, f"{before}{key}", sources[key])


def spread(sources: Mapping[str, Any]) -> dict[str, Any]:
    """The sources by single key."""
    return {key: source for keys, source in sources.items() for key in _single(keys)}


def _single(keys: object) -> list[str]:
    return str(keys).split(", ")


def _of_items(file: str, place: str, value: Any, sources: Mapping[str, Any], remedy: str) -> Iterator[Rule | Fault]:
    items = [str(item) for item in value] if isinstance(value, list) else list(_paths(value))
    used = set()
    for item in items:
        covering = [key for key in sources if item == str(key) or item.startswith(f"{key}.")]
        used.update(covering)
        if covering:
            yield _rule(file, f"{place}.{item}", sources[max(covering, key=len)])
        else:
            yield Rule(file, f"{place}.{item}", None, f"{remedy}, or one for each item")
    for key in sources.keys() - used:
        yield Fault(file, f"{place}.{key}", "has a source and is not there.")


def _inner(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Sources that items state themselves, by dotted path."""
    if isinstance(value, Mapping):
        if "source" in value:
            yield before, value["source"]
        for key, inner in value.items():
            yield from _inner(inner, f"{before}.{key}" if before else str(key))


def _paths(value: Any, before: str = "") -> Iterator[str]:
    """Dotted paths of the leaves."""
    if isinstance(value, Mapping) and value and "source" not in value:
        for key, inner in value.items():
            yield from _paths(inner, f"{before}.{key}" if before else str(key))
    else:
        yield before


def _rule(file: str, place: str, value: object) -> Rule | Fault:
    try:
        statement: Statement = read_all(value)
    except Malformed as error:
        return Fault(file, place, str(error))
    return Rule(file, place, statement)
