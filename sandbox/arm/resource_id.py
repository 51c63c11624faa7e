"""ARM ids: the resource or collection of a path, spelled as Azure spells it.

An id is `/subscriptions/{s}[/resourceGroups/{g}]`, then once or more `/providers/{namespace}` with pairs of type and
name. The last such part is the resource's type and name (before it, an extension resource has its scope's parts).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.arm.resource_types import TypeRule

# Source: Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md; Azure/azure-resource-manager-rpc
# v1.0/Addendum.md ("Nested Resources")
GROUP = "Microsoft.Resources/resourceGroups"
_GROUP = re.compile(r"(/subscriptions/[^/]+)/resourceGroups/([^/]+)", re.IGNORECASE)
_RESOURCE = re.compile(r"(.*)/providers/([^/]+)((?:/[^/]+/[^/]+)+)", re.IGNORECASE)
_COLLECTION = re.compile(r"(.*)/providers/([^/]+)((?:/[^/]+/[^/]+)*)/([^/]+)", re.IGNORECASE)


@dataclass(frozen=True)
class ResourceId:
    id: str
    type: str
    name: str
    parent: str
    """Id of the containing resource, resource group or subscription; empty for the tenant."""

    @property
    def group(self) -> str:
        match = _GROUP.match(self.id)
        return match[2] if match else ""


def parse(path: str, rules: Mapping[str, TypeRule]) -> ResourceId | None:
    """The resource of `path`; None for a subscription, a collection or an unknown path."""
    if group := _GROUP.fullmatch(path):
        return ResourceId(f"{group[1]}/resourceGroups/{group[2]}", GROUP, group[2], group[1])
    match = _RESOURCE.fullmatch(path)
    if match is None:
        return None
    pairs = match[3].strip("/").split("/")
    resource_type = rule_of("/".join([match[2], *pairs[::2]]), rules).type
    namespace, *types = resource_type.split("/")
    segments = [f"/{kind}/{name}" for kind, name in zip(types, pairs[1::2], strict=True)]
    above = parse(match[1], rules)
    scope = above.id if above else match[1]
    base = f"{scope}/providers/{namespace}"
    parent = base + "".join(segments[:-1]) if len(segments) > 1 else scope
    return ResourceId(base + "".join(segments), resource_type, pairs[-1], parent)


def parse_collection(path: str) -> tuple[str, str] | None:
    """Scope and lower-case type of a list's path; an empty type means all top-level types."""
    scope, _, kind = path.lower().rpartition("/")
    if match := _COLLECTION.fullmatch(path):
        types = match[3].strip("/").split("/")[::2] if match[3] else []
        return (scope if types else match[1]), "/".join([match[2], *types, match[4]]).lower()
    if kind in ("resourcegroups", "resources"):
        return scope, GROUP.lower() if kind == "resourcegroups" else ""
    return None


def rule_of(resource_type: str, rules: Mapping[str, TypeRule]) -> TypeRule:
    return rules.get(resource_type.lower()) or TypeRule(type=resource_type)
