"""Rows of one split → a model and the levels it was trained on: count, encode, fit.

Writes nothing and judges nothing: `train.py` makes an artefact of it, `crossvalidate.py` and `tune.py` only a score.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from workloads.features import encode, target_statistics
from workloads.features.categories import levels_column, number_column
from workloads.features.encode import Levels
from workloads.features.target_statistics import Totals
from workloads.spec import Spec


@dataclass(frozen=True)
class Encoded:
    rows: DataFrame
    """(label, validation, features)"""
    levels: Mapping[str, Levels]
    """By encoding, what a row after training knows."""
    counts: DataFrame
    """(encoding, level, rows, left), of every level there is."""
    totals: Totals


@contextmanager
def encoded(learning: DataFrame, dataset: Spec) -> Iterator[Encoded]:
    """Of a split's `learning`; what it keeps in memory is let go at the end."""
    kept = []
    if dataset.encoder.passes:  # each of them reads all rows twice
        learning = learning.select(*_kept(dataset)).persist()
        kept.append(learning)
    training = learning.filter(F.col("part") < dataset.encoder.parts)
    try:
        totals = target_statistics.totals(learning, dataset)
        counts = target_statistics.count_levels(training, dataset, totals).persist()
        kept.append(counts)
        # Both cut off from how they came about. Where a frame meets itself in a join or a union, Spark does not see
        # that what it comes from is kept, and counts all levels again; and each of the many joins with the table would
        # be planned with all that.
        levels = encode.frequent(counts, dataset.encoder).localCheckpoint(eager=False)
        table = encode.pairs(levels, learning, dataset, totals).localCheckpoint(eager=False)
        rows = encode.encode_rows(learning, dataset, table)
        yield Encoded(rows, encode.served(levels, dataset), counts, totals)
    finally:
        for frame in kept:
            frame.unpersist()


def _kept(dataset: Spec) -> list[str]:
    """What counting and encoding read of a row."""
    levels = [levels_column(name) for name in dataset.encodings]
    numbers = [number_column(name) for name, feature in dataset.features.items() if not feature.categorical]
    return [*dict.fromkeys(("label", dataset.label.outcome)), "part", *levels, *numbers]
