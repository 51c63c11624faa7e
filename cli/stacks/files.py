"""Stack files: reads one as Pulumi does, and writes the file of a new region from an existing file.

A new file is the old text with parts removed or replaced, so comments and order are kept. Does not run Pulumi and does
not create a stack in its backend.
"""

import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from cli.errors import UserError
from cli.paths import PROJECT
from cli.stacks import stack_config, stand_in_certificate
from infra.config import former_names, loading
from infra.config.settings import ENVIRONMENT, Settings
from infra.planning import regions

LOCATION = "azure-native:location"
_NAME = 100  # pulumi/pulumi sdk/go/common/tokens/stack.go, ParseStackName
_ENCRYPTED = ("encryptionsalt", "encryptedkey")
_HOST, _TLS = "serving:hostname", ("serving:tls_certificate", "serving:tls_key")
# Settings that often differ between regions, with the reason that is shown if the new file contains them.
_REVIEW = {
    "access:deployers": "the same principals may run releases here",
    "access:cluster_admins": "the same groups administer the cluster here",
    "network:address_space": "address spaces of peered networks must not overlap",
    "release:model": "a version number belongs to the other stack's registry; begin with `trained` here",
    "serving:hostname": "a host name belongs to one endpoint; choose another one here",
    "serving:tls_certificate": "it is for the other host name",
    "training:snapshot": "the rows are in the other stack's lake; upload them to this one's before a release",
}


@dataclass(frozen=True)
class NewStack:
    path: Path
    location: str
    environment: str
    secrets: list[str]
    """Config paths of the secrets that were removed, in the notation of `pulumi config set --path`."""
    review: dict[str, str]
    """Copied config keys that often differ between regions, each with the reason."""


def file_of(folder: Path, stack: str) -> Path:
    """Return the path of `Pulumi.<stack>.yaml`, without organisation and project before the stack's name."""
    return folder / f"Pulumi.{stack.rpartition('/')[2]}.yaml"


def stack_of(path: Path) -> str:
    """Return the name of the stack that a file belongs to."""
    return path.name.removeprefix("Pulumi.").removesuffix(".yaml")


def names(folder: Path) -> list[str]:
    """Return the names of the stacks that have a file."""
    return sorted(map(stack_of, folder.glob("Pulumi.*.yaml")))


def read(folder: Path, stack: str) -> Mapping[str, str]:
    """Return the config of a stack file, flat as Pulumi passes it to a program, without secrets. Raises `UserError`.

    A certificate whose key is a secret is replaced by another one for the same host name, so that the settings are
    complete.
    """
    text, secrets = _without_secrets(text_of(folder, stack))
    return _with_certificate(stack_config.parse(text, _project()), secrets)


def settings_of(config: Mapping[str, str], where: str) -> Settings:
    """Return the settings. Raises `UserError` with `where`, and the key and the rule of each error."""
    try:
        return loading.load(config, _project())
    except loading.ConfigError as error:
        raise UserError(f"{where}: {error}") from None


