"""`personalization new-stack`: the stack file of another region, without the secrets of the existing one."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.errors import UserError
from cli.main import app
from cli.stacks import files
from infra.config.former_names import RENAMED
from testing.stack.infra_graph import graph

LIKE = "prod-westeurope"
TEXT = """\
# Production, next to the users.
secretsprovider: azurekeyvault://prod-secrets.vault.azure.net/keys/pulumi
encryptedkey: AAEAAbbbb
encryptionsalt: v1:cccc=:v1:dddd
config:
  # The region with the most users.
  azure-native:location: "westeurope"  # agreed with legal
  personalization:environment: prod
  personalization:production: "true"
  access:deployers:
    00000000-0000-0000-0000-000000000001: ServicePrincipal  # the pipeline
  other:token:
    secure: v1:eeee
  other:nested:
    kept: yes
    password:
      secure: v1:ffff
  other:all-secret:
    first:
      secure: v1:gggg
    second:
      secure: v1:hhhh
  other:inline: {key: {secure: "v1:iiii"}, rest: 1}
  other:listed:
    - secure: v1:jjjj
  release:traffic_steps: [50, 100]
  serving:hostname: scores-westeurope.example.com
  serving:tls_certificate: of the pipeline
  serving:tls_key:
    secure: v1:kkkk
  training:snapshot: "2026-11-01"
  training:workers: 8  # as sized in March
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files.file_of(tmp_path, LIKE).write_text(TEXT)
    return tmp_path


def new_stack(folder: Path, *arguments: str) -> tuple[int, str]:
    command = ["new-stack", *arguments, "--like", LIKE, "--folder", str(folder)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    return done.exit_code, done.output


def test_all_but_region_and_secrets_is_copied_including_comments(folder: Path) -> None:
    code, said = new_stack(folder, "prod-swedencentral")
    assert code == 0, said
    written = (folder / "Pulumi.prod-swedencentral.yaml").read_text()
    begins = TEXT.index("encryptedkey"), TEXT.index("  other:"), TEXT.index("  release:")
    carried = TEXT[: begins[0]] + TEXT[TEXT.index("config:") : begins[1]] + "  other:nested:\n    kept: yes\n"
    rest = TEXT[begins[2] :].replace("  serving:tls_key:\n    secure: v1:kkkk\n", "")
    assert written == (carried + rest).replace('"westeurope"', "swedencentral")
    for path in ("token", "nested.password", "all-secret.first", "all-secret.second", "inline", "listed"):
        assert f"pulumi config set --stack prod-swedencentral --secret --path 'other:{path}'" in said
    assert "--secret --path 'serving:tls_key'" in said


def test_settings_that_often_differ_between_regions_are_listed(folder: Path) -> None:
    _, said = new_stack(folder, "prod-swedencentral")
    for key in ("access:deployers", "serving:hostname", "serving:tls_certificate", "training:snapshot"):
        assert f"review {key}: " in said
    assert "review release:traffic_steps" not in said
    assert "review personalization:production" not in said
    assert "personalization preflight --stack prod-swedencentral" in said


def test_new_stack_has_other_resource_names(folder: Path) -> None:
    new_stack(folder, "prod-swedencentral")

    def lake(stack: str) -> str:
        config = {key: value for key, value in files.read(folder, stack).items() if "tls" not in key}
        del config["serving:hostname"]  # whose key has to be set again
        found = graph(**config).of(":StorageAccount")
        return next(account.inputs["accountName"] for account in found if account.name == "lake")

    assert lake("prod-swedencentral") != lake(LIKE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("prod-swedencentrl",), r"'swedencentrl' is not a region .* Did you mean swedencentral.* --location"),
        (("canary", "--location", "west europe"), "'west europe' is not a region .* Did you mean westeurope"),
        ((LIKE,), "exists already"),
        (("../prod-swedencentral",), "cannot name a stack: use only letters"),
        ((f"{'p' * 88}-swedencentral",), "it has 102 characters, and at most 100 are allowed"),
        # Norway West has no zones, and the file asks for some.
        (("prod-norwaywest",), "Pulumi.prod-norwaywest.yaml: .*reliability:zones"),
    ],
)
def test_invalid_arguments_are_reported_and_write_no_file(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    path = files.file_of(folder, LIKE)
    path.write_text(TEXT + '  reliability:zones: ["1", "2"]\n')
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match=f"(?s){says}"):
        new_stack(folder, *arguments)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_date_is_parsed_as_the_engine_parses_it(folder: Path) -> None:
    path = files.file_of(folder, LIKE)
    path.write_text(TEXT.replace('"2026-11-01"', "2026-11-01"))
    assert files.read(folder, LIKE)["training:snapshot"] == "2026-11-01 00:00:00 +0000 UTC"
    new_stack(folder, "prod-swedencentral")


