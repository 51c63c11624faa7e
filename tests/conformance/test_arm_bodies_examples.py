"""Every request has only keys and values of its API version, and all required ones, by the REST specifications.

`testing/data/rest_example_keys/` has the accepted key paths of each type; its `derive.py` names their source. Does not
check numbers and free text.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from testing.arm.bodies import Put, puts, require_no_faults

__all__ = ["puts"]

pytestmark = pytest.mark.stack

KEYS = Path(__file__).parents[2] / "testing" / "data" / "rest_example_keys"


@cache
def specification(resource_type: str) -> dict[str, Any]:
    keys: dict[str, Any] = json.loads((KEYS / f"{resource_type.replace('/', '.')}.json").read_text())
    return keys


def test_every_type_is_sent_at_the_version_whose_specification_is_here(puts: list[Put]) -> None:
    sent = {(put.type, put.api_version) for put in puts}
    kept = {
        (found["type"], found["api_version"]) for found in map(json.loads, map(Path.read_text, KEYS.glob("*.json")))
    }
    assert sent == kept


def test_every_key_and_value_is_one_that_the_rest_specification_has(puts: list[Put]) -> None:
    require_no_faults(faults, puts)


def faults(put: Put) -> Iterator[str]:
    yield from _faults(put.body, "", specification(put.type))


def _faults(value: Any, path: str, specified: dict[str, Any]) -> Iterator[str]:
    keys = specified["keys"]
    if isinstance(value, list):
        for item in value:
            yield from _faults(item, f"{path}[]", specified)
    elif isinstance(value, dict):
        if f"{path}.**" in keys:
            return
        if any(key.startswith(f"{path}(") for key in keys):
            kinds = [kind for key in value if (kind := f"{path}({key}={value[key]})") in keys]
            if not kinds:
                yield f"{path}: is of no kind that is known"
                return
            path = kinds[0]
        for name in specified["required"].get(path, []):
            if name not in value:
                yield f"{path}.{name}: is missing"
        for key, inner in value.items():
            own, any_other = (f"{path}.{key}" if path else key), f"{path}.*"
            if own in keys or any_other in keys:
                yield from _faults(inner, own if own in keys else any_other, specified)
            else:
                yield f"{own}: is not known"
    elif keys.get(path) and value not in keys[path]:
        yield f"{path}: {value!r} is none of {keys[path]}"
