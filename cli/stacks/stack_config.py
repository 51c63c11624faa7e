"""Reads the config of a stack file like the Pulumi engine: flat, with every value as the text that a program gets.

The engine decodes the file with gopkg.in/yaml.v3 and passes each value on as text, objects and lists as JSON. PyYAML
reads numbers, dates and booleans differently (YAML 1.1: `yes`, `12:30`), so the rules of yaml.v3 are repeated here; a
test compares them with `pulumi config --json`. Source: go-yaml/yaml v3 resolve.go and decode.go; for keys, ParseKey in
pulumi/pulumi sdk/go/common/resource/config/key.go. Does not decrypt values and does not check settings.
"""

import base64
import datetime
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_PLAIN = "!plain"
_CONSTANTS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_CONSTANTS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_SURROGATE = re.compile("[\ud800-\udfff]")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TIME = re.compile(
    r"(?P<date>\d{4}-\d{1,2}-\d{1,2})(?P<sep>[Tt ])?"
    r"(?(sep)(?P<h>\d{1,2}):(?P<m>\d{1,2}):(?P<s>\d{1,2})(?P<fraction>\.\d{1,9})?(?P<zone>Z|[-+]\d\d:\d\d)?)"
)
_INTEGERS = ((r"0[xX]([0-9a-fA-F]+)", 16), (r"0[bB]([01]+)", 2), (r"0[oO]?([0-7]+)", 8), (r"(0|[1-9][0-9]*)", 10))


class _Loader(yaml.BaseLoader):
    """Builds nodes only, and marks a scalar that has neither quotes nor a tag."""


_Loader.add_implicit_resolver(_PLAIN, re.compile(""), None)


def parse(text: str, project: str) -> dict[str, str]:
    """Return the config by `namespace:name`.

    Raises `ValueError` for a file that the engine refuses, and `yaml.YAMLError` for a text that is not YAML.
    """
    root = yaml.compose(text, _Loader)
    try:
        config = dict(_members(_mapping(root, "the file"))).get("config")
        values: dict[str, str] = {}
        for name, node in _members(_mapping(config, "config"), keys_are_text=True):
            key = full_key(name, project)
            if key in values:
                raise ValueError(f"{key} is set twice, once as {name}")
            values[key] = _text(_value(node))
        return values
    except RecursionError:
        raise ValueError("an anchor contains itself") from None


def is_secret(node: yaml.Node) -> bool:
    """Return whether the node is an encrypted value: an object whose only member is `secure`, a text."""
    if not isinstance(node, yaml.MappingNode) or len(node.value) != 1:
        return False
    ((key, value),) = node.value
    return key.value == "secure" and isinstance(value, yaml.ScalarNode) and isinstance(_value(value), str)


def full_key(name: str, project: str) -> str:
    """Return a config key as `namespace:name`, from `name`, `namespace:name` or `namespace:config:name`.

    Raises `ValueError` for another form.
    """
    parts = name.split(":")
    if len(parts) == 3 and parts[1] == "config":
        return f"{parts[0]}:{parts[2]}"
    if len(parts) > 2:
        raise ValueError(f"{name} is not a config key: a key is <namespace>:<name>")
    return name if len(parts) == 2 else f"{project}:{name}"


def _members(node: yaml.MappingNode, *, keys_are_text: bool = False) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the members, including those merged by `<<`, which never replace a member of the mapping itself."""
    own: dict[str, yaml.Node] = {}
    merged: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {key.start_mark.line + 1}: a key must be a text")
        if key.value == "<<" and key.tag == _PLAIN:
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    raise ValueError(f"line {key.start_mark.line + 1}: << takes a mapping or a list of mappings")
                for name, member in _members(source, keys_are_text=keys_are_text):
                    merged.setdefault(name, member)
            continue
        name = _value(key)
        if keys_are_text and not isinstance(name, str):
            raise ValueError(f"line {key.start_mark.line + 1}: {key.value} is not a config key: put it in quotes")
        name = _text(name)
        if name in own:
            raise ValueError(f"line {key.start_mark.line + 1}: {name} is set twice")
        own[name] = value
    yield from {**merged, **own}.items()


def _mapping(node: yaml.Node | None, what: str) -> yaml.MappingNode:
    """Return the node, or an empty mapping for an absent or null node."""
    if node is None or (isinstance(node, yaml.ScalarNode) and _value(node) is None):
        return yaml.MappingNode("", [])
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{what} must be a mapping")
    return node


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {name: _value(member) for name, member in _members(node)}
    if _SURROGATE.search(node.value):
        raise ValueError(
            f"line {node.start_mark.line + 1}: a \\u escape is half of a surrogate pair; write the character"
        )
    if node.tag == f"{_TAG}binary":
        return base64.b64decode(node.value).decode()
    return node.value if node.tag == f"{_TAG}str" else _resolve(node.value)


def _resolve(text: str) -> Any:
    """Resolve a plain scalar like yaml.v3: null, boolean, moment in time (as text), number or text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a number that JSON has; put it in quotes")
    if (moment := _moment(text)) is not None:
        return moment
    if text[0] not in "+-.0123456789":
        return text
    plain = text if text[0] == "." else text.replace("_", "")
    for pattern, base in _INTEGERS:
        if found := re.fullmatch(rf"([-+]?){pattern}", plain):
            number = int(found[2], base) * (-1 if found[1] == "-" else 1)
            if -(2**63) <= number < 2**64:
                return number
    if _FLOAT.fullmatch(plain) and abs(float(plain)) != float("inf"):
        return float(plain)
    return text


def _moment(text: str) -> str | None:
    """Return Go's text of a `time.Time`, which is the form that a program gets; None for other texts."""
    found = _TIME.fullmatch(text)
    if found is None or (found["sep"] == " " and found["zone"]) or (found["sep"] in ("T", "t") and not found["zone"]):
        return None
    try:
        day = datetime.date(*map(int, found["date"].split("-")))
        clock = datetime.time(int(found["h"] or 0), int(found["m"] or 0), int(found["s"] or 0))
    except ValueError:
        return None
    zone = (found["zone"] or "Z").replace(":", "")
    named = "+0000 UTC" if zone in ("Z", "+0000", "-0000") else f"{zone} {zone}"
    fraction = (found["fraction"] or "").rstrip("0").rstrip(".")
    return f"{day.isoformat()} {clock.isoformat()}{fraction} {named}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float):
        return _go_float(value)
    return json.dumps(value)


def _go_float(value: float) -> str:
    """Format like Go's encoding/json: shortest digits, and no exponent from 1e-6 to 1e21."""
    digits = Decimal(repr(value))
    if value == 0:
        return "0"
    if 1e-6 <= abs(value) < 1e21:
        shown = format(digits, "f")
        return shown.rstrip("0").rstrip(".") if "." in shown else shown
    mantissa, _, exponent = repr(value).partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent):+d}"
