"""The archive of Spark's classes: one JVM records it, the next maps it, and an incomplete one is not installed."""

import shlex
import subprocess
from pathlib import Path

import pytest

from sandbox import class_archive


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    (tmp_path / "venv").mkdir()
    return tmp_path / "venv"


def java(*options: str) -> str:
    """Output of a JVM with these options, with its log about class-data sharing."""
    command = [str(class_archive._java()), *options, "-Xlog:cds", "-version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_recorded_class_archive_is_mapped_by_the_next_jvm(environment: Path, tmp_path: Path) -> None:
    assert class_archive.is_missing()
    assert class_archive.use_option() == ""
    recorded = tmp_path / "recorded"
    java(*shlex.split(class_archive.record_option(recorded)))
    class_archive.install(recorded)
    (installed,) = environment.iterdir()
    assert not class_archive.is_missing()
    output = java(*shlex.split(class_archive.use_option()))
    assert f"trying to map {installed}" in output
    assert "Unable to map" not in output


def test_truncated_class_archive_is_not_installed(environment: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    java(*shlex.split(class_archive.record_option(recorded)))
    recorded.chmod(0o600)
    with recorded.open("r+b") as file:
        file.truncate(recorded.stat().st_size // 2)
    class_archive.install(recorded)
    assert list(environment.iterdir()) == []


def test_class_archive_is_not_recorded_without_java_or_without_the_archive_of_its_own_classes(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert class_archive.is_missing()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert not class_archive.is_missing()
    program = tmp_path / "java" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\n[ "$1" != -Xshare:on ] || { echo "Unable to use shared archive."; exit 1; }\n')
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    assert not class_archive.is_missing()


def test_class_archive_has_another_name_with_another_java(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = class_archive._archive()
    other = tmp_path / "other" / "bin" / "java"
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "other"))
    assert class_archive._archive() != archive
