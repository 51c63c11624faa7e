"""Rules that differ by resource type, read from `resource_types.yaml`.

A type that is not in the table is still stored, by `TypeRule`'s defaults. Keys this class does not name
belong to the azure-native stand-in, which finds them in `raw`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

TABLE = Path(__file__).with_name("resource_types.yaml")

_FLAGS = ("asynchronous", "accepted", "implied", "answers_deleted")
_PROVIDER_KEYS = ("path", "flattened", "rename", "dotted", "flatten", "kebab", "query", "singleton", "private_link")
"""Rules that the ARM of the sandbox does not read: the stand-in provider does, and `private_endpoints.py`."""
# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/management/tag-resources.md ("Limitations")
_TAGS = {"name": 512, "most": 50}


@dataclass(frozen=True)
class TypeRule:
    type: str
    """As Azure writes it: `Microsoft.Storage/storageAccounts`."""
    token: str = ""
    api_version: str = ""
    name: Mapping[str, Any] = field(default_factory=dict)
    """`min`, `max`, `pattern`; each may be missing."""
    location: Literal["required", "optional", "none"] = "optional"
    required: tuple[str, ...] = ()
    """Dotted paths in the ARM body that a PUT must carry."""
    immutable: tuple[str, ...] = ()
    """Dotted paths that a later PUT may repeat but not change."""
    write_only: tuple[str, ...] = ()
    """Dotted paths of what a caller sends and no answer holds."""
    absent: tuple[str, ...] = ()
    """Dotted paths that the sandbox keeps for itself, and that the type's API version does not have."""
    creating: str = "Creating"
    """The state of a resource that is being created."""
    asynchronous: bool = False
    accepted: bool = False
    """The older protocol, which SDKs insist on: a creation answers 202, not 201; a deletion 200, when it is done."""
    implied: bool = False
    """Exists from the moment something below it is created, as `blobServices/default` and model containers do."""
    unique: str = ""
    """No two resources in all of Azure have the same name: the code with which a taken one is refused."""
    soft_delete: Mapping[str, Any] = field(default_factory=dict)
    """Keeps its name when it is deleted: the `status` and `code` with which another of the same id is refused."""
    lingers: str = ""
    """Deleted for longer than the answer says: the code with which its name is refused until then."""
    etag: str = ""
    """The key under which the body shows its ETag, for types that do; the header has it for all."""
    answers_deleted: bool = False
    """A deletion answers the deleted resource."""
    deletion: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Query parameters without which a DELETE is refused, each with the values that it may have."""
    serialized_by: str = ""
    """Type of the resource, this one or one above it, that accepts one write at a time, and refuses all others below it
    that name it here."""
    doing: str = "operation ({state})"
    """What the refusal of another write calls an operation of this type."""
    seconds: float = 0.0
    """How long an operation takes: long enough here that writes which do not wait for each other meet."""
    background: Mapping[str, Any] = field(default_factory=dict)
    """`seconds` for which a new resource stays busy after its creation, if its body has what `when` names."""
    left_out: str = ""
    """What the sandbox does not do: every request for the type is refused with these words."""
    tags: Mapping[str, int] = field(default_factory=lambda: dict(_TAGS))
    """The longest `name` of a tag and the `most` tags that a resource may have."""
    computed: Mapping[str, Any] = field(default_factory=dict)
    """What the service fills in unless the caller sent it; a template, see `fill`."""
    raw: Mapping[str, Any] = field(default_factory=dict)


@lru_cache
def load(table: Path = TABLE) -> Mapping[str, TypeRule]:
    """The rules by lower-case type."""
    entries = yaml.load(table.read_bytes(), yaml.CSafeLoader) or {}
    return {arm_type.lower(): _rule(arm_type, entry or {}) for arm_type, entry in entries.items()}


def fill(template: Any, values: Mapping[str, str]) -> Any:
    """`template` with every `{placeholder}` of its strings, at any depth, replaced."""
    if isinstance(template, str):
        return template.format_map(values)
    if isinstance(template, Mapping):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    return template


def _rule(arm_type: str, entry: Mapping[str, Any]) -> TypeRule:
    nested = arm_type.count("/") > 1
    location = entry.get("location", "none" if nested else "required")
    known = {each.name for each in fields(TypeRule)} - {"type", "raw"}
    if unknown := entry.keys() - {*known, *_PROVIDER_KEYS, "sources"}:
        raise ValueError(f"resource_types.yaml: {arm_type}: no rule is called {', '.join(sorted(unknown))}.")
    file = f"resource_types.yaml: {arm_type}"
    if unknown := {key for keys in entry.get("sources", {}) for key in keys.split(", ")} - entry.keys():
        raise ValueError(f"{file}: sources names {', '.join(sorted(unknown))}, which is not there.")
    if location not in ("required", "optional", "none"):
        raise ValueError(f"{file}: location is '{location}'; write required, optional or none.")
    return TypeRule(
        type=arm_type,
        token=entry.get("token", ""),
        api_version=str(entry.get("api_version", "")),
        name=entry.get("name", {}),
        location=location,
        required=tuple(entry.get("required", ())),
        immutable=tuple(entry.get("immutable", ())),
        write_only=tuple(entry.get("write_only", ())),
        absent=tuple(entry.get("absent", ())),
        creating=entry.get("creating", TypeRule.creating),
        lingers=entry.get("lingers", ""),
        etag=entry.get("etag", ""),
        deletion={name: tuple(values) for name, values in entry.get("deletion", {}).items()},
        serialized_by=entry.get("serialized_by", ""),
        doing=entry.get("doing", TypeRule.doing),
        seconds=float(entry.get("seconds", 0)),
        background=entry.get("background", {}),
        unique=entry.get("unique", ""),
        soft_delete=entry.get("soft_delete", {}),
        left_out=entry.get("left_out", ""),
        tags={**_TAGS, **entry.get("tags", {})},
        computed=entry.get("computed", {}),
        raw=entry,
        **{flag: bool(entry.get(flag)) for flag in _FLAGS},
    )
