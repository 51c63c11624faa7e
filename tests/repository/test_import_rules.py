"""Import rules: packages exchange data; `MAY_IMPORT` lists the only imports between them."""

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
PACKAGES = {*MAY_IMPORT, "tests"}
LIBRARIES = {
    "policy": {"pulumi_azure_native", "pulumi_policy"},
    "tools": {"cryptography", "google", "grpc", "pulumi", "yaml"},
}
"""All third-party libraries of the packages that list them in their docstring or in docs/architecture.md."""
NEVER = {
    "workloads": {"pulumi", "azure", "databricks", "lightgbm", "starlette", "uvicorn", "requests", "httpx"},
    "infra": {"pyspark", "synapse", "lightgbm", "starlette", "uvicorn"},
    "scoring": {"pulumi", "azure", "databricks", "pandas", "scipy", "sklearn", "requests"},
    "sandbox": {"pulumi_azure_native"},
}


SPARK = {"pyspark", "synapse", "py4j"}


def imports(package: str) -> Iterator[tuple[Path, str]]:
    """Each file of the package with the top-level name of each module that it imports."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield path, node.module.partition(".")[0]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_package_imports_only_the_packages_it_may(package: str) -> None:
    modules = list(imports(package))
    assert modules
    for path, module in modules:
        assert module not in PACKAGES - MAY_IMPORT[package] - {package}, f"{path} imports {module}"


def test_tests_do_not_import_each_other() -> None:
    """Helpers that several files need are in `testing/`."""
    assert [path for path, module in imports("tests") if module == "tests"] == []


def test_every_package_has_import_rules_and_a_row_on_the_architecture_page() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == MAY_IMPORT.keys()
    rows = re.findall(r"^\| `(\w+)/` \| .* \| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)/`", text.partition(";")[0])) for name, text in rows}
    assert documented == MAY_IMPORT


@pytest.mark.parametrize("package", sorted(LIBRARIES))
def test_package_imports_the_libraries_it_lists(package: str) -> None:
    third_party = {module for _, module in imports(package)} - sys.stdlib_module_names - PACKAGES
    assert third_party == LIBRARIES[package]


def test_bootstrap_needs_the_standard_library_only() -> None:
    """Bootstrap creates the environment, so it runs without it. Imports inside functions run later."""
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


def test_docstring_of_the_cli_lists_every_command() -> None:
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    listed = re.findall(r"`([a-z-]+)`[,:]", str(cli.__doc__))
    assert sorted(listed) == sorted(name for name, command in commands.items() if not command.hidden)


@pytest.mark.parametrize("package", sorted(NEVER))
def test_package_never_imports_the_libraries_of_another(package: str) -> None:
    for path, module in imports(package):
        assert module not in NEVER[package], f"{path} imports {module}"


def test_scoring_imports_spark_in_the_modules_of_the_spark_engine_only() -> None:
    importers = {
        path.relative_to(ROOT / "scoring").as_posix() for path, module in imports("scoring") if module in SPARK
    }
    assert importers == {"engines/spark_jars.py", "engines/spark_worker.py"}


def test_only_the_tracking_module_imports_mlflow() -> None:
    packages = ("infra", "workloads", "scoring", "sandbox", "policy")
    importing = {path.name for package in packages for path, module in imports(package) if module == "mlflow"}
    assert importing == {"tracking.py"}
    lists = sorted((ROOT / "scoring").glob("requirements*"))
    assert len(lists) == 4
    assert not [path for path in lists if "mlflow" in path.read_text()]


def test_notebooks_import_only_the_workload_spark_and_plotting() -> None:
    """The cluster would have to install any other library."""
    allowed = {"workloads", "pyspark", "matplotlib", "numpy"} | sys.stdlib_module_names
    modules = list(imports("workloads/notebooks"))
    assert {path.stem for path, _ in modules} == {"explore", "train", "operationalize"}
    for path, module in modules:
        assert module in allowed, f"{path} imports {module}"


@pytest.mark.parametrize("package", ["infra", "workloads", "scoring"])
def test_product_code_does_not_mention_the_sandbox(package: str) -> None:
    """Product code must not behave differently in the sandbox."""
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert "sandbox" not in path.read_text().lower(), f"{path} mentions the sandbox"
