"""A local run with a damaged file or a dead sandbox: its messages, and that `local-down` can always remove it."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from cli.errors import UserError
from cli.local_run import command, sandbox, supervised_process
from cli.local_run.engine import CloudEnded, Engine
from cli.local_run.run_directory import FORCE, RunDirectory
from testing.command_line import personalization
from testing.sandbox.process import is_alive, running_sandbox, sandbox_command
from testing.waiting import eventually

BACKEND = "pulumi/backend/.pulumi"
RUN = {"dataset": "criteo", "data": "/rows", "outputs": {}}
MAKE = """
    import sys
    from pathlib import Path
    from cli.local_run import sandbox
    from cli.local_run.engine import Engine
    from cli.local_run.run_directory import RunDirectory
    state = RunDirectory(Path(sys.argv[1]))
    with state.locked():
        engine = Engine(state.folder, sandbox.start(state.sandbox, None), state.sandbox)
        engine.configure({})
        engine.select()
        sandbox.stop(state.sandbox)
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a stopped sandbox and a stack without resources."""
    folder = tmp_path_factory.mktemp("run") / "state"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(MAKE), folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "run.json").write_text(json.dumps(RUN))
    return folder


@pytest.fixture
def state(stopped: Path, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(stopped, tmp_path / "state")))


def down(state: RunDirectory, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = personalization("local-down", "--state", str(state.folder), *arguments)
    assert "Traceback" not in done.stderr
    return done


def assert_removed(state: RunDirectory) -> None:
    assert list(state.folder.iterdir()) == []
    commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert [words for words in commands if str(state.folder) in " ".join(words or [])] == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("Pulumi.local.yaml", "config:\n  azure"), ("engine.json", '{"session"'), (f"{BACKEND}/meta.yaml", "")],
)
def test_local_down_ignores_damage_of_files_that_it_does_not_need(state: RunDirectory, name: str, content: str) -> None:
    (state.folder / name).write_text(content)
    for log in ("pulumi-up.log", "engine-events.json", "run.json.partial"):
        (state.folder / log).touch()
    done = down(state)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"the run is removed from {state.folder}" in done.stdout
    assert_removed(state)


@pytest.mark.parametrize("name", [f"{BACKEND}/stacks/personalization/local.json", "sandbox/environment.json"])
def test_local_down_names_a_damaged_file_and_removes_the_run_with_force(state: RunDirectory, name: str) -> None:
    (state.folder / name).write_text("{")
    done = down(state)
    assert done.returncode == 1
    assert f"{state.folder / name} cannot be read" in done.stderr
    assert FORCE in done.stderr
    assert down(state, "--force").returncode == 0
    assert_removed(state)


def test_local_down_with_force_ends_a_sandbox_without_a_lock_file(state: RunDirectory) -> None:
    assert sandbox_command("start", state.sandbox).returncode == 0
    server = int((state.sandbox / "lock").read_text())
    (state.sandbox / "lock").unlink()
    assert down(state, "--force").returncode == 0
    assert not is_alive(server)
    assert_removed(state)


def test_local_down_without_pulumi_needs_a_confirmation(state: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, str]:
        raise ValueError("noise")

    monkeypatch.setattr(sandbox, "start", broken)
    problems: list[str] = []
    with pytest.raises(UserError, match=r"cannot be destroyed: ValueError: noise\n`make local-down FORCE=1`"):
        command.down(state, print)
    command.down(state, print, confirm=lambda problem: not problems.append(problem))
    assert problems == ["the stack cannot be destroyed: ValueError: noise"]
    assert_removed(state)


def test_local_names_the_damaged_file_of_a_sandbox_and_the_remedy(state: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1\t2\n")
    (state.sandbox / "resources.sqlite").write_bytes(b"noise" * 999)
    arguments = ("--dataset", "criteo", "--data", f"{tmp_path}/train.txt", "--state", str(state.folder))
    done = personalization("local", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {state.sandbox}/resources.sqlite cannot be read: ")
    assert done.stderr.strip().endswith(f"For a local run: {FORCE}.")


@pytest.mark.parametrize(("damaged", "gone"), [(True, False), (False, True)])
def test_damaged_pulumi_state_is_named_with_its_backup(tmp_path: Path, damaged: bool, gone: bool) -> None:
    stack = tmp_path / BACKEND / "stacks" / "personalization"
    stack.mkdir(parents=True)
    (stack / "local.json.bak").write_text('{"version": 3, "checkpoint": {}}')
    if damaged:
        (stack / "local.json").write_text('{"version": 3, "chec')
    engine = Engine(tmp_path, os.environ)
    copy = f"cp '{stack}/local.json.bak' '{stack}/local.json'"
    with pytest.raises(UserError, match=f"{stack}/local.json {'is missing' if gone else 'cannot be read'}") as error:
        engine.select()
    assert copy in str(error.value)
    assert FORCE in str(error.value)
    (stack / "local.json.bak").write_text("")
    with pytest.raises(UserError) as error:
        engine.select()
    assert copy not in str(error.value)


@pytest.mark.parametrize("content", ["", '{"dataset"', "{}", "[]"])
def test_damaged_record_of_the_run_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=rf"{tmp_path}/run.json cannot be read: .*`make local` writes it again"):
        RunDirectory(tmp_path).recorded()


def test_score_reports_a_missing_endpoint(state: RunDirectory) -> None:
    missing = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
    outputs = {"deployment": "m1", "ml_workspace_id": missing, "endpoint_name": "e", "scoring_uri": "https://127.0.0.1"}
    state.record.write_text(json.dumps({**RUN, "outputs": outputs}))
    done = personalization("score", "{}", "--state", str(state.folder))
    assert sandbox_command("stop", state.sandbox).returncode == 0
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "error: unexpected answer from the cloud: ResourceNotFoundError: " in done.stderr


@pytest.mark.parametrize("command", ["local", "local-down"])
def test_missing_mark_is_reported_with_the_remedy(state: RunDirectory, command: str) -> None:
    (state.folder / ".personalization-local").unlink()
    done = personalization(command, "--state", str(state.folder))
    assert done.returncode == 1
    assert f"`touch '{state.folder}/.personalization-local'`" in done.stderr


def test_engine_of_a_killed_run_is_ended_without_a_readable_record(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import time; time.sleep(60)", "--event-log", f"{tmp_path}/engine-events.json"]
    record = tmp_path / "engine.json"
    left = supervised_process.start(words, environment=os.environ, folder=tmp_path, log=tmp_path / "log", record=record)
    record.write_text("")
    assert supervised_process.end_leftovers(record, argument=f"{tmp_path}/engine-events.json") == [left.pid]
    assert not is_alive(left.pid)
    assert supervised_process.end_leftovers(record, argument=f"{tmp_path}/engine-events.json") == []


def test_end_of_the_sandbox_is_reported_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pulumi = tmp_path / "bin" / "pulumi"
    pulumi.parent.mkdir()
    pulumi.write_text(f"#!/bin/sh\ntouch {tmp_path}/began\nexec sleep 60.125\n")
    pulumi.chmod(0o755)
    with running_sandbox(tmp_path / "sandbox") as cloud, contextlib.ExitStack() as later:
        environment = {**os.environ, "PATH": f"{pulumi.parent}:{os.environ['PATH']}"}
        engine = Engine(tmp_path, environment, cloud.folder)
        script = f"until [ -e {tmp_path}/began ]; do sleep 0.1; done; kill -9 {cloud.pid}"
        killer = subprocess.Popen(["sh", "-c", script])
        later.callback(killer.wait)
        began = time.monotonic()
        with pytest.raises(CloudEnded, match=f"the sandbox has ended.* {cloud.folder}/sandbox.log"):
            engine.up(lambda stage: None)
        assert time.monotonic() - began < 15
    eventually(lambda: [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "60.125"]] == [])


def test_interrupted_removal_leaves_no_partial_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = RunDirectory(tmp_path)
    (state.sandbox / "identity").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(UserError, match=rf"could not be removed: {tmp_path}/sandbox.partial"):
            state.clear()
    assert not state.sandbox.exists()
    state.clear()
    assert list(tmp_path.iterdir()) == []


def test_new_state_folder_is_accessible_only_to_its_owner(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "state").locked():
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
