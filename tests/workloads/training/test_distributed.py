"""LightGBM's ring over two executor JVMs: its results, and the end of a fit when one executor is killed."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pytest
from pyspark.sql import SparkSession

from cli import local_spark
from infra.release.training_stage import job
from sandbox import java
from testing.workloads import clicks
from testing.workloads import spark_cluster as cluster
from workloads.evaluation import metrics
from workloads.training.fit_watchdog import SETTLE_SECONDS, STALL_SECONDS, Stall

pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark

TOLERANCE = 1e-9
"""Tolerance of a probability after few trees: sums of histograms differ only by the order of rows.

Bagging is off, because it would sample other rows.
"""
LOG_LOSS_TOLERANCE = 0.002
"""Tolerance after many trees: at some point two splits are equally good, and the order of rows decides."""
BOUND = 1.0 + SETTLE_SECONDS
KILLED = ("between trees", "before the ring")
_SAME = ("spark.jars.packages", "spark.jars.excludes", "spark.jars.ivy", "spark.sql.adaptive.enabled")


@pytest.fixture(scope="module")
def results(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results that `testing/workloads/spark_cluster.py` wrote."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "java").mkdir()
    temporary = f"-Djava.io.tmpdir={folder / 'java'}"
    configuration = {name: spark.sparkContext.getConf().get(name) for name in _SAME} | {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.extraJavaOptions": f"{java.QUICK} {local_spark.java_options()}",
        "spark.executor.extraJavaOptions": f"{java.QUICK} {local_spark.java_options()} {temporary}",
        "spark.executor.extraLibraryPath": job.spark_conf(2)["spark.executor.extraLibraryPath"],
        "spark.driver.extraLibraryPath": str(folder / "native"),
        "spark.task.reaper.enabled": "true",
        "spark.task.reaper.killTimeout": "3s",
        "spark.task.reaper.pollingInterval": "1s",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, cluster.__file__, folder, json.dumps(configuration)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert process.wait(timeout=900) == 0, (folder / "log").read_text()[-3000:]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert not psutil.wait_procs(left, timeout=30)[1]
    read: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return read


def test_two_executors_form_one_ring(results: dict[str, Any]) -> None:
    assert results["machines"] == [2, 2, 2, 2]


def test_two_executors_compute_the_probabilities_of_one(results: dict[str, Any], spark: SparkSession) -> None:
    alone = cluster.probabilities(clicks.rows(spark, cluster.ROWS), num_iterations=cluster.FEW)
    assert len(set(alone)) > 200
    assert max(abs(a - b) for a, b in zip(alone, results["few"], strict=True)) <= TOLERANCE


def test_two_executors_reach_the_log_loss_of_one(results: dict[str, Any], spark: SparkSession) -> None:
    rows = clicks.rows(spark, cluster.ROWS)
    clicked = rows.filter(f"id < {cluster.SCORED}").orderBy("id").select("label").collect()
    labels = np.array([row.label for row in clicked])
    alone, ring = np.array(cluster.probabilities(rows)), np.array(results["first"])
    assert abs(metrics.log_loss(labels, alone) - metrics.log_loss(labels, ring)) < LOG_LOSS_TOLERANCE
    assert np.abs(alone - ring).mean() < 0.02


@pytest.mark.parametrize("when", KILLED)
def test_killed_executor_is_named_and_ends_the_fit_in_time(when: str, results: dict[str, Any]) -> None:
    assert "lost mid-fit (Command exited with code 137)" in results[when]["message"]
    assert "nothing was written: run again" in results[when]["message"]
    assert 0 < results[when]["seconds"] < BOUND


def test_fit_after_a_killed_executor_is_complete(results: dict[str, Any]) -> None:
    assert max(abs(a - b) for a, b in zip(results["first"], results["again"], strict=True)) <= TOLERANCE


def test_each_executor_has_the_native_library_once(results: dict[str, Any]) -> None:
    """The two executors that replace the killed ones have it, too; no fit unpacks another copy."""
    assert results["unpacked"] == []
    assert results["fetched"] == 2 + len(KILLED)


def test_executor_working_long_after_the_others_is_a_stall() -> None:
    stall = Stall()
    assert not stall.check(0, 7, {"a": 1, "b": 2})
    assert not stall.check(10, 7, {"a": 0, "b": 1})
    assert not stall.check(9 + STALL_SECONDS, 7, {"a": 0, "b": 1})
    assert "b still works" in stall.check(10 + STALL_SECONDS, 7, {"a": 0, "b": 1})


@pytest.mark.parametrize(
    "states",
    [
        pytest.param([(1, {"a": 1, "b": 1})] * 2, id="all executors work"),
        pytest.param([(1, {"a": 0, "b": 1})] * 2, id="an executor that never had a task"),
        pytest.param([(1, {"a": 1, "b": 1}), (1, {"a": 0, "b": 0})], id="between two jobs"),
        pytest.param([(1, {"a": 1, "b": 1}), (1, {"a": 0, "b": 1}), (2, {"a": 1, "b": 1})], id="another job"),
    ],
)
def test_normal_work_is_not_a_stall(states: list[tuple[int, dict[str, int]]]) -> None:
    stall = Stall()
    assert not any(stall.check(2 * STALL_SECONDS * i, *state) for i, state in enumerate(states))
