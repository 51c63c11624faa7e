"""The rules of `sandbox/arm/resource_types.yaml`, compared with Microsoft's Bicep types.

`testing/data/resource_types.yaml` is an extract; `tools/resource_types.py` wrote it and names the commit.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.arm.resource_types import TypeRule, load
from tools.resource_types import paths
from tools.sources.form import read_all
from tools.sources.yaml_files import spread

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "testing" / "data" / "resource_types.yaml").read_text())
ROWS: dict[str, dict[str, Any]] = DOCUMENT["types"]
RULES = {rule.type: rule for rule in load().values() if rule.api_version}
LIMITED = sorted(name for name in ROWS if RULES[name].name.keys() & {"min", "max", "pattern"})


def test_every_type_is_compared_at_its_api_version() -> None:
    assert ROWS.keys() == RULES.keys()
    assert not [name for name, row in ROWS.items() if f"/{RULES[name].api_version}/" not in row["path"]]


@settings(max_examples=20, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", LIMITED)
def test_names_that_azure_refuses_are_refused(name: str, data: st.DataObject) -> None:
    limits, text = ROWS[name].get("name", {}), data.draw(names(RULES[name]))
    assert limits.get("min", 0) <= len(text) <= limits.get("max", 1000)
    assert re.search(limits.get("pattern", ""), text), limits
    assert text == limits.get("value", text)


@pytest.mark.parametrize("name", ROWS)
def test_types_have_a_location_as_in_azure(name: str) -> None:
    # A resource that can be in any region must name one ("LocationRequired"); the types do not contain this rule.
    allowed = {"none": {"none"}, "optional": {"optional", "required"}, "required": {"required"}}
    assert RULES[name].location in allowed[ROWS[name]["location"]]


@pytest.mark.parametrize("name", ROWS)
def test_property_that_azure_requires_is_required(name: str) -> None:
    ours = RULES[name].required
    assert not [
        path for path in ROWS[name].get("required", []) if not any(f"{path}.".startswith(f"{one}.") for one in ours)
    ]


@pytest.mark.parametrize("name", ROWS)
def test_rules_with_bicep_types_as_source_are_in_them(name: str) -> None:
    row, cited = ROWS[name], f"{DOCUMENT['repository']} {ROWS[name]['path']}"
    required, read_only = row.get("required", []), row.get("read_only", [])
    for key, items in (("required", RULES[name].required), ("computed", tuple(paths(RULES[name].computed)))):
        for item in items:
            texts = list(sources_of(RULES[name].raw, key, item))
            assert all(text == cited for text in texts if text.startswith(DOCUMENT["repository"])), item
            if cited in texts:
                listed = read_only if key == "computed" else required
                assert any(f"{path}.".startswith(f"{item}.") for path in listed), f"{key} {item}"


def test_comparison_of_names_detects_a_refused_name() -> None:
    assert not re.search(ROWS["Microsoft.Storage/storageAccounts"]["name"]["pattern"], "Capital")


def names(rule: TypeRule) -> st.SearchStrategy[str]:
    least, most = rule.name.get("min", 1), rule.name.get("max", 300)
    # `$` also matches before a line's end.
    texts = st.from_regex(rule.name.get("pattern", r"\A.*\Z"), fullmatch=True)
    return texts.filter(lambda text: least <= len(text) <= most and "\n" not in text)


def sources_of(entry: Mapping[str, Any], key: str, item: str) -> Iterator[str]:
    stated = spread(entry["sources"])[key]
    if isinstance(stated, Mapping):
        covering = [place for place in stated if f"{item}.".startswith(f"{place}.")]
        stated = stated[max(covering, key=len)]
    for source in read_all(stated).sources:
        yield source.text
