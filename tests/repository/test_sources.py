"""Every rule about Azure and Databricks has a source, so that a wrong assumption can be looked up.

`tools/sources/` defines rules and the places of their sources. These tests check that a source is present and has the
agreed form. They do not check its contents, which were looked up when it was written.
"""

import importlib.metadata
import re
import sysconfig
from functools import cache
from pathlib import Path

import pytest

from tools.sources import python_files, unique_keys, yaml_files
from tools.sources.form import Kind, Malformed, read, read_all
from tools.sources.report import texts
from tools.sources.rules import Fault, Rule

ROOT = Path(__file__).parents[2]


SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
# Not installed: read for an API version that the pinned package no longer has.
OLDER = {"azure-mgmt-containerregistry==10.3.0"}


@cache
def rules() -> list[Rule | Fault]:
    return [*yaml_files.find(ROOT), *python_files.find(ROOT)]


def packaged() -> set[str]:
    stated = [rule.statement for rule in rules() if isinstance(rule, Rule) and rule.statement]
    return {source.text for one in stated for source in one.sources if source.kind is Kind.PACKAGE}


def named(remark: str) -> list[str]:
    """The parts of the code names in a remark."""
    quoted = re.findall(r"`([^`]+)`|\b([A-Z]\w*API\.\w+)", remark)
    return [part for pair in quoted for name in pair for part in re.findall(r"\w+", name)]


@cache
def contents(path: str) -> str:
    return (SITE_PACKAGES / path).read_text()


def test_every_rule_has_a_source() -> None:
    without = [str(rule) for rule in rules() if isinstance(rule, Rule) and not rule.statement]
    assert not without, "\n".join(without)


def test_every_source_has_the_agreed_form() -> None:
    faults = [str(fault) for fault in rules() if isinstance(fault, Fault)]
    assert not faults, "\n".join(faults)


def test_generated_pages_match_the_sources() -> None:
    for path, text in texts(ROOT).items():
        assert (ROOT / path).read_text() == text, "run `python -m tools.sources`"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Source: Azure/azure-rest-api-specs specification/a/b.json (`x`; y)", {Kind.SPECIFICATION}),
        ("Source: Azure/AKS#2495; MicrosoftDocs/azure-docs articles/a.md", {Kind.ISSUE, Kind.DOCUMENTATION}),
        ("Source: https://learn.microsoft.com/azure/a", {Kind.DOCUMENTATION}),
        ("Source: azure-core==1.2.3 azure/core/a.py", {Kind.PACKAGE}),
        ("Source: hashicorp/terraform-provider-azurerm internal/a.go", {Kind.CODE}),
        ("No source: create one on Azure and read it", {Kind.NOTHING}),
    ],
)
def test_kind_of_a_source_is_recognised(text: str, kinds: set[Kind]) -> None:
    assert read(text).kinds == kinds


@pytest.mark.parametrize("text", ["Source: the documentation", "Source: Azure/AKS", "Source: ", "No source: yes"])
def test_malformed_source_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        read(text)


def test_list_of_sources_must_not_contain_no_source() -> None:
    with pytest.raises(Malformed, match="must be the only text"):
        read_all(["Azure/AKS#1", "No source: ask Azure for it"])


BARE = """
LIMIT = 5
def refuse(sandbox, request: Request):
    raise CloudError(400, "Bad", "text")
"""


def test_rule_without_a_source_is_reported_with_the_place_for_it() -> None:
    found = list(python_files.of_file("sandbox/new.py", BARE, set()))
    assert [found.place for found in found] == ["LIMIT", "refuse", "refuse Bad"]
    assert all("write '# Source: " in str(rule) for rule in found)


def test_nearest_source_applies_to_a_rule() -> None:
    text = BARE.replace("LIMIT", "# Source: Azure/AKS#1\nLIMIT").replace(
        "    raise", '    """Act.\n\n    Source: Azure/AKS#2\n    """\n    # No source: ask Azure for it.\n    raise'
    )
    found = [rule for rule in python_files.of_file("sandbox/new.py", text, set()) if isinstance(rule, Rule)]
    statements = [rule.statement for rule in found if rule.statement]
    assert [[source.text for source in one.sources] for one in statements] == [["Azure/AKS#1"], ["Azure/AKS#2"], []]
    assert statements[2].settled_by == "ask Azure for it."


