"""Encoded rows with a signal, the same in every session, and a spec whose fit takes a second."""

import dataclasses
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from workloads import spec
from workloads.spec import Spec
from workloads.training import spark_ml_io

COLUMNS = 6


def dataset(**model: Any) -> Spec:
    shipped = spec.load("criteo")
    numbers = {name: feature for name, feature in shipped.features.items() if not feature.categorical}
    wanted = spec.Model(**({"num_iterations": 40, "num_leaves": 15, "learning_rate": 0.1} | model))
    features = dict(list(numbers.items())[:COLUMNS])
    return dataclasses.replace(shipped, features=features, crosses=(), slices=(), model=wanted)


def rows(spark: SparkSession, count: int, first: int = 0, validation: float = 0.0) -> DataFrame:
    """Return (id, label, features, validation); the last share of the rows, `validation`, is the validation set."""

    def uniform(stream: int) -> Column:
        return F.pmod(F.xxhash64("id", F.lit(stream)), F.lit(1_000_003)) / 1_000_003.0

    x = [2 * uniform(column) - 1 for column in range(COLUMNS)]
    score = 2 * x[0] * x[1] + F.sin(3 * x[2]) + x[3] - 1
    return spark.range(first, first + count, numPartitions=2).select(
        "id",
        (uniform(COLUMNS) < 1 / (1 + F.exp(-score))).cast("double").alias("label"),
        spark_ml_io.array_to_vector(F.array(*x)).alias("features"),
        (F.col("id") >= first + count * (1 - validation)).alias("validation"),
    )
