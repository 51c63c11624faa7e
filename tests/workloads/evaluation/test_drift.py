"""Baseline, comparison with the live model, and feature drift, all with the shop's model."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from testing.workloads.shop import Trained
from workloads import live_model, spec
from workloads.data import split
from workloads.evaluation import drift, evaluation, model_card
from workloads.live_model import Live
from workloads.tasks import prepare
from workloads.training import baseline, spark_ml_io

# A session fixture that is imported would be set up once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def live(shop: Trained) -> Live:
    loaded = live_model.load(shop.artefact, shop.dataset)
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def rows(shop: Trained, spark: SparkSession) -> split.Split:
    table, prepared = spark.read.parquet(str(shop.features)), prepare.prepared(shop.features, shop.dataset)
    return split.by_time(table, prepared, shop.dataset, learns_from_test=True)


def feature_drift(live: Live, training: DataFrame, dataset: spec.Spec) -> dict[str, dict[str, Any]]:
    return drift.compare(live, drift.sample(training, training.count(), dataset))


def test_psi_is_zero_for_equal_shares_and_follows_its_formula() -> None:
    assert drift.psi([0.2, 0.8, 0.0], [0.2, 0.8, 0.0]) == 0
    assert drift.psi([0.5, 0.5], [0.25, 0.75]) == pytest.approx(-0.25 * np.log(0.5) + 0.25 * np.log(1.5))
    assert np.isfinite(drift.psi([1.0, 0.0], [0.0, 1.0]))


def test_profile_shares_sum_to_one_and_deciles_hold_a_tenth(shop: Trained) -> None:
    profile = shop.read("profile.json")["features"]
    assert list(profile) == list(shop.dataset.features)
    for feature in profile.values():
        assert sum(feature["shares"]) == pytest.approx(1)
    assert len(profile["age"]["edges"]) == 9
    assert max(profile["age"]["shares"][:-1]) < 0.2
    assert profile["age"]["shares"][-1] == pytest.approx(1 / 9, abs=0.03)
    assert set(profile["gender"]["levels"]) == {"F", "M"}
    assert len(profile["item_id"]["levels"]) == 20


def test_same_rows_have_no_drift(live: Live, rows: split.Split, shop: Trained) -> None:
    by_feature = feature_drift(live, rows.learning, shop.dataset)
    assert list(by_feature) == list(shop.dataset.features)
    assert all(change["psi"] == 0 and not change["unseen_rise"] for change in by_feature.values())
    assert by_feature["age"]["unseen_share"] is None
    assert by_feature["gender"]["unseen_share"] == 0


def test_drift_identifies_exactly_the_shifted_columns(live: Live, rows: split.Split, shop: Trained) -> None:
    """Shifts: older users, new item ids, and empty genres."""
    shifted = rows.learning.withColumns(
        {
            "age": F.col("age") + 15,
            "item_id": F.concat(F.lit("new-"), "item_id"),
            "genres": F.array().cast("array<string>"),
        }
    )
    by_feature = feature_drift(live, shifted, shop.dataset)
    assert {name for name, change in by_feature.items() if change["psi"] > 0.25} == {"age", "item_id", "genres"}
    unseen = {name: change["unseen_share"] for name, change in by_feature.items() if change["unseen_share"]}
    assert unseen == {"item_id": 1.0}


def test_profile_uses_a_bounded_number_of_rows(
    live: Live, rows: split.Split, shop: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "ROWS", 2_000)
    same_time = rows.learning.withColumn("time", F.lit(0))
    for training in (rows.learning, same_time):
        assert 1_500 < drift.sample(training, rows.learning.count(), shop.dataset).rows < 2_500
    assert max(change["psi"] for change in feature_drift(live, rows.learning, shop.dataset).values()) < 0.05


def test_model_compared_with_itself_shows_no_difference(
    live: Live, rows: split.Split, shop: Trained, spark: SparkSession
) -> None:
    assert live.pipeline is not None
    encoded = live.pipeline.transform(rows.test).select("label", F.lit(False).alias("validation"), "features")
    scored = evaluation.score(
        rows.test,
        shop.dataset,
        model=live.pipeline,
        baseline_model=baseline.fit(encoded, 600, shop.dataset),
        live=live,
    )
    metrics = evaluation.metrics_document(
        scored,
        live=live,
        drift=feature_drift(live, rows.learning, shop.dataset),
        prepared=prepare.prepared(shop.features, shop.dataset),
        seed=1,
    )
    assert metrics["live"]["run_id"] == "run-1"
    assert metrics["live"]["auc"] == metrics["auc"] == shop.read("metrics.json")["auc"]
    assert metrics["live"]["auc_change_interval"] == metrics["live"]["log_loss_change_interval"] == [0.0, 0.0]
    trained = {**shop.read("metrics.json"), **metrics}
    card = model_card.html(shop.dataset, trained, shop.read("lineage.json"), {}, scored.labels, scored.probabilities)
    for text in (
        "logistic regression",
        "Run run-1 on the same rows",
        "+0.0000 to +0.0000",
        "population stability index",
    ):
        assert text in card


def test_baseline_learns_the_shop(shop: Trained) -> None:
    metrics = shop.read("metrics.json")
    assert metrics["baseline"]["auc"] > 0.65
    assert metrics["baseline"]["log_loss"] < metrics["base_log_loss"]
    assert metrics["live"] is None
    assert metrics["drift"] == {}
    assert metrics["probability_std"] > 0.05
    assert metrics["commonest_probability_share"] < 0.1


def test_baseline_replaces_missing_numbers_by_their_mean(spark: SparkSession, shop: Trained) -> None:
    columns = shop.dataset.model_columns
    age = columns.index(("age", "number"))
    ages = [30.0, float("nan"), 32.0]
    vectors = [([value if index == age else 0.5 for index in range(len(columns))],) for value in ages]
    encoded = spark.createDataFrame(vectors, "values array<double>").select(
        spark_ml_io.array_to_vector(F.col("values")).alias("features")
    )
    means = baseline.column_means(encoded, shop.dataset)
    assert [mean for mean in means if mean is not None] == [31.0, 0.5, 0.5, 0.5]  # age, year, hour, weekday
    imputed = encoded.select(baseline.impute(means).alias("features")).collect()
    assert [row.features[age] for row in imputed] == [30.0, 31.0, 32.0]


def test_incomparable_live_model_is_skipped_with_the_reason(shop: Trained, tmp_path: Path) -> None:
    gone = live_model.load(tmp_path / "1234", shop.dataset)
    assert gone == Live("1234", skipped="its artefact is no longer in the lake")
    assert live_model.load(None, shop.dataset) is None
    fewer = dict(shop.dataset.features)
    del fewer["year"]
    crosses = tuple(cross for cross in shop.dataset.crosses if "year" not in cross)
    other = dataclasses.replace(shop.dataset, features=fewer, crosses=crosses)
    assert live_model.load(shop.artefact, other) == Live(
        "run-1", skipped="it needs feature 'year', which the spec no longer has"
    )
    typed = dataclasses.replace(
        shop.dataset, features={**shop.dataset.features, "year": spec.Feature("number", "item", bands=(1950.0,))}
    )
    assert live_model.load(shop.artefact, typed) == Live(
        "run-1", skipped="its feature 'year' has type integer, and type number in the spec"
    )


def test_artefact_without_a_profile_is_still_compared(shop: Trained, tmp_path: Path) -> None:
    older = Path(shutil.copytree(shop.artefact, tmp_path / "older"))
    (older / "profile.json").unlink()
    loaded = live_model.load(older, shop.dataset)
    assert loaded is not None
    assert loaded.pipeline is not None
    assert loaded.profile is None
    assert json.loads((shop.artefact / "MANIFEST.json").read_text())["files"]["profile.json"]
