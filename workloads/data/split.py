"""Training, validation and test set of a prepared table.

In production the split is by time, because a model must predict tomorrow's clicks: the last rows are the test set, the
rows before them the validation set for early stopping, and the rest is the training set. Does not count or encode
levels: `workloads/features` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads.data import masking
from workloads.features import sampling, target_statistics
from workloads.features.categories import level_transformer
from workloads.spec import Spec


@dataclass(frozen=True)
class Split:
    learning: DataFrame
    """Rows that models learn from, with their levels and `part`: with n parts of the spec's encoder, 0 to n - 1 for
    training, n for validation, n + 1 for test rows that the served model learns from."""
    test: DataFrame
    """Test rows, with the columns of the prepared table."""
    learns_from_test: bool
    """Whether `learning` holds the test rows, too."""


def by_time(
    table: DataFrame,
    prepared: Mapping[str, Any],
    dataset: Spec,
    test: Column | None = None,
    *,
    learns_from_test: bool = False,
) -> Split:
    """Split by time.

    test: condition of the test rows, in place of the last rows by time; all other rows are then split by time.
    learns_from_test: whether a model that the test set does not judge learns from it.
    """
    percentiles: Sequence[float] = prepared["time_percentiles"]
    last = 100 if test is not None else round(100 * (1 - dataset.test_share))
    end = last - (round(100 * dataset.validation_share) if dataset.model.early_stopping_round else 0)
    parts = dataset.encoder.parts
    edges = [percentiles[round(end * k / parts)] for k in range(1, parts)]
    if test is None:
        test = F.col("time") >= percentiles[last]
    validation = F.col("time") >= percentiles[end] if end < last else F.lit(False)
    return _split(table, dataset, test=test, validation=validation, edges=edges, learns_from_test=learns_from_test)


def at_random(table: DataFrame, dataset: Spec) -> Split:
    """Split at random, for comparison with published figures on random splits.

    The spec's `history` should then be `others`.
    """
    bucket = sampling.hash_bucket(dataset, seed=dataset.model.seed + 1, buckets=100)
    test = round(100 * dataset.test_share)
    validation = round(100 * dataset.validation_share) if dataset.model.early_stopping_round else 0
    return _split(table, dataset, test=bucket < test, validation=bucket < test + validation, edges=[])


def _split(
    table: DataFrame,
    dataset: Spec,
    *,
    test: Column,
    validation: Column,
    edges: Sequence[float],
    learns_from_test: bool = False,
) -> Split:
    parts = dataset.encoder.parts
    training_part = target_statistics.training_part(dataset, edges)
    part = F.when(test, F.lit(parts + 1)).when(validation, F.lit(parts)).otherwise(training_part)
    learning = table.withColumn("part", part)
    if not learns_from_test:
        learning = learning.filter(~test)
    learning = level_transformer(dataset).transform(masking.mask_time_features(learning, dataset))
    return Split(learning, table.filter(test), learns_from_test)
