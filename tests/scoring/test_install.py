"""Tests of `install.sh`, which creates a self-contained folder of the service, and of the image's labels and SBOM."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra.release.serving_stage.image import build_arguments
from scoring import sbom
from testing.scoring import REPOSITORY, Toys, make_artefact, scoring_environment, serving

SCRIPT = REPOSITORY / "scoring" / "install.sh"


def install(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    uv = Path(sys.executable).with_name("uv")
    tools = {"PYTHON": sys.executable, **({"UV": str(uv)} if uv.exists() else {}), **environment}
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **tools}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("image") / "scoring"
    done = install(prefix, "native")
    assert done.returncode == 0, done.stderr
    return prefix


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return make_artefact(tmp_path_factory.mktemp("scoring") / "toys")


def test_installed_service_does_not_import_from_the_current_folder(prefix: Path, toys: Toys, tmp_path: Path) -> None:
    (tmp_path / "scoring").mkdir()
    (tmp_path / "scoring" / "__main__.py").write_text("raise SystemExit('imported from the current folder')")
    environment = {**scoring_environment(toys.folder), "PYTHONPATH": "", "PWD": str(tmp_path)}
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with serving(environment, command=(str(prefix / "bin" / "serve"),)) as service:
            assert service.probabilities(toys.rows) == [toys.probability(row) for row in toys.rows]
    finally:
        os.chdir(before)


def test_second_installation_changes_nothing_and_needs_no_network(prefix: Path) -> None:
    made = (prefix / "venv").stat().st_mtime_ns
    done = install(prefix, "native", UV="/nowhere/uv", PIP_NO_INDEX="1")
    assert done.returncode == 0, done.stderr
    assert (prefix / "venv").stat().st_mtime_ns == made


def test_native_runtime_has_neither_data_frame_libraries_nor_spark(prefix: Path) -> None:
    packages = {path.name.partition("-")[0] for path in prefix.glob("venv/lib/python3.11/site-packages/*")}
    assert "lightgbm" in packages
    assert not packages & {"scipy", "pandas", "pyspark", "scikit_learn"}


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("native",), {}, "usage"),
        (("PREFIX", "onnx"), {}, "expected native or spark"),
        (("PREFIX", "native"), {"PYTHON": "/nowhere/python"}, "Python 3.11"),
        (("PREFIX", "native"), {"PYTHON": "/bin/false"}, "Python 3.11"),
    ],
)
def test_installation_with_wrong_arguments_is_refused_with_the_reason(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    done = install(*(tmp_path if word == "PREFIX" else word for word in arguments), **environment)
    assert done.returncode == 1
    assert message in done.stderr


def test_requirements_are_locked_by_hash_and_name_no_index() -> None:
    for engine in ("native", "spark"):
        lines = (REPOSITORY / "scoring" / f"requirements-{engine}.txt").read_text().splitlines()
        pinned = [number for number, line in enumerate(lines) if "==" in line and not line.lstrip().startswith("#")]
        assert pinned
        assert all("--hash=sha256:" in lines[number + 1] for number in pinned)
        assert not any(("index-url" in line and not line.startswith("#")) or "://" in line for line in lines)


@pytest.mark.parametrize("engine", ["native", "spark"])
def test_build_arguments_are_declared_in_the_dockerfile(engine: str) -> None:
    known = re.findall(r"^ARG (\w+)", (REPOSITORY / "scoring" / "Dockerfile").read_text(), re.MULTILINE)
    arguments = build_arguments(engine, "0123abcd")
    assert set(arguments) <= set(known)
    assert ("pyspark==" in arguments["VERSIONS"]) == (engine == "spark")


def test_bill_of_materials_identifies_a_jar_by_its_coordinate(tmp_path: Path) -> None:
    properties = "groupId=org.example\nartifactId=tool\nversion=1.2\n"
    contents = {
        "jars/com.example_core_2.12-1.0-rc1.jar": {},
        "pyspark/jars/tool_2.12-1.2.jar": {"META-INF/maven/org.example/tool/pom.properties": properties},
        "pyspark/jars/algebra_2.12-2.0.1.jar": {},
    }
    for name, files in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(tmp_path / name, "w") as jar:
            for path, text in files.items():
                jar.writestr(path, text)
    assert [component["purl"] for component in sbom.jars(tmp_path)] == [
        "pkg:maven/com.example/core_2.12@1.0-rc1",
        "pkg:maven/algebra_2.12@2.0.1",
        "pkg:maven/org.example/tool@1.2",
    ]
