"""Conversion of Pulumi's flat configuration to `Settings`, or to one error that lists every mistake.

Each line of the error names a key, the value, the rule and the remedy. Former names of settings are accepted here and
reported; `former_names.py` lists them. Does not define settings: their names, types, defaults and rules are in
`settings/`. It names only the region, whose key is azure-native's, and the certificate, whose end it warns of.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env
from pydantic import ValidationError

from infra.config import former_names, tls
from infra.config.settings import OF_THE_PROJECT, Settings

_MISSPELT = 0.75
"""Similarity to a group's name (1: equal) from which a namespace counts as misspelt. Namespaces less similar belong to
providers or to other programs that share the stack file, and are ignored."""


class ConfigError(Exception):
    """The stack's configuration is wrong. The message names each key, the rule and the remedy."""


def of_this_stack() -> Settings:
    """Return the running program's settings.

    Warns about settings under a former name, and about versions and a certificate that end soon. Raises
    `pulumi.RunError`, which Pulumi shows without a stack trace.
    """
    # Not `pulumi.Config`, which returns only keys that it is asked for: a misspelt key would stay unnoticed.
    config = {**get_config_env(), **CONFIG.get()}
    try:
        settings = load(config, pulumi.get_project())
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from None
    for message in former_names.deprecations(config):
        pulumi.warn(message)
    for end in settings.support_ends:
        pulumi.warn(str(end))
    certificate = settings.serving.tls_certificate
    if certificate and (days := tls.days_left(certificate)) < tls.NOTICE_DAYS:
        pulumi.warn(
            f"the certificate of {settings.serving.hostname} expires in {days} days: set serving:tls_certificate and "
            "serving:tls_key to a new certificate and key (docs/operations.md, 'A certificate for the endpoint')"
        )
    return settings


def load(config: Mapping[str, str], project: str) -> Settings:
    """Return the settings of a flat config such as `{"training:workers": "12", "azure-native:location": "westeurope"}`.

    Raises `ConfigError` for wrong values, for unknown keys in the program's namespaces or in one that is spelled
    similarly, and for a setting that is set under both its former and its present name.
    """
    groups = set(Settings.model_fields) - {*OF_THE_PROJECT, "location"}
    values: dict[str, Any] = {}
    mistakes = [
        f"{former}: is the former name of {key}, which is also set. Remove the former: pulumi config rm {former}"
        for former, key in former_names.set_twice(config).items()
    ]
    for key, text in former_names.with_present_names(config).items():
        namespace, _, name = key.partition(":")
        if namespace == project and name in OF_THE_PROJECT:
            values[name] = text
        elif key == "azure-native:location":
            values["location"] = text
        elif namespace in groups:
            values.setdefault(namespace, {})[name] = _value(text)
        elif namespace == project:
            mistakes.append(f"{key}: is not a setting. The project has {', '.join(OF_THE_PROJECT)}.")
        elif close := get_close_matches(namespace, groups, 1, _MISSPELT):
            mistakes.append(f"{key}: no setting has the namespace {namespace}. Did you mean {close[0]}:{name}?")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        mistakes += [_line(mistake, project) for mistake in error.errors()]
        raise ConfigError(_explain([*mistakes, *former_names.deprecations(config)])) from None
    if mistakes:
        raise ConfigError(_explain(mistakes))
    return settings


def _value(text: Any) -> Any:
    """Decode objects and lists, which Pulumi passes as JSON text. It passes every other value as plain text."""
    if isinstance(text, str) and text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


def _line(error: Any, project: str) -> str:
    location = [str(part) for part in error["loc"]]
    if not location:
        return error["msg"].removeprefix("Value error, ")
    if len(location) == 1:
        key = f"{project}:{location[0]}" if location[0] in OF_THE_PROJECT else f"azure-native:{location[0]}"
        field = Settings.model_fields.get(location[0])
    else:
        key = ":".join(location[:2]) + "".join(f".{part}" for part in location[2:] if not part.startswith("literal"))
        group = Settings.model_fields[location[0]].annotation
        fields = getattr(group, "model_fields", {})
        field = fields.get(location[1])
        if error["type"] == "extra_forbidden" and key in former_names.REMOVED:
            return f"{key}: is no longer a setting. {former_names.REMOVED[key]} Remove it: pulumi config rm {key}"
        if error["type"] == "extra_forbidden":
            return f"{key}: is not a setting. {location[0]} has {', '.join(sorted(fields))}."
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        of_a_group = len(location) == 1 and location[0] not in (*OF_THE_PROJECT, "location")
        return message if of_a_group else f"{key}: {message}"
    description = f" {field.description}" if field and field.description else ""
    if error["type"] == "missing":
        remedy = f" Run pulumi config set {key} true, or pulumi config set {key} false."
        return f"{key}: must be set.{description}{remedy if field and field.annotation is bool else ''}"
    default = "" if field is None or field.is_required() else f" The default is {json.dumps(_plain(field.default))}."
    return f"{key}: {message}, not {error['input']!r}.{description}{default}"


def _plain(default: Any) -> Any:
    return default if isinstance(default, str | int | float | bool | list | type(None)) else None


def _explain(lines: list[str]) -> str:
    return "the stack's configuration cannot be used:\n" + "\n".join(f"  - {line}" for line in lines)
