"""Which rows train, which choose the number of trees, and which judge.

In production by time, because tomorrow's clicks are what a model is for: the last part judges, the part before it is
for early stopping, and what comes first trains. Does not count or encode anything.

Of the rows to learn from, one in twenty is not told the hour or weekday of its time, for a request may not tell them
either: what training computes is missing nowhere, and LightGBM takes a missing number for 0 where it has seen none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads.features import target_statistics
from workloads.features.categories import normaliser
from workloads.spec import Spec

_UNTOLD = 20


@dataclass(frozen=True)
class Split:
    learning: DataFrame
    """Normalised, with `part`: 0 to parts - 1 train, the one after them is for early stopping."""
    test: DataFrame
    """As prepared."""


def by_time(table: DataFrame, prepared: Mapping[str, Any], dataset: Spec, test: Column | None = None) -> Split:
    """With `test`, those rows judge instead of the last ones, and the others are cut by time."""
    percentiles: Sequence[float] = prepared["time_percentiles"]
    last = 100 if test is not None else round(100 * (1 - dataset.test_share))
    end = last - (round(100 * dataset.validation_share) if dataset.model.early_stopping_round else 0)
    parts = dataset.encoder.parts
    edges = [percentiles[round(end * k / parts)] for k in range(1, parts)]
    if test is None:
        test = F.col("time") >= percentiles[last]
    validation = F.col("time") >= percentiles[end] if end < last else F.lit(False)
    return _split(table, dataset, test, validation, edges)


def at_random(table: DataFrame, dataset: Spec) -> Split:
    """For comparison with what is published on random splits; the spec's `history` should then be `others`."""
    drawn = target_statistics.drawn(dataset, dataset.model.seed + 1, 100)
    test = round(100 * dataset.test_share)
    validation = round(100 * dataset.validation_share) if dataset.model.early_stopping_round else 0
    return _split(table, dataset, drawn < test, drawn < test + validation, [])


def _split(table: DataFrame, dataset: Spec, test: Column, validation: Column, edges: Sequence[float]) -> Split:
    placed = F.when(validation, F.lit(dataset.encoder.parts)).otherwise(target_statistics.part(dataset, edges))
    learning = table.filter(~test).withColumn("part", placed)
    if dataset.of_time:
        told = target_statistics.drawn(dataset, dataset.model.seed + 2, _UNTOLD) > 0
        learning = learning.withColumns({name: F.when(told, F.col(name)) for name in dataset.of_time})
    return Split(normaliser(dataset).transform(learning), table.filter(test))
