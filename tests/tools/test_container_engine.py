"""The engine that tests bring along: said where there can be none, and never another program's end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import container_engine
from tools.steps import ROOT


def test_without_an_engine_the_reason_is_said_and_the_command_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("CONTAINER_ENGINE", None)
    shown = "import os; print(os.environ.get('CONTAINER_ENGINE'))"
    command = [sys.executable, "-m", "tools.container_engine", "run", sys.executable, "-c", shown]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "None\n")
    assert "no container engine: there is no `docker` command" in done.stderr


def test_the_commands_exit_code_is_passed_on(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tools.container_engine", "run", sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 7


@pytest.mark.parametrize("content", ["", '{"process": 1'])
def test_an_engine_whose_record_is_cut_short_is_removed(tmp_path: Path, content: str) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "engine.json").write_text(content)
    container_engine.stop(tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_process_id_that_another_program_has_got_is_left_alone(tmp_path: Path) -> None:
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
