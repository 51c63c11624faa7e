"""The fit: refused clusters, the count of trees, warm start and learning curve."""

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

# A session fixture that is imported would be set up once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark


@pytest.mark.parametrize("setting", ["spark.speculation", "spark.dynamicAllocation.enabled"])
def test_cluster_whose_tasks_may_change_mid_fit_is_refused(
    setting: str, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These cannot be set on a running session.
    get = spark.conf.get
    monkeypatch.setattr(type(spark.conf), "get", lambda _, key, *d: "true" if key == setting else get(key, *d))
    with pytest.raises(WorkloadError, match=f"{setting} is on"):
        session.check_for_training(spark)


@pytest.mark.parametrize("setting", ["spark.task.reaper.enabled", "spark.task.reaper.killTimeout"])
def test_cluster_without_task_reaper_is_refused(
    setting: str, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct = {"spark.task.reaper.enabled": "true", "spark.task.reaper.killTimeout": "20s"}
    get = spark.conf.get

    def without(_: Any, key: str, *default: str) -> Any:
        return default[0] if key == setting else correct.get(key) or get(key, *default)

    monkeypatch.setattr(session, "_one_process", lambda _: False)
    monkeypatch.setattr(type(spark.conf), "get", without)
    with pytest.raises(WorkloadError, match=f"{setting} is off"):
        session.check_for_training(spark)


def test_model_with_too_few_trees_is_refused(spark: SparkSession) -> None:
    """The minimal leaf is larger than the training set: LightGBM stops, and SynapseML reports no error."""
    dataset = clicks.dataset(num_iterations=100, min_data_in_leaf=100_000)
    with (
        fit.laid_out(clicks.rows(spark, 2_000), 2) as rows,
        pytest.raises(WorkloadError, match="trees of 100: a worker failed mid-fit, or no split"),
    ):
        fit.fit(rows, dataset)


@pytest.mark.parametrize(
    ("trees", "best", "rounds", "complete"),
    [
        pytest.param(100, -1, 0, True, id="all trees"),
        pytest.param(99, -1, 0, False, id="one tree missing"),
        pytest.param(41, 40, 10, True, id="stopped early"),
        pytest.param(100, -1, 10, True, id="early stopping not reached"),
        pytest.param(60, -1, 10, False, id="failed before early stopping"),
        pytest.param(40, 40, 10, False, id="stopped early, one tree missing"),
        pytest.param(96, 95, 10, False, id="stopped too early"),
    ],
)
def test_missing_trees_are_detected_after_every_end_of_a_fit(
    trees: int, best: int, rounds: int, complete: bool
) -> None:
    wanted = clicks.dataset(num_iterations=100, early_stopping_round=rounds).model
    if complete:
        fit.check_trees(trees, best, wanted)
    else:
        with pytest.raises(WorkloadError, match=f"returned {trees} trees of 100"):
            fit.check_trees(trees, best, wanted)


def test_warm_start_adds_trees_that_correct_the_earlier_model(spark: SparkSession) -> None:
    """Thirty trees plus ten have about the log loss of forty, and a lower one than thirty."""
    dataset, test = clicks.dataset(num_iterations=30), clicks.rows(spark, 4_000, first=1_000_000)
    with fit.laid_out(clicks.rows(spark, 8_000), 2) as rows:
        thirty, forty = fit.fit(rows, dataset), fit.fit(rows, clicks.dataset(num_iterations=40))
        joined = fit.fit(rows, clicks.dataset(num_iterations=10), earlier_model=thirty.getNativeModel())
        other = dataclasses.replace(dataset, features=dict(reversed(dataset.features.items())))
        with pytest.raises(WorkloadError, match="cannot continue from the earlier model: it has 'I1_number' where 'I6"):
            fit.fit(rows, other, earlier_model=thirty.getNativeModel())
    assert joined.getBoosterNumTotalIterations() == 40

    def loss(model: LightGBMClassificationModel) -> float:
        scored = (
            model.transform(test).select("label", spark_ml_io.vector_to_array("probability")[1].alias("p")).collect()
        )
        return metrics.log_loss(np.array([row.label for row in scored]), np.array([row.p for row in scored]))

    assert loss(joined) < loss(thirty) - 0.001
    assert abs(loss(joined) - loss(forty)) < 0.005


def test_learning_curve_ends_at_the_log_loss_of_the_model(spark: SparkSession) -> None:
    dataset = clicks.dataset(num_iterations=20, early_stopping_round=0)
    with fit.laid_out(clicks.rows(spark, 2_000, validation=0.2), 0) as rows:
        model = fit.fit(rows, dataset)
        curves = learning_curve.by_tree(model, rows, 1_600, 400)
        scored = (
            model.transform(rows).select("validation", "label", spark_ml_io.vector_to_array("probability")[1]).collect()
        )
    for name, validation in (("train", False), ("validation", True)):
        labels, probabilities = np.array([row[1:] for row in scored if row[0] is validation]).T
        by_tree = curves[f"{name}/log_loss_by_tree"]
        assert len(by_tree) == 20
        assert by_tree[-1] == pytest.approx(metrics.log_loss(labels, probabilities), abs=1e-12)
        assert by_tree[-1] < by_tree[0]
