"""Which package may import which: packages exchange data and, but for this table, no code."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import cli
from cli import main

ROOT = Path(__file__).parents[2]
MAY_IMPORT: dict[str, set[str]] = {
    "infra": set(),
    "workloads": set(),
    "scoring": set(),
    "sandbox": set(),
    "policy": set(),
    "tools": set(),
    "cli": {"infra", "policy", "sandbox", "scoring", "workloads"},
    "benchmarks": {"cli", "scoring", "testing", "workloads"},
    "testing": {"benchmarks", "cli", "infra", "policy", "sandbox", "scoring", "tools", "workloads"},
}
ROOMS = {*MAY_IMPORT, "tests"}
LIBRARIES = {
    "policy": {"pulumi_azure_native", "pulumi_policy"},
    "tools": {"cryptography", "google", "grpc", "pulumi", "yaml"},
}
"""Third-party libraries of the packages that name them all, in their docstring or in docs/architecture.md."""
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


def test_every_package_has_import_rules_and_a_row_in_the_architecture() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == MAY_IMPORT.keys()
    rows = re.findall(r"^\| `(\w+)/` \| .* \| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)/`", text.partition(";")[0])) for name, text in rows}
    assert documented == MAY_IMPORT


@pytest.mark.parametrize("room", sorted(LIBRARIES))
def test_libraries_of_a_package_are_those_it_names(room: str) -> None:
    third_party = {module for _, module in imports(room)} - sys.stdlib_module_names - ROOMS
    assert third_party == LIBRARIES[room]


def test_bootstrap_needs_the_standard_library_only() -> None:
    """It runs before the environment exists, which it creates; imports inside functions come later."""
    todo, seen = ["bootstrap", "steps"], set()
    while todo:
        seen.add(name := todo.pop())
        path = ROOT / "tools" / f"{name.replace('.', '/')}.py"
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "tools":
                within = node.module.partition(".")[2]
                if within and (ROOT / "tools" / f"{within.replace('.', '/')}.py").exists():
                    imported = {within}
                else:
                    imported = {f"{within}.{alias.name}".lstrip(".") for alias in node.names}
                todo += imported - seen
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] in sys.stdlib_module_names, path
            elif isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= sys.stdlib_module_names, path
    assert len(seen) > 3


def test_docstring_of_operations_lists_every_command() -> None:
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    listed = re.findall(r"`([a-z-]+)`[,:]", str(cli.__doc__))
    assert sorted(listed) == sorted(name for name, command in commands.items() if not command.hidden)


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