def test_source_does_not_apply_beyond_a_blank_line() -> None:
    found = list(python_files.of_file("infra/new.py", "# Source: Azure/AKS#1\n\nLIMIT = 5\n", set()))
    assert isinstance(found[0], Rule)
    assert not found[0].statement


def test_source_applies_to_the_block_of_constants_below_it() -> None:
    text = "# Source: Azure/AKS#1\nLIMIT = 5\nMOST = 6\n\nLEAST = 7\n"
    found = [rule for rule in python_files.of_file("infra/new.py", text, set()) if isinstance(rule, Rule)]
    assert [rule.place for rule in found if rule.statement] == ["LIMIT", "MOST"]


def test_source_in_a_module_docstring_with_many_rules_is_reported() -> None:
    text = '"""Rules.\n\nSource: Azure/AKS#1\n"""\n' + "".join(f"LIMIT_{number} = 5\n" for number in range(7))
    faults = [found for found in python_files.of_file("infra/new.py", text, set()) if isinstance(found, Fault)]
    assert "covers 7 rules" in faults[0].message


def test_listed_choice_of_the_project_that_does_not_exist_is_reported() -> None:
    (fault,) = python_files.of_file("infra/new.py", "", {"LIMIT"})
    assert "remove it" in str(fault)


def test_key_of_a_type_without_a_source_is_reported_with_the_text_to_write() -> None:
    entry = {"token": "a:B", "immutable": ["properties.a", "properties.b"], "asynchronous": True}
    entry["sources"] = {"immutable": {"properties.a": "Azure/AKS#1"}}
    found = list(yaml_files.of_entry("sandbox/arm/resource_types.yaml", entry, ("token",), "A/b: "))
    bare = [str(rule) for rule in found if isinstance(rule, Rule) and not rule.statement]
    assert len(bare) == 2
    assert "immutable.properties.b: write 'immutable: <owner>/<repository> <path>'" in bare[0]
    assert "asynchronous" in bare[1]


def test_item_of_a_list_may_have_its_own_source() -> None:
    entry = {"each": {"a": {"hour": 1, "source": "Azure/AKS#1"}, "b": {"hour": 2}}}
    found = [it for it in yaml_files.of_entry("infra/planning/prices.yaml", entry, (), "") if isinstance(it, Rule)]
    assert [rule.place for rule in found if rule.statement] == ["each.a"]
    assert [rule.place for rule in found if not rule.statement] == ["each.b.hour"]


def test_keys_with_one_source_may_be_listed_together() -> None:
    entry = {"asynchronous": True, "etag": "eTag", "sources": {"asynchronous, etag": "Azure/AKS#1"}}
    found = [it for it in yaml_files.of_entry("sandbox/arm/resource_types.yaml", entry, (), "") if isinstance(it, Rule)]
    assert [bool(rule.statement) for rule in found] == [True, True]


def test_all_yaml_files_of_sandbox_and_infra_are_searched() -> None:
    files = [path for name in ("sandbox", "infra") for path in (ROOT / name).rglob("*.yaml")]
    present = {path.relative_to(ROOT).as_posix() for path in files}
    assert present == {*yaml_files.ENTRIES, *yaml_files.WHOLE} == yaml_files.OWN.keys()


def test_repeated_key_is_refused_with_its_file_and_lines(tmp_path: Path) -> None:
    file = tmp_path / "types.yaml"
    file.write_text("A/b:\n  sources:\n    computed: Azure/AKS#1\n    name: Azure/AKS#2\n    computed: Azure/AKS#3\n")
    with pytest.raises(unique_keys.RepeatedKey, match=r"types\.yaml, line 5: the key 'computed' is already in line 3"):
        unique_keys.load(file)


