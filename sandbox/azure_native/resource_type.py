"""A resource type as the provider needs it: its rule, its shape, and its address made of inputs."""

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from urllib.parse import quote

from sandbox.arm.resource_types import TypeRule, load
from sandbox.azure_native.shape import UNKNOWN, Path, Properties, Shape

# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/resources/resource_group.py
_PREFIX = "azure-native:"
_GROUP = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}"
_WHOLE_IDS = ("scope", "resourceUri")
"""Inputs that are resource ids, whose slashes stay in the address."""


class ResourceType:
    def __init__(self, rule: TypeRule) -> None:
        self.rule = rule
        self.api_version = rule.api_version
        self.name_input: str = rule.name["input"]
        self.shape = Shape(rule)
        self.singleton = bool(rule.raw.get("singleton"))
        self.query_inputs = frozenset(rule.raw.get("query", ()))
        namespace, _, kinds = rule.type.partition("/")
        path: str = rule.raw.get("path", f"{kinds}/{{{self.name_input}}}")
        self._path = path if path.startswith("/") else f"{_GROUP}/providers/{namespace}/{path}"
        self.path_inputs = [name for name in re.findall(r"{(\w+)}", self._path) if name != "subscriptionId"]
        # The provider's rule: a name gets a random suffix, but a child resource gets its logical name.
        inside = self._path.rpartition("/providers/")[2].count("{") > 1 and "/providers/" in self._path
        self.naming: str = rule.name.get("auto", "copy" if inside else "random")

    @cached_property
    def replacing(self) -> set[Path]:
        """Inputs whose change replaces the resource."""
        own = {(name,) for name in self.path_inputs}
        return own | {("location",)} | {self.shape.sdk_path(path) for path in self.rule.immutable}

    def address(self, inputs: Properties, subscription: str) -> str:
        values = {"subscriptionId": subscription, **{name: str(inputs.get(name, "")) for name in self.path_inputs}}
        quoted = {name: quote(value, safe="/()" if name in _WHOLE_IDS else "()") for name, value in values.items()}
        return self._path.format_map({name: value.strip("/") for name, value in quoted.items()})

    def inputs_in(self, address: str) -> dict[str, str]:
        pattern = re.sub(r"{(\w+)}", lambda m: f"(?P<{m[1]}>{'.+' if m[1] in _WHOLE_IDS else '[^/]+'})", self._path)
        match = re.fullmatch(pattern, address, re.IGNORECASE)
        return {name: match[name] for name in self.path_inputs} if match else {}

    def own(self, inputs: Properties) -> Properties:
        """Inputs for the request's body: without those in the address or query."""
        elsewhere = {*self.path_inputs, *self.query_inputs, "azureApiVersion"}
        return {key: value for key, value in inputs.items() if key not in elsewhere and not key.startswith("__")}

    def body(self, inputs: Properties) -> Properties:
        body: Properties = self.shape.to_wire(self.own(inputs))
        return body

    def missing(self, inputs: Properties) -> list[str]:
        """SDK paths of required properties that are absent and not unknown."""
        paths: list[Path] = [(name,) for name in self.path_inputs]
        paths += [("location",)] if self.rule.location == "required" else []
        paths += [self.shape.sdk_path(path) for path in self.rule.required]
        return list(dict.fromkeys(".".join(gone) for path in paths if (gone := _missing(inputs, path))))


@lru_cache
def by_token() -> Mapping[str, ResourceType]:
    return {_PREFIX + rule.token: ResourceType(rule) for rule in load().values() if rule.token}


def _missing(value: object, path: Path) -> Path:
    for depth, key in enumerate(path, 1):
        if value == UNKNOWN or not isinstance(value, dict):
            return ()
        if key not in value:
            return path[:depth]
        value = value[key]
    return ()
