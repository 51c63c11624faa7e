"""Earlier names of renamed commands work with a warning, and are not offered in the help."""

from pathlib import Path

import pytest
import typer

from cli import main
from testing.command_line import personalization


@pytest.mark.parametrize(
    ("earlier", "present", "arguments"),
    [
        ("snapshot", "select-snapshot", ("--stack", "none", "--folder", "{folder}")),
        ("evaluate", "cross-validate", ("--dataset", "none", "{folder}")),
        ("report", "change-report", ("{folder}/none.json",)),
        ("open", "dashboard", ("local", "--state", "{folder}")),
    ],
)
def test_former_command_name_warns_and_runs_the_command(
    earlier: str, present: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    options = [argument.format(folder=tmp_path) for argument in arguments]
    old, new = personalization(earlier, *options), personalization(present, *options)
    warning, _, rest = old.stderr.partition("\n")
    assert warning == (
        f"warning: `personalization {earlier}` is deprecated and will be removed in the next release; "
        f"use `personalization {present}`"
    )
    assert (old.returncode, old.stdout, rest) == (new.returncode, new.stdout, new.stderr)
    assert new.stderr.startswith("error: ")
    assert main.RENAMED[earlier] == present


def test_every_renamed_command_is_hidden_and_has_the_options_of_its_present_name() -> None:
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    assert len(main.RENAMED) == 4
    for earlier, present in main.RENAMED.items():
        assert commands[earlier].hidden
        assert not commands[present].hidden
        assert [parameter.opts for parameter in commands[earlier].params] == [
            parameter.opts for parameter in commands[present].params
        ]
