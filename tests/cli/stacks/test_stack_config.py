"""The commands read a stack file like the engine: both read one table of values."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.stacks import stack_config
from testing.arm.azure_native import Engine, engine

__all__ = ["engine"]

VALUES = r"""
8 | 8.0 | 8.10 | 1e3 | 1E3 | 0x10 | 0o17 | 017 | 08 | 09.5 | -017 | 0b11 | 1_000 | 1__0 | +8 | -0 | -0.0 | .5 | 5.
0o8 | 0x | 1e400 | 123456789012345678901234567890 | 9007199254740993 | -9223372036854775809
18446744073709551616 | 1.0e+2 | 1e-7 | 6.02e23 | 0.000001 | ._5 | +-8 | 1e21 | 123e-2
true | True | TRUE | yes | Yes | on | off | no | NO | y | null | ~ | Null | '' | "" | "8" | 'yes' | "true"
2026-11-01 | 2026-11-1 | 2026-13-01 | 2026-11-01T10:00:00Z | 2026-11-01 10:00:00 | 2026-11-01T10:00:00.120+02:00
2026-11-01t10:00:00z | 2026-11-01T10:00:00+00:00 | 2026-11-01T10:00:00 | 2026-11-01 10:00:00Z | 12:30 | 190:20:30
[1, yes, 2026-11-01, 8.10, null, "x"] | {a: 1, b: yes, c: 2026-11-01, d: 8.10, e: 0x10, f: ~, g: 1e3}
[[1, 2], {a: [true]}] | {1: a, true: b} | {1.5: a} | {yes: b} | {2026-11-01: b} | [] | {}
{<<: {a: 1, b: 2}, b: 3} | !!set {a, b}
!!str 8 | !!int "8" | !!float 8 | !!binary aGk= | !foo 1 | << | = | &x 5 | *x | "a\nb" | "\u00e5" | text # comment | 😀
'{"a": 1}' | {secure: 8} | {secure: true, a: 1}
"""
REFUSED = [
    "config:\n  training:x: .inf\n",
    "config:\n  training:x: {a: 1, a: 2}\n",
    "config:\n  training:x: 1\n  training:x: 2\n",
    "config:\n  a:b:c: 1\n",
    "config:\n  8: a\n",
    "config: []\n",
    'config:\n  training:x: "\\ud83d"\n',
    "config: &a\n  training:x: *a\n",
]
FILES = [
    "",
    "config:\n",
    "\ufeffconfig:\r\n  training:x: 1\r\n",
    "other: 1\nbase: &b {a: 1}\nconfig:\n  <<: {training:y: 2, training:x: 3}\n  training:x: *b\n  z: 4\n"
    "  training:config:w: 5\n  training: {x: 1}\n  training:long: |\n    two\n    lines\n",
]


@pytest.fixture
def stack(engine: Engine) -> Engine:
    engine("stack", "init", "test")
    return engine


def by_the_engine(stack: Engine, text: str) -> dict[str, Any] | None:
    path = stack.folder / "Pulumi.test.yaml"
    path.write_text(text)
    done = stack.run("config", "--json", "--stack", "test")
    return {key: entry["value"] for key, entry in json.loads(done.stdout).items()} if done.returncode == 0 else None


def opened(config: dict[str, Any] | None) -> Any:
    """Parse objects and lists, so that the spacing of their JSON does not matter."""
    return config and {key: json.loads(value) if value[:1] in ("{", "[") else value for key, value in config.items()}


def test_stack_config_reads_values_and_keys_like_the_engine(stack: Engine) -> None:
    values = [value.strip() for line in VALUES.strip().splitlines() for value in line.split(" | ")]
    assert len(values) > 90
    table = "config:\n" + "".join(f"  training:v{number}: {value}\n" for number, value in enumerate(values))
    for text in (table, *FILES):
        theirs, ours = opened(by_the_engine(stack, text)), opened(stack_config.parse(text, "project"))
        assert theirs is not None
        assert ours == theirs, {key: (ours.get(key), value) for key, value in theirs.items() if ours.get(key) != value}


@pytest.mark.parametrize("text", REFUSED)
def test_stack_config_refuses_files_that_the_engine_refuses(stack: Engine, text: str) -> None:
    assert by_the_engine(stack, text) is None
    with pytest.raises((ValueError, yaml.YAMLError)) as error:
        stack_config.parse(text, "project")
    assert str(error.value)


def test_stack_config_refuses_one_key_in_two_spellings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="project:x is set twice"):
        stack_config.parse("config:\n  x: 1\n  project:x: 2\n", "project")
