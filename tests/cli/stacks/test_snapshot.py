"""`personalization select-snapshot`: the snapshot that a stack trains on next."""

import datetime
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import pulumi_cli
from cli.errors import UserError
from cli.stacks import files, snapshot, state
from testing.sandbox.data import Served
from testing.sandbox.databricks import trusted
from testing.sandbox.process import in_environment

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


@dataclass
class Stack:
    """A stack of the real CLI, with a lake in the sandbox."""

    folder: Path
    lake: Served

    @property
    def file(self) -> Path:
        return self.folder / "Pulumi.dev.yaml"

    @property
    def rows(self) -> Path:
        """Folder of the dataset's days in the lake."""
        return self.lake.sandbox.container_folder("lake", "raw") / "movielens"

    def land(self, *days: str) -> None:
        for day in days:
            (self.rows / day).mkdir(parents=True)
            (self.rows / day / "ml-100k.inter").write_text("rows")

    def record_training(self, trained: str) -> None:
        """Record the outputs of an `up` that trained on this snapshot."""
        resource = {
            "urn": "urn:pulumi:dev::personalization::pulumi:pulumi:Stack::personalization-dev",
            "type": "pulumi:pulumi:Stack",
            "outputs": {"lake_blob_endpoint": f"{self.lake.sandbox.url}/blob/lake", "training_snapshot": trained},
        }
        state_file = self.folder / "state.json"
        state_file.write_text(json.dumps({"version": 3, "deployment": {"resources": [resource]}}))
        pulumi_cli.output(self.folder, "stack", "import", "--stack", "dev", "--file", str(state_file), failure="import")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, in_environment(running.login):
        running.assign(running.account("lake", "raw"), running.sandbox.identity.object_id)
        yield running


@pytest.fixture
def stack(tmp_path: Path, lake: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack without an `up`."""
    stack = Stack(tmp_path, lake)
    (tmp_path / "Pulumi.yaml").write_text("name: personalization\nruntime: python\n")
    stack.file.write_text("# why\nconfig:\n  training:snapshot: 2026-11-01\n")
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "x")
    pulumi_cli.output(tmp_path, "stack", "init", "dev", failure="no stack")
    yield stack
    shutil.rmtree(stack.rows, ignore_errors=True)


def test_stack_file_is_written_only_if_the_snapshot_changes(stack: Stack) -> None:
    before = stack.file.read_text()
    assert snapshot.update(stack.folder, "dev", landed=False, today=TODAY) == "dev: training:snapshot is 2026-11-01"
    assert stack.file.read_text() == before
    stack.record_training("2026-11-24")
    stack.land("2026-11-24", "2026-11-26")
    snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert files.read(stack.folder, "dev")["training:snapshot"] == "2026-11-26"
    assert "# why" in stack.file.read_text()


@pytest.mark.parametrize("key", ["training:local_data", "training:data"])
def test_stack_that_trains_on_local_files_keeps_them(stack: Stack, key: str) -> None:
    """The settings refuse a snapshot next to `training:local_data`."""
    stack.file.write_text(f"config:\n  {key}: ./rows\n")
    before = stack.file.read_text()
    stack.record_training("0f1e2d3c4b5a6978")
    assert "training:local_data" in snapshot.update(stack.folder, "dev", landed=False, today=TODAY)
    assert stack.file.read_text() == before


def test_lake_without_a_later_snapshot_is_reported(stack: Stack) -> None:
    stack.record_training("2026-11-24")
    line = snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert line == "dev: the lake has no later snapshot by 2026-11-26 than 2026-11-24, which is trained already"


def test_stack_without_a_release_does_not_read_its_lake(stack: Stack) -> None:
    """A private lake would refuse a caller from outside the network."""
    stack.file.write_text("config:\n  training:snapshot: 2026-11-01\n  release:enabled: 'false'\n")
    before = stack.file.read_text()
    assert "has no release" in snapshot.update(stack.folder, "dev", landed=True, today=TODAY)
    assert stack.file.read_text() == before


def test_stack_without_a_lake_is_an_error(stack: Stack) -> None:
    with pytest.raises(UserError, match="stack dev has no lake yet"):
        snapshot.update(stack.folder, "dev", landed=True, today=TODAY)


def test_outputs_of_a_stack_without_up_and_of_a_missing_stack_are_empty(stack: Stack) -> None:
    assert state.outputs(stack.folder, "dev") == {}
    assert state.outputs(stack.folder, "never", missing_ok=True) == {}
    with pytest.raises(UserError, match="the outputs of stack never cannot be read"):
        state.outputs(stack.folder, "never")
