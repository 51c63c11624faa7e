"""The pages in docs/reference are current and complete."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from cli.paths import PROJECT
from cli.reference import COMMAND, FOLDER, PAGES, commands, configuration, http_api
from infra.config.former_names import RENAMED
from infra.config.loading import load
from infra.config.settings import OF_THE_PROJECT, Settings
from scoring.settings import Settings as ScoringSettings
from testing.certificates import pem

SETTINGS = [setting for group in configuration.groups().values() for setting in group]
RELEASE = {"training:snapshot": "2026-11-26", "access:deployers": '{"1": "User"}', "release:enabled": "true"}
RUNNER = {
    "network:mode": "private",
    "runner:repository": "octo-org/personalization",
    "runner:app": "1",
    "runner:installation": "2",
    "runner:ssh_key": "ssh-ed25519 AAAA",
}
TLS = ("serving:hostname", "serving:tls_certificate", "serving:tls_key")


def committed(name: str) -> str:
    return (FOLDER / name).read_text()


@pytest.mark.parametrize("name", PAGES)
def test_reference_page_is_current(name: str) -> None:
    assert committed(name) == PAGES[name](), f"run `{COMMAND}` and commit docs/reference/{name}"


def test_links_lead_to_files_or_headings() -> None:
    for name in PAGES:
        headings = {
            re.sub(r"[^a-z0-9 _-]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in committed(name).splitlines()
            if line.startswith("#")
        }
        links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", committed(name))
        assert links
        for file, heading in links:
            assert not file or (FOLDER / file).exists(), f"{name}: {file}"
            assert file or heading in headings, f"{name}: #{heading}"


def test_pages_do_not_depend_on_the_terminal_or_the_folder() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from cli.reference import commands; print(commands.page(), end='')"],
        env={"COLUMNS": "40", "PYTHONPATH": str(PROJECT), "TERM": "dumb"},
        cwd=PROJECT.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == committed("cli.md")
    assert not any(str(PROJECT) in committed(name) for name in PAGES)


def test_every_setting_is_on_its_page() -> None:
    keys = {"azure-native:location", "tags:<name>", *(f"personalization:{name}" for name in OF_THE_PROJECT)}
    for name, field in Settings.model_fields.items():
        keys |= {f"{name}:{key}" for key in getattr(field.annotation, "model_fields", {})}
    assert len(keys) > 70
    rows = re.findall(r"^\| `([^`]+)` \| .* \| .* \| .* \| (.+) \|$", committed("configuration.md"), re.MULTILINE)
    described = {key for key, description in rows if description.strip()}
    assert described == keys


@pytest.mark.parametrize(("former", "present"), RENAMED.items())
def test_renamed_setting_is_listed_with_its_former_name(former: str, present: str) -> None:
    page = committed("configuration.md")
    assert re.search(rf"^\| `{present}` \| .* Formerly `{former}`\. \|$", page, re.MULTILINE)
    assert f"| `{former}` | `{present}` |" in page


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_example_of_a_setting_is_accepted_and_differs_from_the_default(setting: configuration.Setting) -> None:
    example = configuration.example(setting)
    ((key, text),) = example.items()
    if key in TLS:
        certificate, private = pem("scores.example.com")
        example = dict(zip(TLS, ("scores.example.com", certificate, private), strict=True))
    elif text.startswith("$("):
        example = {key: "ssh-ed25519 AAAA"}
    settings = load({**companions(key), **example}, configuration.PROJECT)
    assert settings.model_dump() != load({**companions(key)}, configuration.PROJECT).model_dump() or key in (
        *configuration.NEEDED,
        "network:address_space",  # the example is the default
        "training:spark_version",  # one runtime is supported
        "runner:repository",
        "runner:ssh_key",
    )


def companions(key: str) -> dict[str, str]:
    """Return the settings that a setting needs in addition to the smallest configuration."""
    needed = dict(configuration.NEEDED)
    if key.startswith("runner:"):
        needed |= RUNNER
    if key.startswith("budget:"):
        needed |= {"alerts:emails": '["a@example.com"]'}
    if key == "serving:replicas_min":
        needed |= {"serving:nodes_max": "4"}
    if key == "training:spot":
        needed |= {"training:workers": "1"}
    if key == "release:enabled":
        needed |= RELEASE
    return needed


@pytest.mark.parametrize("config", configuration.COMBINATIONS, ids=lambda config: " ".join(config))
def test_combination_on_the_page_is_refused_for_one_reason(config: Mapping[str, str]) -> None:
    assert len(configuration.refused(config)) == 1


def test_patterns_are_described_in_words() -> None:
    assert "pattern `" not in committed("configuration.md")


def test_every_command_argument_and_option_is_on_the_page_with_a_help_text() -> None:
    sections = dict(
        re.findall(r"^## personalization (\S+)\n(.*?)(?=^## |\Z)", committed("cli.md"), re.MULTILINE | re.S)
    )
    visible = commands.commands()
    assert list(sections) == list(visible)
    assert len(visible) > 15
    for name, command in visible.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"
            named = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name.upper()
            assert named in sections[name], f"{name} {named}"


class Recorded(Mapping[str, str]):
    """An environment that records which variables are read."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        if name == "AZUREML_MODEL_DIR":
            return "/model"
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def test_every_variable_that_the_service_reads_is_on_its_page() -> None:
    environment = Recorded()
    ScoringSettings.from_environment(environment)
    page = committed("scoring-environment.md")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == environment.names
    elsewhere = {
        name
        for path in (PROJECT / "scoring").rglob("*.py")
        for name in re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", path.read_text())
    }
    assert elsewhere - {"SPARK_LOCAL_IP", "PYTHONPATH"} == {"JAVA_HOME"}  # the others are set by the service itself
    assert "`JAVA_HOME`" in page


def test_every_route_status_and_member_is_on_the_page_and_has_an_example() -> None:
    page, api = committed("http-api.md"), http_api.openapi()
    operations = list(http_api.operations(api))
    assert {(method, path) for method, path, _, _ in operations} == set(http_api.EXAMPLES)
    for method, path, operation, _ in operations:
        assert f"## {method.upper()} {path}\n" in page
        for status in operation["responses"]:
            assert f"\n| {status} | " in page
    for name, schema in api["components"]["schemas"].items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for member in schema["properties"]:
            assert f"| `{member}` |" in section


def test_service_accepts_the_requests_of_the_examples() -> None:
    parser, parsed = http_api.parser(), 0
    for example in http_api.EXAMPLES["post", "/score"]:
        parser.parse(json.dumps(example.body).encode())
        parsed += 1
    assert parsed == 2
