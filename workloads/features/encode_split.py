"""Count levels and encode the training and validation rows of one split, and release the cached frames.

Does not fit or evaluate anything: `tasks/train.py`, `tasks/crossvalidate.py` and `tasks/tune.py` do.
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
class EncodedSplit:
    rows: DataFrame
    """(label, validation, features)"""
    levels: Mapping[str, Levels]
    """Serving tables by encoding: all training rows count."""
    counts: DataFrame
    """(encoding, level, rows, residuals) of every level, also those that are too rare to be kept."""
    totals: Totals


@contextmanager
def encode_learning_rows(learning: DataFrame, dataset: Spec) -> Iterator[EncodedSplit]:
    """Encode the training and validation rows of a split (`Split.learning`).

    The result is valid inside the block; cached frames are released at its end.
    """
    cached = []
    if dataset.encoder.passes:  # each pass reads all rows twice
        learning = learning.select(*_columns(dataset)).persist()
        cached.append(learning)
    training = learning.filter(F.col("part") < dataset.encoder.parts)
    try:
        totals = target_statistics.count_totals(learning, dataset)
        counts = target_statistics.count_levels(training, dataset, totals).persist()
        cached.append(counts)
        # Checkpoints drop the plans. Where a frame is joined or united with itself, Spark does not recognise that its
        # source is cached and would count all levels again; and each of the many joins with the lookup table would be
        # planned with the whole plan of the table.
        levels = encode.frequent_levels(counts, dataset.encoder).localCheckpoint(eager=False)
        lookup = encode.training_lookup(levels, learning, dataset, totals).localCheckpoint(eager=False)
        rows = encode.encode_rows(learning, dataset, lookup)
        yield EncodedSplit(rows, encode.serving_tables(levels, dataset), counts, totals)
    finally:
        for frame in cached:
            frame.unpersist()


def _columns(dataset: Spec) -> list[str]:
    """Return the columns that counting and encoding read."""
    levels = [levels_column(name) for name in dataset.encodings]
    numbers = [number_column(name) for name, feature in dataset.features.items() if not feature.categorical]
    return [*dict.fromkeys(("label", dataset.label.outcome)), "part", *levels, *numbers]
