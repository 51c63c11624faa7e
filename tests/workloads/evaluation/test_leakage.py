"""Label leakage: a feature that is nearly the label has an AUC near 1 by itself."""

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from infra.config.settings import QualitySettings
from infra.release.checks.gate import evaluate_gate
from testing.workloads import clicks
from testing.workloads.shop import Trained
from workloads.evaluation import leakage, model_card
from workloads.training import spark_ml_io

pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark

ROWS = 4_000
LEAKS = {
    "equal except in one row of a hundred": "IF(id % 100 = 0, 1 - label, label)",
    "inverted": "5 - label",
    "present only for clicks": "IF(label = 1, rand(1), double('NaN'))",
    "present only for other rows": "IF(label = 0, rand(1), double('NaN'))",
}


def with_first(rows: DataFrame, value: str) -> DataFrame:
    """Return the rows with another value of the first feature."""
    others = F.slice(spark_ml_io.vector_to_array("features"), 2, clicks.COLUMNS - 1)
    return rows.withColumn(
        "features", spark_ml_io.array_to_vector(F.concat(F.array(F.expr(value).cast("double")), others))
    )


@pytest.mark.parametrize("leak", LEAKS)
def test_feature_that_is_nearly_the_label_has_a_high_auc(leak: str, spark: SparkSession) -> None:
    dataset = clicks.dataset()
    auc = leakage.feature_auc(with_first(clicks.rows(spark, ROWS), LEAKS[leak]), ROWS, 0, dataset)
    first, *others = dataset.features
    assert auc[first] > 0.985
    assert all(0.5 <= auc[name] < 0.8 for name in others)


def test_leakage_is_measured_on_the_validation_set_if_there_is_one(spark: SparkSession) -> None:
    rows = clicks.rows(spark, ROWS, validation=0.5)
    leaks = "IF(validation, label, 0)"
    auc = leakage.feature_auc(with_first(rows, leaks), ROWS // 2, ROWS // 2, clicks.dataset())
    assert max(auc.values()) == 1.0


def test_too_few_clicks_give_no_auc(spark: SparkSession) -> None:
    few = clicks.rows(spark, ROWS).filter("label = 0 OR id < 10")
    assert set(leakage.feature_auc(few, ROWS, 0, clicks.dataset()).values()) == {None}


def test_training_measures_every_feature_and_the_shop_passes_the_gate(shop: Trained) -> None:
    auc = shop.read("metrics.json")["feature_auc"]
    assert list(auc) == list(shop.dataset.features)
    assert all(0.5 <= value < 0.9 for value in auc.values())
    rules = evaluate_gate(shop.read("metrics.json"), QualitySettings().limits)
    (rule,) = (rule for rule in rules if rule.name == "feature_auc")
    assert rule.passed


def test_model_card_warns_of_label_leakage(shop: Trained) -> None:
    metrics, lineage = shop.read("metrics.json"), shop.read("lineage.json")
    assert "Possible label leakage" not in (shop.artefact / "model_card.html").read_text()
    metrics["feature_auc"]["gender"] = 0.999
    card = model_card.html(shop.dataset, metrics, lineage, {}, np.array([0.0, 1.0]), np.array([0.1, 0.9]))
    assert "Possible label leakage: gender alone predicts the label almost perfectly" in card
