"""Writes the key paths that a resource type accepts, from the types that Microsoft generates from its specifications.

    python derive.py generated/databricks/microsoft.databricks/2026-01-01/types.json Microsoft.Databricks/workspaces \
        --commit 1f896de2db966ad91e8f7d7d981e11d32e4f5d8d

The file of types comes from github.com/Azure/bicep-types-az, under the path given here, at that commit. A path ends in
`[]` for the items of a list, `.*` for the values of a map, `.**` for any keys below it, and `(key=value)` for one kind
of an object. The allowed values follow the path. Read-only keys are left out, and so are keys below an object that is
inside an object of the same type.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REQUIRED, _READ_ONLY, _PART_OF_ADDRESS = 1, 2, 8
REPOSITORY = "https://github.com/Azure/bicep-types-az"


class Keys:
    def __init__(self, types: list[Any], resource: Mapping[str, Any]) -> None:
        self._types = types
        self.keys: dict[str, list[str] | None] = {}
        self.required: dict[str, list[str]] = {}
        """Names by the path of the object that must have them."""
        self._enter(resource["body"], "", frozenset())

    def _enter(self, reference: Mapping[str, str], path: str, above: frozenset[int]) -> None:
        number = int(reference["$ref"].rpartition("/")[2])
        kind = self._types[number]
        if kind["$type"] == "ArrayType":
            self._enter(kind["itemType"], path + "[]", above)
        elif kind["$type"] in ("UnionType", "StringLiteralType"):
            self.keys[path] = [one["value"] for one in self._choices(kind) if "value" in one] or None
        elif kind["$type"] == "AnyType" or number in above:
            self.keys[f"{path}.**"] = None
        elif kind["$type"] in ("ObjectType", "DiscriminatedObjectType"):
            self._object(kind, path, above | {number})

    def _choices(self, kind: Mapping[str, Any]) -> list[Any]:
        return [self._at(one) for one in kind["elements"]] if "elements" in kind else [kind]

    def _object(self, kind: Mapping[str, Any], path: str, above: frozenset[int]) -> None:
        common = kind.get("properties") or kind.get("baseProperties") or {}
        self._members(common, path, above)
        if values := kind.get("additionalProperties"):
            self.keys[f"{path}.*"] = None
            self._enter(values, f"{path}.*", above)
        if kind["$type"] == "DiscriminatedObjectType":
            for value, reference in kind["elements"].items():
                specific = f"{path}({kind['discriminator']}={value})"
                self.keys[specific] = None
                self._members({**common, **self._at(reference)["properties"]}, specific, above)

    def _members(self, members: Mapping[str, Any], path: str, above: frozenset[int]) -> None:
        for name, member in members.items():
            if member["flags"] & (_READ_ONLY | _PART_OF_ADDRESS):
                continue
            inner = f"{path}.{name}" if path else name
            self.keys[inner] = None
            if member["flags"] & _REQUIRED:
                self.required.setdefault(path, []).append(name)
            self._enter(member["type"], inner, above)

    def _at(self, reference: Mapping[str, str]) -> Any:
        return self._types[int(reference["$ref"].rpartition("/")[2])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", type=Path)
    parser.add_argument("resource", nargs="+")
    parser.add_argument("--commit", required=True)
    arguments = parser.parse_args()
    types = json.loads(arguments.types.read_text())
    known = {kind["name"].lower(): kind for kind in types if kind["$type"] == "ResourceType"}
    for resource in arguments.resource:
        version = arguments.types.parent.name
        found = Keys(types, known[f"{resource}@{version}".lower()])
        document = {
            "type": resource,
            "api_version": version,
            "source": f"{REPOSITORY}/blob/{arguments.commit}/{arguments.types}",
            "required": dict(sorted(found.required.items())),
            "keys": dict(sorted(found.keys.items())),
        }
        lines = [f" {json.dumps(key)}: {_shown(value)}" for key, value in document.items()]
        target = Path(__file__).parent / f"{resource.replace('/', '.')}.json"
        target.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _shown(value: Any) -> str:
    """A key path with its values on one line."""
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(inner)}" for key, inner in value.items()) + "\n }"


if __name__ == "__main__":
    main()
