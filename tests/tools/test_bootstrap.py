"""The first command on a machine: the accepted Python versions, and the repair of interrupted installations."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import package_index, package_sets, python_environment, steps
from tools.bootstrap import refusal
from tools.commands import Unavailable, run
from tools.java import Java
from tools.pins import pin
from tools.pulumi_engine import pulumi_cli
from tools.pulumi_engine.pulumi_cli import PulumiCli

BOOTSTRAP = Path(steps.__file__).with_name("bootstrap.py")


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13), (3, 12, 1), (3, 13, 0)])
def test_other_python_versions_are_refused_with_the_remedy(version: tuple[int, ...]) -> None:
    message = refusal(version, "/usr/bin/python3")
    assert "/usr/bin/python3 is " + ".".join(map(str, version)) in message
    assert "PYTHON=python3.11 make local" in message


def test_every_python_3_11_is_accepted() -> None:
    assert refusal((3, 11, 0), "python3") == refusal((3, 11, 14), "python3") == ""


def test_refusal_comes_before_anything_else_runs() -> None:
    program = (
        "import runpy, sys; sys.version_info = (3, 12, 1, 'final', 0); "
        f"runpy.run_path({str(BOOTSTRAP)!r}, run_name='__main__')"
    )
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "PYTHON=python3.11 make local" in refused.stderr
    assert refused.stdout == ""


def test_refusal_is_readable_under_any_python() -> None:
    source = BOOTSTRAP.read_text()
    assert source.isascii()
    ast.parse(source, feature_version=(3, 4))
    for interpreter in _other_pythons():
        refused = subprocess.run([interpreter, BOOTSTRAP], capture_output=True, text=True)
        assert refused.returncode == 2, interpreter
        assert refused.stderr.startswith("error: this project runs on Python 3.11"), interpreter


def _other_pythons() -> list[Path]:
    """Interpreters of other versions on this machine, on the path or from pyenv."""
    on_path = [Path(folder, name) for folder in os.get_exec_path() for name in ("python2.7", "python3.9", "python3.12")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob("[23].*/bin/python")
    question = ["-c", "import sys; sys.exit(sys.version_info[:2] == (3, 11))"]
    return [
        interpreter
        for interpreter in (*on_path, *pyenv)
        if interpreter.exists() and subprocess.run([interpreter, *question], capture_output=True).returncode == 0
    ]


def _with_dependencies(name: str, locked: dict[str, str]) -> set[str]:
    named = {re.split(r"[^\w-]", line)[0].lower() for line in importlib.metadata.requires(name) or []}
    return {name}.union(*(_with_dependencies(other, locked) for other in named if other in locked))


@pytest.fixture(scope="module")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that locks its build backend, and one package for `local`, in a folder whose name needs quoting."""
    root = tmp_path_factory.mktemp("a small project")
    locked = package_sets.locked(steps.ROOT)
    wanted = sorted(_with_dependencies("hatchling", locked) | {"six"})
    (root / "requirements.lock").write_text("\n".join(locked[name] for name in wanted) + "\n")
    (root / "small.py").write_text("")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "small"\nversion = "1"\ndependencies = ["hatchling"]\n'
        '[project.optional-dependencies]\nlocal = ["six"]\ntest = []\n'
        '[tool.hatch.build]\ndev-mode-dirs = ["."]\n[tool.hatch.build.targets.wheel]\ninclude = ["small.py"]\n'
    )
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def equipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with a Pulumi CLI and a Java 17, and an unused cache folder."""
    tools = tmp_path_factory.mktemp("tools")
    for name, answer in {
        "pulumi": f"echo v{pin('pulumi').version}",
        "pulumi-language-python": "",
        "java": "echo '    java.specification.version = 17' >&2; echo '    java.home = /opt/java 17' >&2",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:/usr/bin:/bin", "XDG_CACHE_HOME": "/dev/null/nowhere"}


def test_second_bootstrap_changes_nothing_within_a_second(
    small_project: Path, equipped: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(small_project / ".venv", ignore_errors=True)  # another test may have bootstrapped it
    steps._bootstrap(small_project, equipped)
    first = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in first] == ["Python", "packages", "Java", "Pulumi", "settings"]
    assert re.search(r": \d+\.\d s$", first[1])

    started = time.monotonic()
    steps._bootstrap(small_project, equipped)
    assert time.monotonic() - started < 1
    assert all(line.endswith("already there") for line in capsys.readouterr().out.splitlines())


def test_interrupted_installation_is_finished_by_the_next_run(small_project: Path, equipped: dict[str, str]) -> None:
    venv = small_project / ".venv"
    steps._bootstrap(small_project, equipped)
    # The state after a killed installation: a package that looks installed but lacks files, and no stamp.
    for module in venv.glob("lib/python3.11/site-packages/hatchling/*.py"):
        module.unlink()
    (venv / "installed").unlink()
    (venv / "unfinished").touch()

    steps._bootstrap(small_project, equipped)
    assert subprocess.run([venv / "bin" / "hatchling", "--help"], capture_output=True).returncode == 0
    assert subprocess.run([venv / "bin" / "python", "-c", "import small"]).returncode == 0
    assert not (venv / "unfinished").exists()


def test_changed_lock_is_installed(small_project: Path, equipped: dict[str, str]) -> None:
    steps._bootstrap(small_project, equipped)
    before = (small_project / ".venv" / "installed").read_text()
    with (small_project / "requirements.lock").open("a") as lock:
        lock.write("\n# changed\n")
    steps._bootstrap(small_project, equipped)
    assert (small_project / ".venv" / "installed").read_text() != before


def _has(project: Path, module: str) -> bool:
    return subprocess.run([project / ".venv/bin/python", "-c", f"import {module}"], capture_output=True).returncode == 0


def test_environment_gets_the_packages_of_its_use_and_later_ones_are_added(
    small_project: Path, equipped: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(small_project / ".venv", ignore_errors=True)
    steps._bootstrap(small_project, equipped, "preview")
    assert "Java" not in capsys.readouterr().out
    assert "JAVA" not in (small_project / ".venv" / "personalization.sh").read_text()
    assert _has(small_project, "small")
    assert not _has(small_project, "six")

    steps._bootstrap(small_project, equipped, "local")
    assert "Java" in capsys.readouterr().out
    assert _has(small_project, "six")

    steps._bootstrap(small_project, equipped, "preview")
    assert all(line.endswith("already there") for line in capsys.readouterr().out.splitlines())
    assert _has(small_project, "six")


def test_unknown_use_is_refused_with_the_known_ones() -> None:
    refused = subprocess.run([sys.executable, BOOTSTRAP, "--for", "serving"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert all(use in refused.stderr for use in ("preview", "local", "test"))


def test_bytecode_is_written_for_the_modules_of_the_sdk_that_the_program_imports(tmp_path: Path) -> None:
    packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("other", "pulumi_azure_native/storage", "pulumi_azure_native/compute", "pulumi_azure_native/web"):
        (packages / name).mkdir(parents=True)
        (packages / name / "account.py").write_text("")
    (tmp_path / ".venv" / "bin").mkdir()
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "lake.py").write_text("from pulumi_azure_native import compute as vm, storage\n")
    python_environment._compile(tmp_path)
    compiled = {str(path.relative_to(packages).parents[1]) for path in packages.rglob("*.pyc")}
    assert compiled == {"other", "pulumi_azure_native/storage", "pulumi_azure_native/compute"}


def test_temporary_files_of_an_installation_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build through uv leaves a lock file in the temporary folder."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9")  # so that pip, which is missing here, is not run
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\ntouch "$TMPDIR/uv-setuptools.lock"\necho "$TMPDIR"\n')
    uv.chmod(0o755)
    temporary = Path(package_index.uv(tmp_path, [], "uv failed").strip())
    assert temporary.parent == tmp_path
    assert not temporary.exists()


def test_settings_put_the_environment_first_and_do_not_affect_plugins(
    small_project: Path, equipped: dict[str, str]
) -> None:
    steps._bootstrap(small_project, equipped)
    lines = run(
        ["sh", "-c", '. ".venv/personalization.sh"; echo "$PATH"; echo "$JAVA_HOME"; env'],
        "sourcing failed",
        cwd=small_project,
        env=equipped,
    ).splitlines()
    assert lines[0] == f"{small_project}/.venv/bin:{equipped['PATH']}"
    assert lines[1] == "/opt/java 17"
    assert "PULUMI_SKIP_UPDATE_CHECK=true" in lines
    assert not any(line.startswith("PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION") for line in lines)


def test_settings_sourced_twice_name_the_trust_store_once(tmp_path: Path) -> None:
    ours = PulumiCli(tmp_path / "the cli", "", is_ours=True)
    steps._write_settings(tmp_path, ours, Java(tmp_path, "", "-Djavax.net.ssl.trustStore=/a/store"))
    script = '. ./personalization.sh; . ./personalization.sh; echo "$JAVA_TOOL_OPTIONS"; echo "$PATH"'
    lines = run(["sh", "-c", script], "sourcing failed", cwd=tmp_path, env={"PATH": "/bin"}).splitlines()
    assert lines[0].split() == ["-Djavax.net.ssl.trustStore=/a/store"]
    assert lines[1].startswith(f"{tmp_path}/bin:{tmp_path}/the cli:")


def test_failed_command_shows_the_remedy_and_its_last_lines() -> None:
    with pytest.raises(Unavailable, match="install it by hand\n  sh ended with 3:\n  no route to host"):
        run(["sh", "-c", "echo no route to host >&2; exit 3"], "install it by hand")


def test_unwritable_cache_folder_is_reported_with_the_remedy(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(Unavailable, match=rf"{in_the_way}/cache/pulumi cannot be written[\s\S]*XDG_CACHE_HOME"):
        pulumi_cli.install(in_the_way / "cache", tmp_path)
