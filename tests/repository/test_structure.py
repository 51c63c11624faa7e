"""Limits on the structure of the code: length of functions, modules of a folder, circular imports inside a package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = "benchmarks cli infra policy sandbox scoring testing tests tools workloads".split()
MAX_LINES = 60
MAX_MODULES = 15


def sources(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "node_modules" not in path.parts)


def long_functions(text: str) -> Iterator[str]:
    """Names of the functions of more than `MAX_LINES` lines, from `def` to the last statement."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > MAX_LINES:
                yield node.name


def test_functions_have_at_most_sixty_lines() -> None:
    names = {
        f"{path.relative_to(ROOT).as_posix()} {name}"
        for package in ("infra", "workloads", "scoring")
        for path in sources(package)
        for name in long_functions(path.read_text("utf-8"))
    }
    assert names == set()


def test_length_of_a_function_counts_all_its_lines() -> None:
    body = "    pass\n" * (MAX_LINES - 1)
    assert list(long_functions(f"def short():\n{body}")) == []
    assert list(long_functions(f"async def long():\n{body}    pass\n")) == ["long"]


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_have_at_most_fifteen_modules(package: str) -> None:
    folders = {path.parent for path in sources(package)}
    assert folders
    counts = {
        folder.relative_to(ROOT).as_posix(): sum(module.name != "__init__.py" for module in folder.glob("*.py"))
        for folder in folders
    }
    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def imports(package: str) -> dict[str, set[str]]:
    """Imports between the modules of a package, at the top level of each module, also under TYPE_CHECKING."""
    modules = {module_name(path): path for path in sources(package)}
    return {
        name: {target for target in top_level_imports(path, name, set(modules)) if target in modules and target != name}
        for name, path in modules.items()
    }


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_level_imports(path: Path, name: str, modules: set[str]) -> Iterator[str]:
    """Imported modules. `from package import module` imports `module`, any other name is one of `package` itself."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for statement in statements(ast.parse(path.read_text("utf-8")).body):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            module = ".".join([*parents, *([statement.module] if statement.module else [])])
            targets = (f"{module}.{alias.name}" for alias in statement.names)
            yield from (target if target in modules else module for target in targets)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, in blocks too, without those of functions and classes."""
    for statement in body:
        yield statement
        for block in ("body", "orelse", "finalbody"):
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from statements(getattr(statement, block, []))
        for handler in getattr(statement, "handlers", []):
            yield from statements(handler.body)


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that import each other, directly or through others."""
    reached = {name: reachable(graph, name) for name in graph}
    groups = {
        frozenset(other for other in reached[name] if name in reached[other]) for name in graph if name in reached[name]
    }
    return {group for group in groups if len(group) > 1}


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    names: set[str] = set()
    pending = list(graph[start])
    while pending:
        name = pending.pop()
        if name not in names:
            names.add(name)
            pending += graph[name]
    return names


def test_circles_are_found() -> None:
    graph: dict[str, set[str]] = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == {frozenset({"a", "b", "c"})}


def test_imports_under_type_checking_and_through_the_package_count(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "from a import b\nif TYPE_CHECKING:\n    from a.c import Name\ndef function() -> None:\n    from a import d\n"
    )
    assert set(top_level_imports(module, "a.module", {"a", "a.b", "a.c", "a.d"})) == {"a.b", "a.c"}


def test_modules_of_a_package_do_not_import_each_other_in_a_circle() -> None:
    graphs = [imports(package) for package in PACKAGES]
    assert sum(len(targets) for graph in graphs for targets in graph.values()) > 100
    assert {circle for graph in graphs for circle in circles(graph)} == set()
