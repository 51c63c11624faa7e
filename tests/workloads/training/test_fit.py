"""The fit: the clusters it refuses, the trees it counts, and an earlier model that it goes on from."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from synapse.ml.lightgbm import LightGBMClassificationModel

from testing.workloads import clicks
from workloads import session
from workloads.errors import WorkloadError
from workloads.evaluation import learning_curve, metrics
from workloads.training import fit, spark_ml_io

# Imported, a session fixture would be made once for every module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark


@pytest.mark.parametrize("setting", ["spark.speculation", "spark.dynamicAllocation.enabled"])
def test_a_cluster_that_may_change_mid_fit_is_refused(
    setting: str, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A running session cannot be given these.
    get = spark.conf.get
    monkeypatch.setattr(type(spark.conf), "get", lambda _, key, *d: "true" if key == setting else get(key, *d))
    with pytest.raises(WorkloadError, match=f"{setting} is on"):
        session.check_for_training(spark)


@pytest.mark.parametrize("setting", ["spark.task.reaper.enabled", "spark.task.reaper.killTimeout"])
def test_a_cluster_that_would_keep_a_lost_workers_ring_waiting_is_refused(
    setting: str, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = {"spark.task.reaper.enabled": "true", "spark.task.reaper.killTimeout": "20s"}
    get = spark.conf.get

    def without(_: Any, key: str, *default: str) -> Any:
        return default[0] if key == setting else sound.get(key) or get(key, *default)

    monkeypatch.setattr(session, "_one_process", lambda _: False)
    monkeypatch.setattr(type(spark.conf), "get", without)
    with pytest.raises(WorkloadError, match=f"{setting} is off"):
        session.check_for_training(spark)


def test_a_model_with_too_few_trees_is_refused(spark: SparkSession) -> None:
    """No leaf may be as small as all rows are: LightGBM stops, and SynapseML says nothing."""
    dataset = clicks.dataset(num_iterations=100, min_data_in_leaf=100_000)
    with (
        fit.laid_out(clicks.rows(spark, 2_000), 2) as rows,
        pytest.raises(WorkloadError, match="trees of 100: a worker failed mid-fit, or no split"),
    ):
        fit.fit(rows, dataset)


@pytest.mark.parametrize(
    ("trees", "best", "patience", "whole"),
    [
        pytest.param(100, -1, 0, True, id="all of them"),
        pytest.param(99, -1, 0, False, id="one is missing"),
        pytest.param(41, 40, 10, True, id="stopped early"),
        pytest.param(100, -1, 10, True, id="never stopped"),
        pytest.param(60, -1, 10, False, id="failed before it could stop"),
        pytest.param(40, 40, 10, False, id="stopped early, and one is missing"),
        pytest.param(96, 95, 10, False, id="stopped before it was patient"),
    ],
)
def test_trees_are_counted_however_the_fit_ended(trees: int, best: int, patience: int, whole: bool) -> None:
    wanted = clicks.dataset(num_iterations=100, early_stopping_round=patience).model
    if whole:
        fit.check_trees(trees, best, wanted)
    else:
        with pytest.raises(WorkloadError, match=f"returned {trees} trees of 100"):
            fit.check_trees(trees, best, wanted)


def test_a_fit_goes_on_from_an_earlier_model_and_learns_what_it_misses(spark: SparkSession) -> None:
    """Ten trees on top of thirty say what forty say, and better than the thirty."""
    dataset, test = clicks.dataset(num_iterations=30), clicks.rows(spark, 4_000, first=1_000_000)
    with fit.laid_out(clicks.rows(spark, 8_000), 2) as rows:
        thirty, forty = fit.fit(rows, dataset), fit.fit(rows, clicks.dataset(num_iterations=40))
        joined = fit.fit(rows, clicks.dataset(num_iterations=10), earlier_model=thirty.getNativeModel())
        other = dataclasses.replace(dataset, features=dict(reversed(dataset.features.items())))
        with pytest.raises(WorkloadError, match="cannot go on from the earlier model: it has 'I1_number' where 'I6"):
            fit.fit(rows, other, earlier_model=thirty.getNativeModel())
    assert joined.getBoosterNumTotalIterations() == 40

    def loss(model: LightGBMClassificationModel) -> float:
        scored = (
            model.transform(test).select("label", spark_ml_io.vector_to_array("probability")[1].alias("p")).collect()
        )
        return metrics.log_loss(np.array([row.label for row in scored]), np.array([row.p for row in scored]))

    assert loss(joined) < loss(thirty) - 0.001
    assert abs(loss(joined) - loss(forty)) < 0.005


def test_the_curve_ends_at_the_loss_of_the_whole_model(spark: SparkSession) -> None:
    dataset = clicks.dataset(num_iterations=20, early_stopping_round=0)
    with fit.laid_out(clicks.rows(spark, 2_000, validation=0.2), 0) as rows:
        model = fit.fit(rows, dataset)
        curves = learning_curve.by_tree(model, rows, 1_600, 400)
        scored = (
            model.transform(rows).select("validation", "label", spark_ml_io.vector_to_array("probability")[1]).collect()
        )
    for name, validates in (("train", False), ("validation", True)):
        labels, probabilities = np.array([row[1:] for row in scored if row[0] is validates]).T
        by_tree = curves[f"{name}/log_loss_by_tree"]
        assert len(by_tree) == 20
        assert by_tree[-1] == pytest.approx(metrics.log_loss(labels, probabilities), abs=1e-12)
        assert by_tree[-1] < by_tree[0]
