"""Baseline: logistic regression on the features of the trees, which LightGBM must beat to justify its complexity.

It is fitted on the encoded training rows and scores rows that the serving pipeline encoded, so both models see the
same features. It is not part of the artefact and is never deployed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.ml.classification import LogisticRegression, LogisticRegressionModel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads.features.sampling import in_sample
from workloads.spec import Spec
from workloads.training import spark_ml_io

PROBABILITY = "baseline__probability"
_FEATURES = "baseline__features"
_ROWS = 200_000
"""The fit uses a sample of about this size; with so few coefficients, more rows change nothing."""


@dataclass(frozen=True)
class Baseline:
    means: Sequence[float | None]
    """Means that replace missing values, by model column; None for encodings, which are never missing."""
    regression: LogisticRegressionModel

    def transform(self, encoded: DataFrame) -> DataFrame:
        """Add the vector `PROBABILITY` to rows with a vector `features`."""
        return self.regression.transform(encoded.withColumn(_FEATURES, impute(self.means)))


def fit(laid_out: DataFrame, rows: int, dataset: Spec) -> Baseline:
    """Fit the baseline on `rows` rows of (label, features)."""
    # The checkpoint drops the plan: Spark would otherwise process the plan of all encodings at every step of the fit.
    sample = laid_out.filter(in_sample(_ROWS / rows))
    training = sample.select("label", "features").localCheckpoint()
    means = column_means(training, dataset)
    regression = LogisticRegression(
        featuresCol=_FEATURES,
        labelCol="label",
        probabilityCol=PROBABILITY,
        rawPredictionCol="",
        predictionCol="",
        regParam=1e-4,
        maxIter=10,
    )
    return Baseline(means, regression.fit(training.select("label", impute(means).alias(_FEATURES))))


def column_means(rows: DataFrame, dataset: Spec) -> list[float | None]:
    """Return the mean of each model column that is a number, 0 if no row has it; None for encodings."""
    columns = dataset.model_columns
    numbers = [index for index, (_, value) in enumerate(columns) if value == "number"]
    means: list[float | None] = [None] * len(columns)
    if numbers:
        values = rows.select(spark_ml_io.vector_to_array("features").alias("values"))
        averages = values.agg(*(F.avg(F.nanvl(F.col("values")[index], F.lit(None))) for index in numbers)).first()
        assert averages is not None
        for index, mean in zip(numbers, averages, strict=True):
            means[index] = 0.0 if mean is None else mean
    return means


def impute(means: Sequence[float | None]) -> Column:
    """Return the vector `features` with missing values replaced by `means`."""
    if all(mean is None for mean in means):
        return F.col("features")
    features = spark_ml_io.vector_to_array("features")
    # One expression per element: Spark would interpret a function over the array's elements.
    imputed = [
        features[index] if mean is None else F.nanvl(features[index], F.lit(mean)) for index, mean in enumerate(means)
    ]
    return spark_ml_io.array_to_vector(F.array(*imputed))
