"""Logistic regression on the features that the trees get: what a model must beat to be worth its trees.

Learns from the rows that were encoded for the fit, and scores rows that the serving pipeline encoded, so that both
models are told the same. Is not part of the artefact and never serves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.ml.classification import LogisticRegression, LogisticRegressionModel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads.spec import Spec
from workloads.training import spark_ml_io
from workloads.training.fit import drawn

PROBABILITY = "baseline__probability"
_FEATURES = "baseline__features"
_ROWS = 200_000
"""Of more training rows, about so many teach it: its few coefficients stand still long before."""


@dataclass(frozen=True)
class Baseline:
    means: Sequence[float | None]
    """Of each model column, to stand for a missing value; None where none can be missing."""
    regression: LogisticRegressionModel

    def transform(self, encoded: DataFrame) -> DataFrame:
        """`encoded` has `features`; adds the vector `PROBABILITY`."""
        return self.regression.transform(encoded.withColumn(_FEATURES, _imputed(self.means)))


def fit(laid_out: DataFrame, rows: int, dataset: Spec) -> Baseline:
    """`laid_out` is (label, validation, features), of which `rows` are for training."""
    # Cut off from how they came about: Spark would go through the plan of all encodings for every step of the fit.
    training = laid_out.filter(~F.col("validation") & drawn(_ROWS / rows)).select("label", "features").localCheckpoint()
    means = _means(training, dataset)
    regression = LogisticRegression(
        featuresCol=_FEATURES,
        labelCol="label",
        probabilityCol=PROBABILITY,
        rawPredictionCol="",
        predictionCol="",
        regParam=1e-4,
        maxIter=10,
    )
    return Baseline(means, regression.fit(training.select("label", _imputed(means).alias(_FEATURES))))


def _means(rows: DataFrame, dataset: Spec) -> list[float | None]:
    columns = dataset.model_columns
    numbers = [place for place, (_, value) in enumerate(columns) if value == "number"]
    means: list[float | None] = [None] * len(columns)
    if numbers:
        values = rows.select(spark_ml_io.vector_to_array("features").alias("of"))
        found = values.agg(*(F.avg(F.nanvl(F.col("of")[place], F.lit(None))) for place in numbers)).first()
        assert found is not None
        for place, mean in zip(numbers, found, strict=True):
            means[place] = 0.0 if mean is None else mean
    return means


def _imputed(means: Sequence[float | None]) -> Column:
    if all(mean is None for mean in means):
        return F.col("features")
    features = spark_ml_io.vector_to_array("features")
    # Each in full, and not by a function of an array's elements, which Spark would interpret.
    known = [
        features[place] if mean is None else F.nanvl(features[place], F.lit(mean)) for place, mean in enumerate(means)
    ]
    return spark_ml_io.array_to_vector(F.array(*known))