def test_same_key_in_two_mappings_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "types.yaml"
    file.write_text("A/b: {name: 1}\nA/c: &c {name: 2}\nA/d: {<<: *c, name: 3}\n")
    assert unique_keys.load(file) == {"A/b": {"name": 1}, "A/c": {"name": 2}, "A/d": {"name": 3}}


def test_key_with_two_sources_is_reported() -> None:
    sources = {"asynchronous, etag": "Azure/AKS#1", "etag": "Azure/AKS#2"}
    entry = {"asynchronous": True, "etag": "eTag", "sources": sources}
    faults = [
        it for it in yaml_files.of_entry("sandbox/arm/resource_types.yaml", entry, (), "A/b: ") if isinstance(it, Fault)
    ]
    assert [fault.place for fault in faults] == ["A/b: sources.etag"]


def test_constants_of_one_statement_are_separate_rules() -> None:
    text = 'class A:\n    LEAST, MOST, KIND = 5, 6, "Microsoft.Storage/storageAccounts"\n'
    found = list(python_files.of_file("infra/new.py", text, set()))
    assert [it.place for it in found] == ["LEAST", "MOST"]


def test_source_of_an_argument_takes_precedence_over_that_of_its_statement() -> None:
    text = "# Source: Azure/AKS#1\nA(\n    depends_on=[b],\n    # Source: Azure/AKS#2\n    ignore_changes=[c],\n)\n"
    found = [rule for rule in python_files.of_file("infra/new.py", text, set()) if isinstance(rule, Rule)]
    sources = [[source.text for source in rule.statement.sources] for rule in found if rule.statement]
    assert sources == [["Azure/AKS#1", "Azure/AKS#2"], ["Azure/AKS#2"]]


RESOURCE = """
from pulumi_azure_native import storage
def declare(name, size):
    storage.Account(
        name,
        location=size,
        # Source: Azure/AKS#1
        kind="StorageV2",
        hot=True,
        description="Rows",
        rule=storage.RuleArgs(days=7),
        opts=ResourceOptions(replace_with=[size]),
    )
    other.Account(kind="StorageV2")
"""


def test_texts_and_numbers_passed_to_a_resource_are_rules() -> None:
    found = list(python_files.of_file("infra/new.py", RESOURCE, set()))
    assert [it.place for it in found] == ["declare Account.kind", "declare RuleArgs.days", "declare replace_with"]


def test_argument_listed_as_a_choice_of_the_project_needs_no_source() -> None:
    text = RESOURCE.replace("        # Source: Azure/AKS#1\n", "")
    found = list(python_files.of_file("infra/new.py", text, {"declare Account.kind", "declare replace_with"}))
    assert [it.place for it in found] == ["declare RuleArgs.days"]


def test_source_in_an_installed_package_exists_and_contains_the_names() -> None:
    wrong = []
    for text in sorted(packaged()):
        stated, _, remark = text.partition(" (")
        package, _, path = stated.partition(" ")
        name, _, version = package.partition("==")
        if package in OLDER:
            continue
        if importlib.metadata.version(name) != version or not (SITE_PACKAGES / path).exists():
            wrong.append(f"{text}: look it up again in version {importlib.metadata.version(name)}")
        elif missing := [part for part in named(remark) if not re.search(rf"\b{part}\b", contents(path))]:
            wrong.append(f"{text}: {', '.join(missing)} does not occur in the file")
    assert not wrong, "\n".join(wrong)


def test_names_in_a_remark_are_extracted() -> None:
    assert named("`Operations.begin_create`, asynchronous)") == ["Operations", "begin_create"]
    assert named("JobsAPI.get: path; `$top`)") == ["JobsAPI", "get", "top"]


def test_source_of_a_rule_that_does_not_exist_is_reported() -> None:
    entry = {"asynchronous": True, "sources": {"asynchronous": "Azure/AKS#1", "immutable": "Azure/AKS#1"}}
    found = list(yaml_files.of_entry("sandbox/arm/resource_types.yaml", entry, (), ""))
    assert [str(it) for it in found if isinstance(it, Fault)]
