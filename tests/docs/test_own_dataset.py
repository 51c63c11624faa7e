"""Every command of docs/own-dataset, with the example shop of its folder, in a copy of the project's packages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import java

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own-dataset" / "README.md"


def commands() -> list[str]:
    return [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("       ")]


@pytest.mark.spark
def test_every_command_of_the_page_works_with_the_example_shop(tmp_path: Path) -> None:
    for name in ("docs/own-dataset", "workloads", "cli", "infra", "sandbox"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    program = tmp_path / "bin" / "personalization"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        "JAVA_TOOL_OPTIONS": java.QUICK,
    }
    assert [command.split()[:2] for command in commands()] == [
        ["cp", "docs/own-dataset/bookshop.yaml"],
        ["personalization", "check"],
    ]
    for command in commands():
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "interactions: views.tsv, 12 lines read, 0 left out" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("12 rows, ")
    assert list((tmp_path / "tmp").iterdir()) == []
