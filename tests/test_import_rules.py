"""Who may import whom: the rooms of the house are held together by data, not by code."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"infra", "workloads", "scoring", "sandbox", "operations", "policy", "tools", "benchmarks"}
MAY_IMPORT = {
    "infra": set(),
    "workloads": set(),
    "scoring": set(),
    "sandbox": set(),
    "policy": set(),
    "tools": set(),
}
NEVER = {
    "workloads": {"pulumi", "azure", "databricks", "lightgbm", "starlette", "uvicorn", "requests", "httpx"},
    "infra": {"pyspark", "synapse", "lightgbm", "starlette", "uvicorn"},
    "scoring": {"pulumi", "azure", "databricks", "pandas", "scipy", "sklearn", "requests"},
    "sandbox": {"pulumi_azure_native"},
}


def imports(room: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield path, node.module.partition(".")[0]


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_no_room_reaches_into_another(room: str) -> None:
    for path, module in imports(room):
        assert module == room or module not in ROOMS or module in MAY_IMPORT[room], f"{path} imports {module}"


@pytest.mark.parametrize("room", sorted(NEVER))
def test_each_room_keeps_to_its_own_libraries(room: str) -> None:
    for path, module in imports(room):
        assert module not in NEVER[room], f"{path} imports {module}"


def test_spark_is_imported_in_scoring_by_its_own_engine_only() -> None:
    spark = {path.name for path, module in imports("scoring") if module in ("pyspark", "synapse", "py4j")}
    assert all("spark" in name for name in spark)


def test_a_notebook_stands_on_the_workload_spark_and_plots_alone() -> None:
    """Whatever else it imported, the cluster would have to install."""
    allowed = {"workloads", "pyspark", "matplotlib", "numpy"} | sys.stdlib_module_names
    found = list(imports("workloads/notebooks"))
    assert {path.stem for path, _ in found} == {"explore", "train", "operationalize"}
    for path, module in found:
        assert module in allowed, f"{path} imports {module}"


def test_nothing_asks_whether_it_runs_in_the_sandbox() -> None:
    for room in ("infra", "workloads", "scoring"):
        for path in (ROOT / room).rglob("*.py"):
            assert "sandbox" not in path.read_text().lower(), f"{path} speaks of the sandbox"
