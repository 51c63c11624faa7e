"""Write `testing/data/resource_types.yaml`: Microsoft's rules for the types in `sandbox/arm/resource_types.yaml`.

    python -m tools.resource_types CHECKOUT COMMIT DATE

CHECKOUT is Azure/bicep-types-az at that commit, of that date; Microsoft generates it from its REST specifications.
A path of the body is required if each object around it is; `properties` counts as required. Of the computed values only
those in the table's `computed` are looked up. Rules that the types do not contain, such as error codes, are not.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).parents[1]
TABLE = _ROOT / "sandbox" / "arm" / "resource_types.yaml"
TARGET = _ROOT / "testing" / "data" / "resource_types.yaml"
_HEADER = """\
# By resource type, what the types of github.com/Azure/bicep-types-az say at the commit named: limits of the name,
# whether a body has a location, its required paths, and the read-only ones among those that `computed` of
# sandbox/arm/resource_types.yaml names. Written by tools/resource_types.py.
"""
_REQUIRED, _READ_ONLY = 1, 2
_DEPTH = 4


class Types:
    """One `types.json`."""

    def __init__(self, file: Path) -> None:
        self._all: list[dict[str, Any]] = json.loads(file.read_text())

    def body(self, resource: str) -> Mapping[str, Any] | None:
        for kind in self._all:
            if kind["$type"] == "ResourceType" and kind["name"].lower() == resource.lower():
                return self.at(kind["body"])
        return None

    def at(self, reference: Mapping[str, str]) -> Mapping[str, Any]:
        return self._all[int(reference["$ref"].rpartition("/")[2])]

    def required(self, kind: Mapping[str, Any], before: str = "", depth: int = _DEPTH) -> Iterator[str]:
        """Dotted paths of required values; for an object with required members, only those of the members."""
        if discriminator := kind.get("discriminator"):
            yield before + discriminator
        for name, member in _members(kind).items():
            if (member["flags"] & _REQUIRED or before + name == "properties") and depth:
                inner = list(self.required(self.at(member["type"]), f"{before}{name}.", depth - 1))
                yield from inner or [before + name]

    def is_read_only(self, kind: Mapping[str, Any], path: str) -> bool:
        name, _, rest = path.partition(".")
        member = _members(kind).get(name)
        if member is None:
            return False
        return bool(member["flags"] & _READ_ONLY) or bool(rest and self.is_read_only(self.at(member["type"]), rest))


def paths(value: Any, before: str = "") -> Iterator[str]:
    """Dotted paths of the leaves."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from paths(inner, f"{before}.{key}" if before else str(key))
    elif before:
        yield before


def _members(kind: Mapping[str, Any]) -> Mapping[str, Any]:
    return kind.get("properties") or kind.get("baseProperties") or {}


def _limits(kind: Mapping[str, Any]) -> dict[str, Any]:
    if kind["$type"] == "StringLiteralType":
        return {"value": kind["value"]}
    names = {"minLength": "min", "maxLength": "max", "pattern": "pattern"}
    return {ours: kind[theirs] for theirs, ours in names.items() if theirs in kind}


def _row(checkout: Path, resource: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    namespace, version = resource.partition("/")[0].lower(), entry["api_version"]
    for file in sorted(checkout.glob(f"generated/*/{namespace}/{version}/types.json")):
        types = Types(file)
        if body := types.body(f"{resource}@{version}"):
            members = _members(body)
            location = members.get("location", {"flags": _READ_ONLY})["flags"]
            row = {
                "path": str(file.relative_to(checkout)),
                "name": _limits(types.at(members["name"]["type"])),
                "location": "none" if location & _READ_ONLY else "required" if location & _REQUIRED else "optional",
                "required": [path for path in types.required(body) if path not in ("name", "location", "properties")],
                "read_only": [path for path in paths(entry.get("computed", {})) if types.is_read_only(body, path)],
            }
            return {key: value for key, value in row.items() if value}
    raise SystemExit(f"{checkout} has no {resource} of {version}.")


def main() -> None:
    checkout, commit, date = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    table = yaml.safe_load(TABLE.read_text())
    document = {"repository": "Azure/bicep-types-az", "commit": commit, "date": date}
    rows = {key: _row(checkout, key, entry) for key, entry in table.items() if "api_version" in entry}
    written = yaml.safe_dump(document | {"types": rows}, sort_keys=False, width=118, default_flow_style=None)
    TARGET.write_text(_HEADER + written)


if __name__ == "__main__":
    main()
