"""The packages of each use of the project: parts of one lock, complete, and no larger than the use needs."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.environments import MORE_PACKAGES_MAX, SDKS, with_dependencies
from tools import package_sets
from tools.package_sets import SETS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ONLY_LOCAL = {"cli.notebooks", "cli.local_training", "cli.reference"}
"""Modules of `cli/` that need more than the set `preview`: Spark on this machine, notebooks, the reference."""

IMPORTS = """
import importlib, json, sys
from importlib import metadata
from importlib.machinery import PathFinder

modules, statements, shown, others = json.loads(sys.stdin.read())

def files(names):
    return {str(file.locate()) for name in names for file in metadata.distribution(name).files or []}

hidden = files(others) - files(shown)  # several packages bring databricks/__init__.py

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        return None if spec and spec.origin in hidden else spec

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
failed = {}
for module in modules:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        failed[module] = str(error)
for module, statement in statements:
    try:
        exec(statement, {"__name__": module, "__package__": module.rpartition(".")[0]})
    except ModuleNotFoundError as error:
        failed[f"{module}: {statement}"] = str(error)
print(json.dumps(failed))
"""


def requirements_of(name: str) -> list[str]:
    return [
        *PROJECT["dependencies"],
        *(each for group in SETS[name] for each in PROJECT["optional-dependencies"][group]),
    ]


@pytest.mark.parametrize("name", SETS)
def test_package_set_has_all_requirements_with_locked_versions_and_hashes(name: str) -> None:
    packages = package_sets.packages(ROOT, name)
    assert packages.keys() == with_dependencies(requirements_of(name))
    lock = (ROOT / "requirements.lock").read_text()
    for package, lines in packages.items():
        assert f"\n{lines}\n" in lock
        assert re.match(rf"{package}==\S+ \\\n    --hash=sha256:[0-9a-f]{{64}}", lines)


def test_each_set_contains_the_one_before_it_and_the_last_is_the_whole_lock() -> None:
    preview, local, test = (package_sets.packages(ROOT, name).keys() for name in SETS)
    assert preview < local < test
    assert test == package_sets.locked(ROOT).keys()
    assert len(test) == (ROOT / "requirements.lock").read_text().count("==")
    assert {group for groups in SETS.values() for group in groups} == PROJECT["optional-dependencies"].keys()


def test_preview_needs_few_packages_besides_its_four_sdks() -> None:
    more = package_sets.packages(ROOT, "preview").keys() - with_dependencies(SDKS)
    assert len(more) <= MORE_PACKAGES_MAX, sorted(more)


def test_lock_has_every_requirement_in_a_suitable_version() -> None:
    lock = package_sets.locked(ROOT)
    for requirement in map(Requirement, requirements_of("test")):
        version = lock[canonicalize_name(requirement.name)].split()[0].partition("==")[2]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: run `make lock`"


def test_unlocked_requirement_does_not_stop_the_command_that_locks_it(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("one==1 \\\n    --hash=sha256:00\n    # via project (pyproject.toml)\n")
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["one", "two>=1"]\n')
    assert package_sets.packages(tmp_path, "preview").keys() == {"one"}


def modules_of(package: str) -> list[str]:
    files = sorted(path.relative_to(ROOT).with_suffix("") for path in (ROOT / package).rglob("*.py"))
    return [".".join(path.parts).removesuffix(".__init__") for path in files if path.name != "__main__"]


def lazy_imports(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Import statements inside functions, which run only when a resource is created or a command is called."""
    for module in modules:
        path = ROOT / Path(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for statement in ast.walk(function):
                    if isinstance(statement, ast.Import | ast.ImportFrom):
                        yield module, ast.unparse(statement)


def failed_imports(modules: list[str], statements: list[tuple[str, str]], name: str) -> dict[str, str]:
    """Run imports in a process that sees the packages of set `name` and no other; return the failures."""
    shown = package_sets.packages(ROOT, name).keys()
    given = json.dumps([modules, statements, sorted(shown), sorted(package_sets.locked(ROOT).keys() - shown)])
    done = subprocess.run([sys.executable, "-c", IMPORTS], input=given, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


def test_program_policies_and_stack_commands_need_the_smallest_set_only() -> None:
    commands = [module for module in modules_of("cli") if not module.startswith(tuple(ONLY_LOCAL))]
    modules = [*modules_of("infra"), *modules_of("policy"), *commands]
    of_larger_sets = tuple(f"from cli import {name.partition('.')[2]}" for name in ONLY_LOCAL)
    statements = [found for found in lazy_imports(modules) if not found[1].startswith(of_larger_sets)]
    assert len(modules) > 100
    assert any("azure.ai.ml" in statement for _, statement in statements)
    assert failed_imports(modules, statements, "preview") == {}


def test_modules_that_are_left_out_do_need_a_larger_set() -> None:
    assert failed_imports(sorted(ONLY_LOCAL), [], "preview").keys() == ONLY_LOCAL


@pytest.mark.parametrize("package", ["cli", "sandbox", "workloads", "scoring"])
def test_local_run_needs_no_package_of_the_tests(package: str) -> None:
    packages, brought_by = package_sets.packages(ROOT, "local").keys(), metadata.packages_distributions()
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                brought = {canonicalize_name(each) for each in brought_by.get(name, [])}
                assert (ROOT / name).is_dir() or brought & packages, f"{path} imports {name}"


@pytest.mark.parametrize(
    "command",
    [
        ("local",),
        ("check", "rows", "--dataset", "movielens"),
        ("notebooks", "--output", "pages"),
        ("change-report", "--base", "HEAD"),
    ],
)
def test_command_with_missing_packages_names_the_target_that_installs_them(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    installed = tmp_path / "personalization_azure-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: personalization-azure\nVersion: 1\nRequires-Dist: typer\n"
        "Requires-Dist: package-that-is-not-here>=1; extra == 'local'\n"
        "Requires-Dist: another-one; extra == 'local'\nRequires-Dist: third; extra == 'test'\n"
    )
    (tmp_path / "nbformat.py").write_text("raise ModuleNotFoundError(\"No module named 'nbformat'\")\n")
    done = subprocess.run(
        [sys.executable, "-m", "cli", *command],
        cwd=ROOT if command[0] == "change-report" else tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("error: this command needs package-that-is-not-here and 1 other packages")
    assert "Run `make bootstrap-local`" in message
    assert "Traceback" not in done.stderr