def create(folder: Path, name: str, like: str, location: str | None) -> NewStack:
    """Write the file of stack `name` from that of `like`, with `location` or the region at the end of the name.

    The part of the name before the region becomes the environment if it is a valid one; otherwise the environment is
    copied and listed for review. Unless the name gives the environment of `like`, `production` is listed, too. Former
    names of settings are replaced by the present ones.

    Raises `UserError` before it writes anything if the file exists, the region is unknown or the settings are wrong.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UserError(f"{name!r} cannot name a stack: use only letters, digits, hyphens, underscores and dots.")
    if len(name) > _NAME:
        raise UserError(
            f"{name!r} cannot name a stack: it has {len(name)} characters, and at most {_NAME} are allowed."
        )
    path, region = file_of(folder, name), location or name.rpartition("-")[2]
    if path.exists():
        raise UserError(f"{path} exists already: remove it, or choose another name for the new stack.")
    _require_region(region, named=location is not None)
    text, secrets = _without_secrets(text_of(folder, like))
    old = stack_config.parse(text, _project())
    environment_key, production_key = f"{_project()}:environment", f"{_project()}:production"
    for key in (LOCATION, production_key):
        if key not in old:
            raise UserError(f"{file_of(folder, like)} has no {key}: set it there first.")
    text = _with_present_names(_replaced(text, LOCATION, region))
    prefix = name.removesuffix(f"-{region}")
    if prefix != name and re.fullmatch(ENVIRONMENT, prefix):
        text = _replaced(text, environment_key, prefix)
    config = stack_config.parse(text, _project())
    environment = settings_of(_with_certificate(config, secrets), path.name).environment
    _write_new(path, text)
    review = dict(_to_review(config, old[LOCATION]))
    if prefix != environment:
        review[environment_key] = f"{environment}, as in {like}: it is part of every resource name"
    if prefix != old.get(environment_key):
        review[production_key] = f"{old[production_key]}, as in {like}: it decides on protection, zones and price"
    return NewStack(path, region, environment, secrets, review)


def _require_region(region: str, *, named: bool) -> None:
    try:
        regions.require(region)
    except ValueError as error:
        hint = "" if named else " The region is the last part of the stack's name unless --location gives it."
        raise UserError(f"{error}{hint}") from None


def text_of(folder: Path, stack: str) -> str:
    """Return the text of a stack file. Raises `UserError` if it does not exist or the engine would refuse it."""
    path = file_of(folder, stack)
    try:
        text = path.read_text()
        stack_config.parse(text, _project())
        return text
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"there is no {path}. Stacks here: {', '.join(names(folder)) or 'none'}.") from None


@lru_cache
def _project() -> str:
    return str(yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["name"])


def _with_certificate(config: Mapping[str, str], secrets: Collection[str]) -> Mapping[str, str]:
    """Replace certificate and key if one of them was a secret, which is missing here."""
    if _HOST in config and set(_TLS) & set(secrets):
        return {**config, **dict(zip(_TLS, stand_in_certificate.pair(config[_HOST]), strict=True))}
    return config


def _without_secrets(text: str) -> tuple[str, list[str]]:
    """Remove encryption keys and all entries with an encrypted value; return the text and the paths of the entries."""
    removed: list[tuple[int, int]] = []
    secrets: list[str] = []
    for key, value in _entries(yaml.compose(text, yaml.SafeLoader)):
        if key.value in _ENCRYPTED:
            removed.append(_span(key, value))
        elif key.value == "config":
            for name, node in _entries(value):
                secrets += _secrets_in(name, node, _key(name), removed)
    lines = [
        line
        for number, line in enumerate(text.splitlines(keepends=True))
        if not any(first <= number < last for first, last in removed)
    ]
    return "".join(lines), secrets


def _secrets_in(key: yaml.Node, value: yaml.Node, path: str, removed: list[tuple[int, int]]) -> list[str]:
    """Return the paths of the secrets below one entry, and add the fewest lines that contain them to `removed`."""
    if not _is_secret(value):
        return []
    below, span = list(_entries(value)), _span(key, value)
    block = isinstance(value, yaml.MappingNode) and not value.flow_style
    if not block or any(name.value == "secure" for name, _ in below):
        removed.append(span)
        return [path]
    secrets = [secret for name, node in below for secret in _secrets_in(name, node, f"{path}.{name.value}", removed)]
    if all(_span(name, node) in removed for name, node in below):
        removed.append(span)
    return secrets


def _is_secret(node: yaml.Node) -> bool:
    """Return whether the node is or contains an encrypted value."""
    if isinstance(node, yaml.SequenceNode):
        return any(map(_is_secret, node.value))
    return stack_config.is_secret(node) or any(_is_secret(value) for _, value in _entries(node))


def _replaced(text: str, key: str, value: str) -> str:
    """Replace the scalar of one config key."""
    node = next((node for name, node in _config_entries(text) if _key(name) == key), None)
    return text if node is None else text[: node.start_mark.index] + value + text[node.end_mark.index :]


def _with_present_names(text: str) -> str:
    """The text with present names of settings for former ones, except where both are set, which is refused later."""
    keys = [name for name, _ in _config_entries(text)]
    renamed = former_names.in_use([_key(key) for key in keys])
    for key in reversed(keys):
        if present := renamed.get(_key(key)):
            text = text[: key.start_mark.index] + present + text[key.end_mark.index :]
    return text


def _config_entries(text: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    for name, node in _entries(yaml.compose(text, yaml.SafeLoader)):
        if name.value == "config":
            yield from _entries(node)


def _key(name: yaml.ScalarNode) -> str:
    """Return the key as `namespace:name`, which the file may spell in two more ways."""
    return stack_config.full_key(name.value, _project())


def _entries(node: yaml.Node | None) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    yield from node.value if isinstance(node, yaml.MappingNode) else ()


def _span(key: yaml.Node, value: yaml.Node) -> tuple[int, int]:
    """Return the first line of an entry and the line after its last. A block's end mark is at the next token."""
    last = value
    while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    ends = last.end_mark
    return key.start_mark.line, ends.line + (1 if ends.column else 0)


def _to_review(config: Mapping[str, str], before: str) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if key in _REVIEW and not (key == "release:model" and not value.isdigit()):
            yield key, _REVIEW[key]
        elif key != LOCATION and re.search(rf"\b{before}\b", value):
            yield key, f"mentions {before}"


def _write_new(path: Path, text: str) -> None:
    """Write the file atomically, without overwriting a file that was created meanwhile."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", suffix=".yaml", delete=False) as file:
        file.write(text)
    written = Path(file.name)
    try:
        written.chmod(0o644)
        os.link(written, path)
    except FileExistsError:
        raise UserError(f"{path} exists already: remove it, or choose another name for the new stack.") from None
    finally:
        written.unlink()
