"""Pulumi's flat configuration to `Settings`, or one error that names each wrong key, the rule and what would do.

Knows no setting by name but the region's: what may be set is `settings.py`.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env
from pydantic import ValidationError

from infra.config import tls
from infra.config.settings import OF_THE_PROJECT, REMOVED, Settings

_MISSPELT = 0.75
"""How like a group (1: the same) a namespace is that was meant to be it. Others are those of providers and of whoever
shares the file: they are let be."""


class ConfigError(Exception):
    """The stack's configuration is wrong; the message names each key, the rule and what would do."""


def of_this_stack() -> Settings:
    """Return the running program's settings. Warns of each version, and the certificate, that will soon end.

    Raises `pulumi.RunError`, which is shown without a stack trace.
    """
    # `pulumi.Config` can only be asked for keys it is told; a misspelt key shows in the whole map alone.
    try:
        settings = load({**get_config_env(), **CONFIG.get()}, pulumi.get_project())
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from None
    for end in settings.support_ends:
        pulumi.warn(str(end))
    certificate = settings.serving.tls_certificate
    if certificate and (days := tls.days_left(certificate)) < tls.NOTICE_DAYS:
        pulumi.warn(
            f"the certificate of {settings.serving.hostname} ends in {days} days: set serving:tls_certificate and "
            "serving:tls_key to a new certificate and key (docs/operations.md, 'A certificate for the endpoint')"
        )
    return settings


def load(config: Mapping[str, str], project: str) -> Settings:
    """Settings from Pulumi's flat config, such as `{"training:workers": "12", "azure-native:location": "westeurope"}`.

    Raises `ConfigError` for wrong values and for keys this program does not know (a misspelt key is never ignored).
    """
    groups = set(Settings.model_fields) - {*OF_THE_PROJECT, "location"}
    values: dict[str, Any] = {}
    unknown = []
    for key, text in config.items():
        namespace, _, name = key.partition(":")
        if namespace == project and name in OF_THE_PROJECT:
            values[name] = text
        elif key == "azure-native:location":
            values["location"] = text
        elif namespace in groups:
            values.setdefault(namespace, {})[name] = _value(text)
        elif namespace == project:
            unknown.append(f"{key}: is not a setting. The project has {', '.join(OF_THE_PROJECT)}.")
        elif close := get_close_matches(namespace, groups, 1, _MISSPELT):
            unknown.append(f"{key}: no setting has the namespace {namespace}. Did you mean {close[0]}:{name}?")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain([*unknown, *(_line(found, project) for found in error.errors())])) from None
    if unknown:
        raise ConfigError(_explain(unknown))
    return settings


def _value(text: Any) -> Any:
    """Pulumi hands objects and lists over as JSON text, and everything else as plain text."""
    if isinstance(text, str) and text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


def _line(error: Any, project: str) -> str:
    place = [str(part) for part in error["loc"]]
    if not place:
        return error["msg"].removeprefix("Value error, ")
    if len(place) == 1:
        key = f"{project}:{place[0]}" if place[0] in OF_THE_PROJECT else f"azure-native:{place[0]}"
        field = Settings.model_fields.get(place[0])
    else:
        key = ":".join(place[:2]) + "".join(f".{part}" for part in place[2:] if not part.startswith("literal"))
        group = Settings.model_fields[place[0]].annotation
        fields = getattr(group, "model_fields", {})
        field = fields.get(place[1])
        if error["type"] == "extra_forbidden" and key in REMOVED:
            return f"{key}: is no longer a setting. {REMOVED[key]} Remove it: pulumi config rm {key}"
        if error["type"] == "extra_forbidden":
            return f"{key}: is not a setting. {place[0]} has {', '.join(sorted(fields))}."
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        of_a_group = len(place) == 1 and place[0] not in (*OF_THE_PROJECT, "location")
        return message if of_a_group else f"{key}: {message}"
    if error["type"] == "missing":
        return f"{key}: must be set. {field.description if field else ''}"
    hint = f" {field.description}" if field and field.description else ""
    default = "" if field is None or field.is_required() else f" The default is {json.dumps(_plain(field.default))}."
    return f"{key}: {message}, not {error['input']!r}.{hint}{default}"


def _plain(default: Any) -> Any:
    return default if isinstance(default, str | int | float | bool | list | type(None)) else None


def _explain(lines: list[str]) -> str:
    return "the stack's configuration cannot be used:\n" + "\n".join(f"  - {line}" for line in lines)
