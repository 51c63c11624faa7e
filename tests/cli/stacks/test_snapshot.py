"""Which rows a stack trains on as days go by."""

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.errors import UserError
from cli.stacks import files, snapshot, state

TODAY = datetime.date(2026, 11, 26)


@pytest.mark.parametrize(
    ("in_file", "trained", "landed", "chosen"),
    [
        pytest.param("2026-11-24", None, [], "2026-11-24", id="a new stack begins with its file's"),
        pytest.param("2026-11-01", "2026-11-25", [], "2026-11-25", id="a deployment never goes back"),
        pytest.param("2026-11-26", "2026-11-25", [], "2026-11-26", id="a file may be ahead"),
        pytest.param("2026-11-01", "2026-11-25", ["2026-11-25", "2026-11-26"], "2026-11-26", id="the day has landed"),
        pytest.param("2026-11-01", "2026-11-23", ["2026-11-24", "2026-11-25"], "2026-11-25", id="a day was missed"),
        pytest.param("2026-11-01", "2026-11-25", ["2026-11-25"], "2026-11-25", id="nothing has landed"),
        pytest.param("2026-11-01", "2026-11-25", ["2026-11-27"], "2026-11-25", id="tomorrow's are not taken"),
        pytest.param("first", "first", ["2026-11-25"], "2026-11-25", id="days follow what was no day"),
        pytest.param("second", "first", ["other", "20261125"], "second", id="without days the file decides"),
        pytest.param(None, None, [], None, id="nothing at all"),
    ],
)
def test_rows_go_forward_with_the_days(
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
    state.ask(tmp_path, "no stack", "stack", "init", "dev")
    said = SimpleNamespace(folder=tmp_path, file=file, outputs={}, landed=[])

    class Container:
        def walk_blobs(self, name_starts_with: str, delimiter: str) -> list[Any]:
            return [SimpleNamespace(name=f"{name_starts_with}{name}{delimiter}") for name in said.landed]

    blobs = SimpleNamespace(get_container_client=lambda name: Container())
    monkeypatch.setattr(snapshot.AzureClients, "discover", lambda: SimpleNamespace(blobs=lambda endpoint: blobs))
    monkeypatch.setattr(snapshot, "_outputs", lambda folder, stack: said.outputs)
    return said


def test_the_file_is_written_only_where_the_rows_are_others(stack: SimpleNamespace) -> None:
    before = stack.file.read_text()
    assert snapshot.update(stack.folder, "dev", landed=False, today=TODAY) == "dev: training:snapshot is 2026-11-01"
    assert stack.file.read_text() == before
    stack.outputs = {"lake_blob_endpoint": "https://lake", "training_snapshot": "2026-11-24"}
    stack.landed = ["2026-11-24", "2026-11-26"]
    snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert files.read(stack.folder, "dev")["training:snapshot"] == "2026-11-26"
    assert "# why" in stack.file.read_text()


@pytest.mark.parametrize("key", ["training:local_data", "training:data"])
def test_a_stack_of_local_files_keeps_to_them(stack: SimpleNamespace, key: str) -> None:
    """A snapshot beside them would be refused."""
    stack.file.write_text(f"config:\n  {key}: ./rows\n")
    before = stack.file.read_text()
    stack.outputs = {"lake_blob_endpoint": "https://lake", "training_snapshot": "0f1e2d3c4b5a6978"}
    assert "training:local_data" in snapshot.update(stack.folder, "dev", landed=False, today=TODAY)
    assert stack.file.read_text() == before


def test_a_day_without_rows_says_so(stack: SimpleNamespace) -> None:
    stack.outputs = {"lake_blob_endpoint": "https://lake", "training_snapshot": "2026-11-24"}
    said = snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert said == ("dev: nothing later than 2026-11-24 has landed by 2026-11-26; it has been trained on already")


def test_a_stack_without_a_release_does_not_ask_its_lake(stack: SimpleNamespace) -> None:
    """A private lake would refuse a caller from outside the network."""
    stack.file.write_text("config:\n  training:snapshot: 2026-11-01\n  release:enabled: 'false'\n")
    before = stack.file.read_text()
    assert "has no release" in snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert stack.file.read_text() == before


def test_a_stack_that_does_not_stand_has_no_rows_to_look_for(stack: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="stack dev has no lake yet"):
        snapshot.update(stack.folder, "dev", landed=True, today=TODAY)


def test_outputs_are_the_stack_s_own_and_none_where_there_is_no_such_stack(
    stack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{stack.folder}")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "x")
    assert snapshot._outputs(stack.folder, "dev") == {}
    assert snapshot._outputs(stack.folder, "never") == {}
