"""Rules that differ by resource type, read from `resource_types.yaml`.

A type that is not in the table is stored by `TypeRule`'s defaults. Keys without a field of `TypeRule` are for the
azure-native stand-in, which reads them from `raw`.
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
"""Keys that only the stand-in provider and `private_endpoints.py` read."""
# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/management/tag-resources.md ("Limitations")
_TAGS = {"name": 512, "most": 50}


@dataclass(frozen=True)
class TypeRule:
    type: str
    """Type in Azure's spelling, such as `Microsoft.Storage/storageAccounts`."""
    token: str = ""
    api_version: str = ""
    name: Mapping[str, Any] = field(default_factory=dict)
    """`min`, `max` and `pattern`, all optional."""
    location: Literal["required", "optional", "none"] = "optional"
    required: tuple[str, ...] = ()
    """Dotted paths in the ARM body that a PUT must carry."""
    immutable: tuple[str, ...] = ()
    """Dotted paths that a later PUT may repeat but not change."""
    write_only: tuple[str, ...] = ()
    """Dotted paths of properties that callers send and answers omit."""
    absent: tuple[str, ...] = ()
    """Dotted paths that only the sandbox uses, and that answers omit: the type's API version lacks them."""
    creating: str = "Creating"
    """The state of a resource that is being created."""
    asynchronous: bool = False
    accepted: bool = False
    """The older protocol, which some SDKs require: 202 for a creation, not 201; 200 for a finished deletion."""
    implied: bool = False
    """Created with its first child, like `blobServices/default` and model containers."""
    unique: str = ""
    """Error code for a taken name, if names are unique in all of Azure."""
    soft_delete: Mapping[str, Any] = field(default_factory=dict)
    """`status` and `code` of the refusal to create the id of a soft-deleted resource, if the type has soft delete."""
    lingers: str = ""
    """Error code for the name while the deletion continues after its answer."""
    etag: str = ""
    """Key of the ETag in the body, for types that have it there; the header has it for all types."""
    answers_deleted: bool = False
    """The answer to a deletion contains the deleted resource."""
    deletion: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Query parameters that a DELETE requires, each with its allowed values."""
    serialized_by: str = ""
    """Type of this resource or of a parent that accepts one write at a time, of itself and of all types that name it
    here."""
    doing: str = "operation ({state})"
    """Name of an operation of this type in the refusal of another write."""
    seconds: float = 0.0
    """Duration of an operation, long enough that writes without the necessary order overlap."""
    background: Mapping[str, Any] = field(default_factory=dict)
    """`seconds` for which a new resource stays busy after its creation, if its body has the path `when`."""
    left_out: str = ""
    """Description of the type, which the sandbox refuses, in the error message."""
    tags: Mapping[str, int] = field(default_factory=lambda: dict(_TAGS))
    """The greatest length of a tag's `name`, and the `most` tags of a resource."""
    computed: Mapping[str, Any] = field(default_factory=dict)
    """Values that the service computes unless the caller sent them; a template for `fill`."""
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
    entry_name = f"resource_types.yaml: {arm_type}"
    if unknown := entry.keys() - {*known, *_PROVIDER_KEYS, "sources"}:
        raise ValueError(f"{entry_name}: unknown rules {', '.join(sorted(unknown))}.")
    if unknown := {key for keys in entry.get("sources", {}) for key in keys.split(", ")} - entry.keys():
        raise ValueError(f"{entry_name}: sources names {', '.join(sorted(unknown))}, which the entry does not have.")
    if location not in ("required", "optional", "none"):
        raise ValueError(f"{entry_name}: location is '{location}'; write required, optional or none.")
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
