"""The file of Spark's classes: written by one JVM, mapped by the next, and never one that would crash it."""

import shlex
import subprocess
from pathlib import Path

import pytest

from sandbox import class_archive


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    (tmp_path / "venv").mkdir()
    return tmp_path / "venv"


def java(*options: str) -> str:
    """What a JVM says that was started with these."""
    command = [str(class_archive._java()), *options, "-Xlog:cds", "-version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_what_one_jvm_recorded_the_next_one_maps(place: Path, tmp_path: Path) -> None:
    assert class_archive.wanted()
    assert class_archive.option() == ""
    recorded = tmp_path / "recorded"
    java(*shlex.split(class_archive.record(recorded)))
    class_archive.keep(recorded)
    (kept,) = place.iterdir()
    assert not class_archive.wanted()
    said = java(*shlex.split(class_archive.option()))
    assert f"trying to map {kept}" in said
    assert "Unable to map" not in said


def test_what_is_not_whole_is_not_kept(place: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    java(*shlex.split(class_archive.record(recorded)))
    recorded.chmod(0o600)
    with recorded.open("r+b") as file:
        file.truncate(recorded.stat().st_size // 2)
    class_archive.keep(recorded)
    assert list(place.iterdir()) == []


def test_a_java_without_a_file_of_its_own_classes_or_none_at_all_is_not_asked_for_one_of_sparks(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert class_archive.wanted()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert not class_archive.wanted()
    program = tmp_path / "java" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\n[ "$1" != -Xshare:on ] || { echo "Unable to use shared archive."; exit 1; }\n')
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    assert not class_archive.wanted()


def test_another_java_has_another_file(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_this = class_archive._file()
    other = tmp_path / "other" / "bin" / "java"
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "other"))
    assert class_archive._file() != of_this
