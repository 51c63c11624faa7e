"""`personalization cross-validate` and `tune`: the workload's tasks on the user's rows, with local Spark."""

import fcntl
import json
import sys
import tempfile
from pathlib import Path

import pytest

from cli import local_training
from cli.errors import UserError
from sandbox import java
from testing.command_line import personalization
from workloads.data import synthesize

# Variables of a shell whose user works with another Spark.
OF_ANOTHER_SPARK = {
    "SPARK_HOME": "/opt/spark-2.4",
    "SPARK_LOCAL_DIRS": "/proc/none",
    "SPARK_REMOTE": "sc://127.0.0.1:9",
    "PYSPARK_PYTHON": "/no/such/python",
    "PYSPARK_GATEWAY_PORT": "9",
    "PYSPARK_GATEWAY_SECRET": "none",
}
OTHER_CLUSTER = """<configuration><property><name>fs.defaultFS</name><value>hdfs://127.0.0.1:9</value></property>
</configuration>"""


@pytest.mark.spark
def test_cross_validation_tests_every_row_once_and_averages_the_folds(tmp_path: Path) -> None:
    """Also in the locale of cron and slim containers, with a folder name that contains pattern characters."""
    rows, figures = synthesize.synthesize(tmp_path / "données de l'été [1] 😀", 2_000), tmp_path / "figures.json"
    (tmp_path / "hadoop").mkdir()
    (tmp_path / "hadoop" / "core-site.xml").write_text(OTHER_CLUSTER)
    for name in ("killed", "live"):
        (tmp_path / f"personalization-spark-{name}").mkdir()
        (tmp_path / f"personalization-spark-{name}" / "lock").touch()
    own = {"TMPDIR": str(tmp_path), "JAVA_TOOL_OPTIONS": java.QUICK, "LC_ALL": "POSIX", **OF_ANOTHER_SPARK}
    own["HADOOP_CONF_DIR"] = own["SPARK_CONF_DIR"] = str(tmp_path / "hadoop")
    with (tmp_path / "personalization-spark-live" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # like another run
        done = personalization("cross-validate", "--folds", "1x2", "--output", str(figures), str(rows), **own)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert [fold["rows"] > 900 for fold in found["folds"]] == [True, True]
    assert sum(fold["rows"] for fold in found["folds"]) == 2_000
    assert found["mean"]["auc"] == pytest.approx(sum(fold["auc"] for fold in found["folds"]) / 2)
    assert f"{found['mean']['auc']:.4f}" in done.stdout.splitlines()[-1]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {rows.parent.name, "figures.json", "hadoop", "personalization-spark-live"}


def test_tune_writes_its_results_to_the_folder_of_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task itself runs in tests/workloads/tasks/test_tune.py."""
    ran = []

    def run(of: local_training._Prepared, task: str, *arguments: str | Path) -> None:
        ran.append(task)
        if task == "tune":
            found = Path(arguments[arguments.index("--output") + 1])
            found.mkdir()
            for name in ("movielens.yaml", "movielens.tuning.json"):
                (found / name).write_text(name)

    monkeypatch.setattr(local_training._Prepared, "run", run)
    (tmp_path / "movielens.yaml").write_text("as it was")
    written = local_training.tune("movielens", tmp_path, 2, 100, tmp_path)
    assert ran == ["prepare", "tune"]
    assert [path.name for path in written] == ["movielens.tuning.json", "movielens.yaml"]
    assert all(path.read_text() == path.name for path in written)


def test_failed_task_is_reported_without_java_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [f"\tat org.apache.spark.Class{place}.run(Class.scala:{place})" for place in range(40)]
    causes = ["py4j.protocol.Py4JJavaError: o1.parquet", "Caused by: java.io.EOFException: Unexpected end"]
    (tmp_path / "log").write_text("\n".join([causes[0], *frames, causes[1], *frames, "\t... 12 more"]))
    (tmp_path / "python").write_text(f"#!/bin/sh\ncat '{tmp_path}/log' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError) as fault:
        local_training.cross_validate("criteo", tmp_path, "1x2", None)
    assert str(fault.value).splitlines() == causes


def test_folder_name_with_pattern_characters_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[1]"))
    (tmp_path / "[1]").mkdir()
    with pytest.raises(UserError, match=r"cannot load a model from a path with '\[' in it. .* TMPDIR=<folder>"):
        local_training.cross_validate("criteo", tmp_path, "1x2", None)


@pytest.mark.parametrize(
    ("environment", "added"),
    [
        ({"LC_ALL": "POSIX", "LANG": "de_DE.UTF-8"}, {"LC_ALL": "C.UTF-8"}),
        ({"LANG": "de_DE@euro"}, {"LC_ALL": "C.UTF-8"}),
        ({}, {"LC_ALL": "C.UTF-8"}),
        ({"LC_ALL": "", "LANG": "de_DE.utf8"}, {}),
        ({"LC_CTYPE": "C.UTF-8"}, {}),
    ],
)
def test_jvm_gets_a_utf8_locale(environment: dict[str, str], added: dict[str, str]) -> None:
    assert java.locale(environment) == added


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cross-validate", "--folds", "5", "."), "--folds must be repeats x folds, such as 2x5, not '5'"),
        (("tune", "--dataset", "films", "."), "--dataset is 'films'; it can be"),
        (("check", "--dataset", "films", "."), "--dataset is 'films'; it can be"),
        (("cross-validate", "--output", ".", "."), ". cannot be written: Is a directory. Give the path of a file"),
        (("tune", "--specs", "/dev/null/specs", "."), "/dev/null/specs/criteo.yaml cannot be written: Not a directory"),
        (("notebooks", "--output", "/dev/null/shown"), "--output is /dev/null/shown: Not a directory. Give a folder"),
        (
            ("change-report", "--output", "/dev/null/shown"),
            "--output is /dev/null/shown: Not a directory. Give a folder",
        ),
        (("cross-validate", "/no/such/train.txt"), "/no/such/train.txt: no such file or folder of rows"),
    ],
)
def test_wrong_argument_is_reported_before_spark_starts(arguments: tuple[str, ...], says: str) -> None:
    done = personalization(*arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
