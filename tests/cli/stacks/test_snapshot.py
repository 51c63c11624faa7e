"""`personalization select-snapshot`: the snapshot that a stack trains on next."""

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import pulumi_cli
from cli.errors import UserError
from cli.stacks import files, snapshot, state

TODAY = datetime.date(2026, 11, 26)


@pytest.mark.parametrize(
    ("in_file", "trained", "landed", "chosen"),
    [
        pytest.param("2026-11-24", None, [], "2026-11-24", id="new stack takes the file's"),
        pytest.param("2026-11-01", "2026-11-25", [], "2026-11-25", id="never older than the last training"),
        pytest.param("2026-11-26", "2026-11-25", [], "2026-11-26", id="file is newer"),
        pytest.param("2026-11-01", "2026-11-25", ["2026-11-25", "2026-11-26"], "2026-11-26", id="new day in the lake"),
        pytest.param("2026-11-01", "2026-11-23", ["2026-11-24", "2026-11-25"], "2026-11-25", id="days were missed"),
        pytest.param("2026-11-01", "2026-11-25", ["2026-11-25"], "2026-11-25", id="nothing new in the lake"),
        pytest.param("2026-11-01", "2026-11-25", ["2026-11-27"], "2026-11-25", id="future days are ignored"),
        pytest.param("first", "first", ["2026-11-25"], "2026-11-25", id="a day replaces another name"),
        pytest.param("second", "first", ["other", "20261125"], "second", id="without days the file's"),
        pytest.param(None, None, [], None, id="no snapshot anywhere"),
    ],
)
def test_latest_snapshot_is_chosen(
    in_file: str | None, trained: str | None, landed: list[str], chosen: str | None
) -> None:
    assert snapshot.choose(in_file, trained, landed, TODAY) == chosen


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stack file, written by the real CLI, with stand-ins for the stack's outputs and the lake's folders."""
    (tmp_path / "Pulumi.yaml").write_text("name: personalization\nruntime: python\n")
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text("# why\nconfig:\n  training:snapshot: 2026-11-01\n")
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "x")
    pulumi_cli.output(tmp_path, "stack", "init", "dev", failure="no stack")
    stack = SimpleNamespace(folder=tmp_path, file=file, outputs={}, landed=[])

    class Container:
        def walk_blobs(self, name_starts_with: str, delimiter: str) -> list[Any]:
            return [SimpleNamespace(name=f"{name_starts_with}{name}{delimiter}") for name in stack.landed]

    blobs = SimpleNamespace(get_container_client=lambda name: Container())
    monkeypatch.setattr(snapshot.AzureClients, "discover", lambda: SimpleNamespace(blobs=lambda endpoint: blobs))
    monkeypatch.setattr(state, "outputs", lambda folder, name, *, missing_ok: stack.outputs)
    return stack


def test_stack_file_is_written_only_if_the_snapshot_changes(stack: SimpleNamespace) -> None:
    before = stack.file.read_text()
    assert snapshot.update(stack.folder, "dev", landed=False, today=TODAY) == "dev: training:snapshot is 2026-11-01"
    assert stack.file.read_text() == before
    stack.outputs = {"lake_blob_endpoint": "https://lake", "training_snapshot": "2026-11-24"}
    stack.landed = ["2026-11-24", "2026-11-26"]
    snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert files.read(stack.folder, "dev")["training:snapshot"] == "2026-11-26"
    assert "# why" in stack.file.read_text()


@pytest.mark.parametrize("key", ["training:local_data", "training:data"])
def test_stack_that_trains_on_local_files_keeps_them(stack: SimpleNamespace, key: str) -> None:
    """The settings refuse a snapshot next to `training:local_data`."""
    stack.file.write_text(f"config:\n  {key}: ./rows\n")
    before = stack.file.read_text()
    stack.outputs = {"lake_blob_endpoint": "https://lake", "training_snapshot": "0f1e2d3c4b5a6978"}
    assert "training:local_data" in snapshot.update(stack.folder, "dev", landed=False, today=TODAY)
    assert stack.file.read_text() == before


def test_lake_without_a_later_snapshot_is_reported(stack: SimpleNamespace) -> None:
    stack.outputs = {"lake_blob_endpoint": "https://lake", "training_snapshot": "2026-11-24"}
    line = snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert line == "dev: the lake has no later snapshot by 2026-11-26 than 2026-11-24, which is trained already"


def test_stack_without_a_release_does_not_read_its_lake(stack: SimpleNamespace) -> None:
    """A private lake would refuse a caller from outside the network."""
    stack.file.write_text("config:\n  training:snapshot: 2026-11-01\n  release:enabled: 'false'\n")
    before = stack.file.read_text()
    assert "has no release" in snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert stack.file.read_text() == before


def test_stack_without_a_lake_is_an_error(stack: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="stack dev has no lake yet"):
        snapshot.update(stack.folder, "dev", landed=True, today=TODAY)


def test_outputs_of_a_stack_without_up_and_of_a_missing_stack_are_empty(
    stack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{stack.folder}")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "x")
    assert state.outputs(stack.folder, "dev") == {}
    assert state.outputs(stack.folder, "never", missing_ok=True) == {}
    with pytest.raises(UserError, match="the outputs of stack never cannot be read"):
        state.outputs(stack.folder, "never")