def test_missing_stack_is_reported_with_the_existing_ones(folder: Path) -> None:
    with pytest.raises(UserError, match=f"Stacks here: {LIKE}"):
        files.create(folder, "prod-swedencentral", "prod-westerope", None)


def test_file_written_meanwhile_is_not_overwritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = folder / "Pulumi.prod-swedencentral.yaml", os.link

    def too_late(source: Path, target: Path) -> None:
        path.write_text("theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", too_late)
    with pytest.raises(UserError, match="exists already"):
        files.create(folder, "prod-swedencentral", LIKE, None)
    assert path.read_text() == "theirs"
    assert sorted(file.name for file in folder.iterdir()) == [path.name, f"Pulumi.{LIKE}.yaml"]


def test_stack_name_may_lack_the_region(folder: Path) -> None:
    code, said = new_stack(folder, "canary", "--location", "uksouth")
    assert code == 0, said
    assert files.read(folder, "acme/personalization/canary")[files.LOCATION] == "uksouth"


def test_stack_name_before_the_region_is_the_environment(folder: Path) -> None:
    code, said = new_stack(folder, "qa1-swedencentral")
    assert code == 0, said
    assert files.read(folder, "qa1-swedencentral")["personalization:environment"] == "qa1"
    assert "in swedencentral, environment qa1" in said
    assert "review personalization:environment" not in said
    assert "review personalization:production: true, as in prod-westeurope: it decides on protection" in said


@pytest.mark.parametrize("arguments", [("canary", "--location", "uksouth"), ("blue-green-uksouth",)])
def test_environment_missing_in_the_name_is_copied_and_listed(folder: Path, arguments: tuple[str, ...]) -> None:
    code, said = new_stack(folder, *arguments)
    assert code == 0, said
    assert files.read(folder, arguments[0])["personalization:environment"] == "prod"
    assert "review personalization:environment: prod, as in prod-westeurope" in said
    assert "review personalization:production: true, as in prod-westeurope" in said


@pytest.mark.parametrize(("former", "present"), RENAMED.items())
def test_former_names_of_settings_become_present_ones(folder: Path, former: str, present: str) -> None:
    path, snapshot = files.file_of(folder, LIKE), '  training:snapshot: "2026-11-01"\n'
    path.write_text(TEXT.replace("  release:traffic_steps: [50, 100]\n", "").replace(snapshot, ""))
    value = {"budget:thresholds_percent": "[80]", "release:traffic_steps": "[5, 100]", "training:local_data": "rows"}
    with path.open("a") as file:
        file.write(f"  {former}: {value.get(present, '0.2' if 'minutes' not in present else '60')}  # kept\n")
        file.write("" if present == "training:local_data" else snapshot)
    code, said = new_stack(folder, "prod-swedencentral")
    assert code == 0, said
    written = (folder / "Pulumi.prod-swedencentral.yaml").read_text()
    assert f"  {present}: " in written
    assert former not in written.replace(present, "")
    assert "# kept" in written


def test_keys_may_have_any_spelling_that_pulumi_accepts(folder: Path) -> None:
    path, text = files.file_of(folder, LIKE), TEXT.replace("personalization:environment", "environment")
    for namespace in ("azure-native", "personalization", "serving"):
        text = text.replace(f"  {namespace}:", f"  {namespace}:config:")
    path.write_text(text.replace("release:traffic_steps", "release:config:rollout"))
    code, said = new_stack(folder, "qa-swedencentral")
    assert code == 0, said
    written = files.file_of(folder, "qa-swedencentral").read_text()
    assert "  release:traffic_steps: [50, 100]\n" in written
    assert "rollout" not in written
    config = files.read(folder, "qa-swedencentral")
    assert (config[files.LOCATION], config["personalization:environment"]) == ("swedencentral", "qa")
    assert "set again: pulumi config set --stack qa-swedencentral --secret --path 'serving:tls_key'" in said


def test_setting_under_both_names_is_refused_in_any_spelling(folder: Path) -> None:
    with files.file_of(folder, LIKE).open("a") as file:
        file.write("  release:config:rollout: [5, 100]\n")
    with pytest.raises(UserError, match="release:rollout: is the former name of release:traffic_steps, which is also"):
        new_stack(folder, "prod-swedencentral")
    assert files.names(folder) == [LIKE]


def test_file_without_the_production_setting_is_refused(folder: Path) -> None:
    path = files.file_of(folder, LIKE)
    path.write_text(TEXT.replace('  personalization:production: "true"\n', ""))
    with pytest.raises(UserError, match=rf"{path.name} has no personalization:production: set it there first"):
        new_stack(folder, "prod-swedencentral")
