"""The wheel that Databricks installs: complete, minimal, and the same bytes for the same sources."""

import shutil
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

import workloads

SOURCES = Path(workloads.__file__).parent


def _build(sources: Path, folder: Path) -> Path:
    return Path(next(WheelBuilder(str(sources)).build(directory=str(folder), versions=["standard"])))


def test_same_sources_give_the_same_wheel(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*"):
        path.touch()
    first, second = _build(SOURCES, tmp_path / "a"), _build(copy, tmp_path / "b")
    assert first.name == second.name == f"personalization_workloads-{workloads.__version__}-py3-none-any.whl"
    assert first.read_bytes() == second.read_bytes()


def test_wheel_contains_the_package_its_specs_and_its_entry_points(tmp_path: Path) -> None:
    with zipfile.ZipFile(_build(SOURCES, tmp_path)) as wheel:
        names = set(wheel.namelist())
        info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        entry_points = wheel.read(f"{info}/entry_points.txt").decode()
        metadata = wheel.read(f"{info}/METADATA").decode()
    sources = (p.relative_to(SOURCES) for p in SOURCES.rglob("*.py"))
    expected = {f"workloads/{p.as_posix()}" for p in sources if p.parts[0] != "notebooks"}
    expected |= {f"workloads/datasets/{p.name}" for p in (SOURCES / "datasets").iterdir()}
    assert {name for name in names if not name.startswith(info)} == expected
    for task in ("prepare", "train", "crossvalidate", "tune"):
        assert f"{task} = workloads.tasks.{task}:main" in entry_points
    assert "synthesize = workloads.data.synthesize:main" in entry_points
    # The cluster provides Spark and SynapseML: a second copy from the package index would shadow them.
    assert [line for line in metadata.splitlines() if line.startswith("Requires-Dist")] == [
        "Requires-Dist: pyyaml>=6",
        "Requires-Dist: optuna>=4.5; extra == 'tune'",
    ]
