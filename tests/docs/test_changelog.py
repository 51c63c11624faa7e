"""CHANGELOG.md names settings that exist, and every setting that was removed or renamed."""

import re
from pathlib import Path

from infra.config.former_names import REMOVED, RENAMED
from infra.config.settings import Settings

ENTRIES, _, REMOVED_ENTRIES = (Path(__file__).parents[2] / "CHANGELOG.md").read_text().partition("### Removed")


def test_settings_of_the_changelog_exist() -> None:
    settings = re.findall(r"`(serving|release|runner|quality|training):([a-z_0-9]+)`", ENTRIES)
    assert len(settings) > 8
    for group, name in settings:
        if f"{group}:{name}" in RENAMED:
            continue
        assert name in type(Settings.model_fields[group].default).model_fields, f"{group}:{name}"


def test_every_renamed_setting_is_in_the_changelog_with_its_present_name() -> None:
    for former, present in RENAMED.items():
        assert f"- `{former}` is `{present}`." in ENTRIES


def test_every_removed_setting_is_in_the_changelog() -> None:
    assert set(re.findall(r"^- `([a-z]+:[a-z_]+)`", REMOVED_ENTRIES, re.MULTILINE)) >= REMOVED.keys()
