"""The baseline, what serves now, and how far rows have moved: on the shop's model, which stands in for all of them."""

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

# Imported, a session fixture would be made once for every module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def serving(shop: Trained) -> Live:
    found = live_model.load(shop.artefact, shop.dataset)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def rows(shop: Trained, spark: SparkSession) -> split.Split:
    return split.by_time(
        spark.read.parquet(str(shop.features)), prepare.prepared(shop.features, shop.dataset), shop.dataset
    )


def moved(serving: Live, training: DataFrame, dataset: spec.Spec) -> dict[str, dict[str, Any]]:
    return drift.since(serving, drift.sample(training, training.count(), dataset))


def test_psi_is_nothing_for_the_same_and_its_formula_for_others() -> None:
    assert drift.psi([0.2, 0.8, 0.0], [0.2, 0.8, 0.0]) == 0
    assert drift.psi([0.5, 0.5], [0.25, 0.75]) == pytest.approx(-0.25 * np.log(0.5) + 0.25 * np.log(1.5))
    assert np.isfinite(drift.psi([1.0, 0.0], [0.0, 1.0]))


def test_shares_of_every_feature_are_whole_and_deciles_are_tenths(shop: Trained) -> None:
    profile = shop.read("profile.json")["features"]
    assert list(profile) == list(shop.dataset.features)
    for of in profile.values():
        assert sum(of["shares"]) == pytest.approx(1)
    assert len(profile["age"]["edges"]) == 9
    assert max(profile["age"]["shares"][:-1]) < 0.2
    assert profile["age"]["shares"][-1] == pytest.approx(1 / 9, abs=0.03)
    assert set(profile["gender"]["levels"]) == {"F", "M"}
    assert len(profile["item_id"]["levels"]) == 20


def test_the_same_rows_have_not_moved(serving: Live, rows: split.Split, shop: Trained) -> None:
    found = moved(serving, rows.learning, shop.dataset)
    assert list(found) == list(shop.dataset.features)
    assert all(of["psi"] == 0 and not of["unseen_rise"] for of in found.values())
    assert found["age"]["unseen_share"] is None
    assert found["gender"]["unseen_share"] == 0


def test_shifted_columns_are_told_from_those_that_stayed(serving: Live, rows: split.Split, shop: Trained) -> None:
    """Older users, ids that are written anew, and genres that are gone."""
    shifted = rows.learning.withColumns(
        {
            "age": F.col("age") + 15,
            "item_id": F.concat(F.lit("new-"), "item_id"),
            "genres": F.array().cast("array<string>"),
        }
    )
    found = moved(serving, shifted, shop.dataset)
    assert {name for name, of in found.items() if of["psi"] > 0.25} == {"age", "item_id", "genres"}
    assert {name: of["unseen_share"] for name, of in found.items() if of["unseen_share"]} == {"item_id": 1.0}


def test_a_profile_is_of_a_bounded_number_of_rows(
    serving: Live, rows: split.Split, shop: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "ROWS", 2_000)
    at_once = rows.learning.withColumn("time", F.lit(0))
    for training in (rows.learning, at_once):
        assert 1_500 < drift.sample(training, rows.learning.count(), shop.dataset).rows < 2_500
    assert max(of["psi"] for of in moved(serving, rows.learning, shop.dataset).values()) < 0.05


def test_a_model_is_not_better_or_worse_than_itself(
    serving: Live, rows: split.Split, shop: Trained, spark: SparkSession
) -> None:
    assert serving.pipeline is not None
    encoded = serving.pipeline.transform(rows.test).select("label", F.lit(False).alias("validation"), "features")
    plain = baseline.fit(encoded, 600, shop.dataset)
    scored = evaluation.score(rows.test, shop.dataset, serving.pipeline, plain, serving)
    drifted = moved(serving, rows.learning, shop.dataset)
    metrics = evaluation.metrics_document(scored, serving, drifted, prepare.prepared(shop.features, shop.dataset), 1)
    assert metrics["live"]["run_id"] == "run-1"
    assert metrics["live"]["auc"] == metrics["auc"] == shop.read("metrics.json")["auc"]
    assert metrics["live"]["auc_change_interval"] == metrics["live"]["log_loss_change_interval"] == [0.0, 0.0]
    trained = {**shop.read("metrics.json"), **metrics}
    card = model_card.html(shop.dataset, trained, shop.read("lineage.json"), {}, scored.labels, scored.probabilities)
    for shown in (
        "logistic regression",
        "Run run-1 on the same rows",
        "+0.0000 to +0.0000",
        "population stability index",
    ):
        assert shown in card


def test_logistic_regression_learns_the_shop_too(shop: Trained) -> None:
    metrics = shop.read("metrics.json")
    assert metrics["baseline"]["auc"] > 0.65
    assert metrics["baseline"]["log_loss"] < metrics["base_log_loss"]
    assert metrics["live"] is None
    assert metrics["drift"] == {}
    assert metrics["probability_std"] > 0.05
    assert metrics["commonest_probability_share"] < 0.1


def test_missing_numbers_stand_at_their_mean(spark: SparkSession, shop: Trained) -> None:
    columns = shop.dataset.model_columns
    age = columns.index(("age", "number"))
    ages = [30.0, float("nan"), 32.0]
    vectors = [([of if place == age else 0.5 for place in range(len(columns))],) for of in ages]
    encoded = spark.createDataFrame(vectors, "of array<double>").select(
        spark_ml_io.array_to_vector(F.col("of")).alias("features")
    )
    means = baseline._means(encoded, shop.dataset)
    assert [mean for mean in means if mean is not None] == [31.0, 0.5, 0.5, 0.5]  # age, year, hour, weekday
    imputed = encoded.select(baseline._imputed(means).alias("features")).collect()
    assert [row.features[age] for row in imputed] == [30.0, 31.0, 32.0]


def test_a_live_model_is_skipped_for_a_reason(shop: Trained, tmp_path: Path) -> None:
    gone = live_model.load(tmp_path / "1234", shop.dataset)
    assert gone == Live("1234", skipped="its artefact is no longer in the lake")
    assert live_model.load(None, shop.dataset) is None
    fewer = dict(shop.dataset.features)
    del fewer["year"]
    crosses = tuple(cross for cross in shop.dataset.crosses if "year" not in cross)
    other = dataclasses.replace(shop.dataset, features=fewer, crosses=crosses)
    assert live_model.load(shop.artefact, other) == Live("run-1", skipped="it needs feature 'year', which is gone")
    typed = dataclasses.replace(
        shop.dataset, features={**shop.dataset.features, "year": spec.Feature("number", "item", bands=(1950.0,))}
    )
    assert live_model.load(shop.artefact, typed) == Live(
        "run-1", skipped="its feature 'year' is of type integer, and now of type number"
    )


def test_an_artefact_without_a_profile_is_compared_all_the_same(shop: Trained, tmp_path: Path) -> None:
    older = Path(shutil.copytree(shop.artefact, tmp_path / "older"))
    (older / "profile.json").unlink()
    found = live_model.load(older, shop.dataset)
    assert found is not None
    assert found.pipeline is not None
    assert found.profile is None
    assert json.loads((shop.artefact / "MANIFEST.json").read_text())["files"]["profile.json"]
