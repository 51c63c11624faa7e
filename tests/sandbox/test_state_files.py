"""Damage to each kind of file of a local run, one at a time. Takes an hour or more, so it needs `--faults`."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.local_run.run_directory import FORCE
from testing.sandbox.process import sandbox_command
from testing.stack.local_run import LocalRun
from testing.stack.state_files import CONTENT, MADE_AGAIN, NEEDED, UNREAD

pytestmark = [pytest.mark.stack, pytest.mark.faults]


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


@dataclass
class Stopped:
    run: LocalRun
    copy: Path

    def restore(self) -> None:
        sandbox_command("stop", self.run.state / "sandbox")
        shutil.rmtree(self.run.state, ignore_errors=True)
        shutil.copytree(self.copy, self.run.state, symlinks=True)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopped]:
    folder = tmp_path_factory.mktemp("state")
    run = LocalRun(folder / "run")  # never moved: images contain absolute paths
    run.up()
    sandbox_command("stop", run.state / "sandbox")
    shutil.copytree(run.state, folder / "copy", symlinks=True)
    stopped = Stopped(run, folder / "copy")
    yield stopped
    stopped.restore()
    run.down()


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
@pytest.mark.parametrize("pattern", [*NEEDED, *MADE_AGAIN, *UNREAD, *CONTENT])
def test_damaged_file_is_replaced_or_named(stopped: Stopped, pattern: str, damage: Callable[[Path], None]) -> None:
    stopped.restore()
    files = sorted(path for path in stopped.run.state.glob(pattern) if path.is_file())
    files += sorted(path for match in stopped.run.state.glob(pattern) for path in match.rglob("*") if path.is_file())
    if not files:
        pytest.skip("a run that was stopped in order has no such file")
    damage(files[0])
    done = [stopped.run.run("local", timeout=300)]
    if done[0].returncode:
        done.append(stopped.run.run("local-down"))
    errors = "".join(it.stderr for it in done)
    assert "Traceback" not in errors
    if done[-1].returncode:
        assert str(files[0]) in errors
        if put_back := re.search(r"`touch '(.*)'`, then the same command again", errors):  # the mark of a run
            Path(put_back[1]).touch()
            assert stopped.run.run("local-down").returncode == 0
        else:
            assert FORCE in errors
            assert stopped.run.run("local-down", "--force").returncode == 0
        assert list(stopped.run.state.iterdir()) == []
