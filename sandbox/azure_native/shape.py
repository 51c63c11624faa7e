"""Conversion of properties between the SDK's form and ARM's bodies.

The SDK flattens `properties`, renames some keys and has lists for sets of strings; `resource_types.yaml` lists these
places. All other keys are unchanged, so a wrong key reaches ARM. Paths are tuples of keys; an element of a list has the
path of the list.
"""

import re
from collections.abc import Mapping
from typing import Any

from sandbox.arm.resource_types import TypeRule

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""Pulumi's mark for a value that is unknown before the deployment."""

Properties = dict[str, Any]
Path = tuple[str, ...]

# Source: Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md (keys of a resource outside of
# `properties`)
_OUTSIDE = {"location", "tags", "sku", "kind", "identity", "plan", "extendedLocation", "managedBy", "zones"}
_READ_ONLY = {"id", "name", "type", "systemData", "etag", "eTag", "provisioningState", "azureApiVersion"}
_IDENTITIES = "userAssignedIdentities"


class Shape:
    def __init__(self, rule: TypeRule) -> None:
        raw = rule.raw
        self._renamed = {_path(sdk): _path(wire) for sdk, wire in raw.get("rename", {}).items()}
        self._renamed |= {_path(sdk): (wire,) for sdk, wire in raw.get("dotted", {}).items()}
        self._original = {(sdk[:-1], wire): sdk[-1] for sdk, wire in self._renamed.items()}
        self._kebab = {_path(sdk) for sdk in raw.get("kebab", ())}
        self._outside = {_path(sdk): set(keys) for sdk, keys in raw.get("flatten", {}).items()}
        if raw.get("flattened", True):
            self._outside[()] = _OUTSIDE
        self._computed: Properties = self.from_wire(rule.computed)
        state = {"provisioningState": UNKNOWN}
        self._read_only = merge(dict.fromkeys(_READ_ONLY, UNKNOWN) | {"properties": state}, self._computed)

    def to_wire(self, value: Any, path: Path = ()) -> Any:
        if isinstance(value, list):
            return [self.to_wire(item, path) for item in value]
        if not isinstance(value, dict):
            return value
        wire: Properties = {}
        for key, inner in value.items():
            if key == _IDENTITIES and isinstance(inner, list) and all(isinstance(item, str) for item in inner):
                inner = {identity: {} for identity in inner}
            *containers, last = self._wire_key(path, key)
            place = wire
            for container in containers:
                place = place.setdefault(container, {})
            place[last] = self.to_wire(inner, (*path, key))
        return wire

    def from_wire(self, value: Any, path: Path = ()) -> Any:
        if isinstance(value, list):
            return [self.from_wire(item, path) for item in value]
        if not isinstance(value, Mapping):
            return value
        converted = {self._sdk_key(path, (key,)): inner for key, inner in value.items()}
        if path in self._outside:
            hidden = value.get("properties") or {}
            converted.pop("properties", None)
            converted |= {self._sdk_key(path, ("properties", key)): inner for key, inner in hidden.items()}
        return {key: self.from_wire(inner, (*path, key)) for key, inner in converted.items() if inner is not None}

    def sdk_path(self, wire: str) -> Path:
        """The SDK's path of the property with ARM's dotted path `wire`."""
        rest, path = _path(wire), _path("")[:0]
        while rest:
            size = 2 if path in self._outside and rest[0] == "properties" else 1
            path, rest = (*path, self._sdk_key(path, rest[:size])), rest[size:]
        return path

    def outputs(self, body: Mapping[str, Any]) -> Properties:
        return {key: value for key, value in self.from_wire(body).items() if key != "id"}

    def preview(self, inputs: Properties) -> Properties:
        """The outputs before the deployment: the inputs, and `UNKNOWN` for values that the service computes."""
        unknown = {key: _blank(value) for key, value in self._computed.items()}
        identity = inputs.get("identity")
        known = inputs
        if isinstance(identity, dict):
            unknown["identity"] = {"principalId": UNKNOWN, "tenantId": UNKNOWN}
            known = {**inputs, "identity": {**identity, **({_IDENTITIES: UNKNOWN} if _IDENTITIES in identity else {})}}
        return merge(unknown, known)

    def as_inputs(self, outputs: Properties, inputs: Properties) -> Properties:
        """The part of `outputs` that can be inputs: the program's own inputs, and all that no service computes."""
        found = _writable(outputs, self._read_only, inputs)
        identity = found.get("identity")
        if isinstance(identity, dict):
            identity = {key: value for key, value in identity.items() if key not in ("principalId", "tenantId")}
            if isinstance(identity.get(_IDENTITIES), dict):
                identity[_IDENTITIES] = list(identity[_IDENTITIES])
            found["identity"] = identity
        return found

    def _wire_key(self, path: Path, key: str) -> Path:
        if (*path, key) in self._renamed:
            return self._renamed[(*path, key)]
        if path in self._kebab:
            return (re.sub("[A-Z]", lambda match: "-" + match[0].lower(), key),)
        outside = self._outside.get(path)
        return (key,) if outside is None or key in outside else ("properties", key)

    def _sdk_key(self, path: Path, wire: Path) -> str:
        if path in self._kebab:
            return re.sub("-(.)", lambda match: match[1].upper(), wire[-1])
        return self._original.get((path, wire), wire[-1])


def merge(under: Properties, over: Properties) -> Properties:
    """`under` with the values of `over`; objects are merged key by key."""
    both = {
        key: merge(under[key], over[key])
        for key in under.keys() & over.keys()
        if isinstance(under[key], dict) and isinstance(over[key], dict)
    }
    return {**under, **over, **both}


def _path(dotted: str) -> Path:
    return tuple(dotted.split("."))


def _blank(value: Any) -> Any:
    return {key: _blank(inner) for key, inner in value.items()} if isinstance(value, dict) and value else UNKNOWN


def _writable(outputs: Properties, read_only: Any, inputs: Any) -> Properties:
    kept = {}
    for key, value in outputs.items():
        mine = inputs.get(key) if isinstance(inputs, dict) else None
        computed = read_only.get(key) if isinstance(read_only, dict) else None
        if isinstance(value, dict) and (mine or isinstance(computed, dict)):
            value = _writable(value, computed, mine)
            if value or mine is not None:
                kept[key] = value
        elif mine is not None or computed is None:
            kept[key] = value
    return kept
