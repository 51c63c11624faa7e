"""Checks of a program's inputs before a request: adds names, locations and versions, and applies the rules of types.

Texts and order of messages are those of the genuine provider, so that users can search for them.
"""

import hashlib
import re
import secrets
import uuid
from collections.abc import Callable
from typing import Any

from pulumi.runtime.proto import provider_pb2 as proto

from sandbox.azure_native.resource_type import ResourceType
from sandbox.azure_native.shape import UNKNOWN, Properties

# Source: pulumi/pulumi-azure-native provider/pkg/provider/provider.go (`createBeforeDeleteFlag`)
RANDOMLY_NAMED = "__createBeforeDelete"
"""Input that marks a random name: such a resource can exist together with its replacement."""

_Options = proto.CheckRequest.AutonamingOptions
# Source: pulumi/pulumi-azure-native provider/pkg/provider/provider.go
_LOCATION = ". Either set it explicitly or configure it with 'pulumi config set azure-native:location <value>'."


def with_defaults(
    kind: ResourceType, request: Any, olds: Properties, news: Properties, locate: Callable[[str], str | None]
) -> Properties:
    """`news` with defaults. `locate` returns the default location for a resource group's name or an empty string."""
    filled = dict(news)
    if kind.name_input not in filled:
        filled |= _named(kind, request, olds)
    if kind.rule.location != "none" and "location" not in filled:
        group = "" if kind.name_input == "resourceGroupName" else filled.get("resourceGroupName", "")
        location = olds.get("location") or (locate("") or UNKNOWN if group == UNKNOWN else locate(group))
        filled |= {"location": location} if location else {}
    return {**filled, "azureApiVersion": filled.get("azureApiVersion", kind.api_version)}


def failures(kind: ResourceType, inputs: Properties) -> list[str]:
    messages = [
        f"missing required property '{path}'{_LOCATION if path == 'location' else ''}" for path in kind.missing(inputs)
    ]
    name, rule = inputs.get(kind.name_input, UNKNOWN), kind.rule.name
    if not isinstance(name, str) or name == UNKNOWN:
        return messages
    label, length = f"'{kind.name_input}'", len(name)
    if length < rule.get("min", 0):
        messages.append(f"{label} is too short ({length}): at least {rule['min']} characters required")
    if length > rule.get("max", length):
        messages.append(f"{label} is too long ({length}): at most {rule['max']} characters allowed")
    if "pattern" in rule and not re.search(rule["pattern"], name):
        messages.append(f"{label} does not match expression '{rule['pattern']}'")
    return messages


def _named(kind: ResourceType, request: Any, olds: Properties) -> Properties:
    key = kind.name_input
    if key in olds:
        return {name: olds[name] for name in (key, RANDOMLY_NAMED) if name in olds}
    random = {RANDOMLY_NAMED: True}
    if request.HasField("autonaming"):
        mode = request.autonaming.mode
        if mode == _Options.DISABLE:
            return {}
        if mode == _Options.ENFORCE or kind.naming != "uuid":
            return {key: request.autonaming.proposed_name, **random}
    seed = hashlib.sha256(request.randomSeed or secrets.token_bytes(32)).hexdigest()
    logical = request.urn.rsplit("::", 1)[-1]
    if kind.naming == "copy":
        return {key: logical}
    return {key: str(uuid.UUID(seed[:32])) if kind.naming == "uuid" else logical + seed[:8], **random}
