"""The container engine for tests: a clear reason if there is none, and no other program is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import container_engine
from tools.steps import ROOT


def test_command_runs_without_an_engine_and_the_reason_is_printed(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("CONTAINER_ENGINE", None)
    shown = "import os; print(os.environ.get('CONTAINER_ENGINE'))"
    command = [sys.executable, "-m", "tools.container_engine", "run", sys.executable, "-c", shown]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "None\n")
    assert "no container engine: there is no `docker` command" in done.stderr


def test_command_exit_code_is_passed_on(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tools.container_engine", "run", sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 7


@pytest.mark.parametrize("content", ["", '{"process": 1'])
def test_engine_with_a_truncated_record_is_removed(tmp_path: Path, content: str) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "engine.json").write_text(content)
    container_engine.stop(tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_reused_process_id_is_not_killed(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        state = {"process": stranger.pid, "address": "unix:///nowhere.sock", "arguments": {}}
        (tmp_path / "engine").mkdir()
        (tmp_path / "engine" / "engine.json").write_text(json.dumps(state))
        container_engine.stop(tmp_path / "engine")
        assert stranger.poll() is None
        assert not (tmp_path / "engine").exists()
    finally:
        stranger.kill()
        stranger.wait()
