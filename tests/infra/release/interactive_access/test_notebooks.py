"""Notebooks as sources: the digests that contain them, and how the sandbox reads them."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest

from infra.release.interactive_access.notebooks import notebooks_digest
from infra.release.training_stage import workload
from sandbox.databricks.execution.notebook import NotAnotebook, parse

RENDERED = Path(__file__).parents[4] / "docs" / "notebooks"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "workloads"
    shutil.copytree(workload.NOTEBOOKS.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(workload, "NOTEBOOKS", folder / "notebooks")
    monkeypatch.setattr("infra.release.interactive_access.notebooks.NOTEBOOKS", folder / "notebooks")
    return folder


def test_changed_notebook_is_uploaded_and_makes_no_new_model(sources: Path) -> None:
    before = workload.sources_digest(sources), notebooks_digest()
    with (sources / "notebooks" / "explore.py").open("a") as file:
        file.write("\n# COMMAND ----------\n\nprint(1)\n")
    after = workload.sources_digest(sources), notebooks_digest()
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)
    with (sources / "fit.py").open("a") as file:
        file.write("\n")
    assert workload.sources_digest(sources) != before[0]


def test_wheel_holds_no_notebook(tmp_path: Path) -> None:
    names = zipfile.ZipFile(workload.build_wheel(tmp_path)).namelist()
    assert "workloads/training/fit.py" in names
    assert not [name for name in names if "notebook" in name]


@pytest.mark.parametrize("name", ["explore", "train", "operationalize"])
def test_every_notebook_has_a_title_and_cells(name: str) -> None:
    cells = parse((workload.NOTEBOOKS / f"{name}.py").read_text()).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith(f"# {name.capitalize()}\n")
    assert sum(cell.cell_type == "code" for cell in cells) >= 4
    for cell in cells:
        assert "MAGIC" not in cell.source
        if cell.cell_type == "code":
            compile(cell.source, name, "exec")


@pytest.mark.parametrize("name", ["explore", "train", "operationalize"])
def test_rendered_notebook_shows_the_cells_of_its_source(name: str) -> None:
    cells = parse((workload.NOTEBOOKS / f"{name}.py").read_text()).cells
    page = (RENDERED / f"{name}.md").read_text()
    shown = re.findall(r"^```python\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE)
    assert shown == [cell.source for cell in cells if cell.cell_type == "code"]
    for cell in cells:
        assert cell.source in page


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print(1)\n", "first line"),
        ("# Databricks notebook source\n# MAGIC %sql\n# MAGIC SELECT 1\n", "%sql"),
        ("# Databricks notebook source\n# MAGIC %md text\nprint(1)\n", "%md"),
    ],
)
def test_notebook_commands_unknown_to_the_sandbox_are_refused(source: str, reason: str) -> None:
    with pytest.raises(NotAnotebook, match=reason):
        parse(source)
