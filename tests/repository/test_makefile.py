"""The Makefile: what a target runs, and that a failure is passed on."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.steps import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the real Makefile, nothing to prepare, and programs that print their own arguments."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (tmp_path / ".venv" / "personalization.sh").write_text('export PATH="$PWD/.venv/bin:$PATH"\n')
    for name in ("personalization", "pulumi", "python"):
        call = '${CONTAINER_ENGINE:+with "$CONTAINER_ENGINE"} "${0##*/}" "$@"'
        (programs / name).write_text(f'#!/bin/sh\nprintf "%s|" {call}\nexit ${{ENDING:-0}}\n')
        (programs / name).chmod(0o755)
    return tmp_path


def _make(
    project: Path, *arguments: str, python: str = "true", **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", *arguments, f"PYTHON={python}"],
        cwd=project,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )


def test_local_passes_defaults_and_options(project: Path) -> None:
    assert _make(project, "local").stdout == "personalization|local|--dataset|movielens|--engine|native|--state|.local|"
    chosen = _make(project, "local", "DATASET=criteo", "DATA=my rows/train.txt", "ENGINE=spark", "STATE=/tmp/s")
    assert chosen.stdout == (
        "personalization|local|--dataset|criteo|--data|my rows/train.txt|--engine|spark|--state|/tmp/s|"
    )


@pytest.mark.parametrize(
    "folder", ["l'été 😀", 'two  "rows"', "$HOME", "$(HOME)", "a`b`", "a;b & c", "run[1] {a,b} *", "\\"]
)
def test_paths_reach_the_commands_unchanged(project: Path, folder: str) -> None:
    local = f"personalization|local|--dataset|movielens|--data|{folder}|--engine|native|--state|{folder}|"
    assert _make(project, "local", f"DATA={folder}", f"STATE={folder}").stdout == local
    assert _make(project, "local", DATA=folder, STATE=folder).stdout == local
    assert _make(project, "local-down", f"STATE={folder}").stdout == f"personalization|local-down|--state|{folder}|"


def test_container_engine_runs_from_local_to_local_down(project: Path) -> None:
    engine = "python|-m|tools.container_engine"
    local = _make(project, "local", "CONTAINER=1").stdout
    assert local.startswith(f"with|{engine}|start|.local/engine||personalization|local|")
    assert _make(project, "local-down").stdout == "personalization|local-down|--state|.local|"
    (project / ".local" / "engine").mkdir(parents=True)
    assert _make(project, "local-down").stdout.endswith(f"|.local|{engine}|stop|.local/engine|")


def test_failure_of_a_command_fails_make(project: Path) -> None:
    for choice in ("CONTAINER=", "CONTAINER=1"):
        failed = _make(project, "local", choice, ENDING="7")
        assert failed.returncode != 0
        assert "Error 7" in failed.stderr


POLICY = "--policy-pack|policy|"


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("preview", f"pulumi|preview|--stack|dev|{POLICY}"),
        ("up", f"pulumi|up|--stack|dev|{POLICY}"),
        ("down", "personalization|teardown|dev|"),
    ],
)
def test_targets_of_a_stack_need_its_name(project: Path, target: str, command: str) -> None:
    assert f"make {target} STACK=dev" in _make(project, target).stderr
    named = _make(project, target, "STACK=dev", "ARGS=--diff --yes")
    assert named.stdout == f"{command}--diff|--yes|"


@pytest.mark.parametrize(
    ("targets", "use"),
    [
        ("bootstrap test test-fast test-container test-browser test-azure-cli", ""),
        ("bootstrap-local local local-down", " --for local"),
        ("bootstrap-preview preflight preview up down lock", " --for preview"),
    ],
)
def test_target_installs_the_packages_of_its_use(project: Path, targets: str, use: str) -> None:
    for target in targets.split():
        prepared = _make(project, target, "STACK=dev", python="echo").stdout.splitlines()[0]
        assert prepared == f"tools/bootstrap.py{use}", target


def test_make_without_a_target_lists_the_targets_and_prepares_nothing(project: Path) -> None:
    listed = _make(project).stdout
    prepared = "bootstrap bootstrap-local bootstrap-preview local local-down test test-fast test-container preflight"
    for target in [*prepared.split(), "preview", "up", "down", "lock", "clean"]:
        assert f"make {target} " in listed
