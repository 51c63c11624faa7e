"""Count levels and encode the training and validation rows of one split, and release the cached frames.

Does not fit or evaluate anything: `tasks/train.py`, `tasks/crossvalidate.py` and `tasks/tune.py` do.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import DataFrame

from workloads.data.split import Split
from workloads.features import encode, target_statistics
from workloads.features.categories import levels_column, number_column
from workloads.features.encode import Levels
from workloads.spec import Spec


@dataclass(frozen=True)
class EncodedSplit:
    rows: DataFrame
    """(label, validation, test, features)"""
    judged: Mapping[str, Levels]
    """Serving tables by encoding, of the model that the test set judges: training and validation rows count."""
    served: Mapping[str, Levels]
    """Serving tables of the model that learned from all rows; the same as `judged` without test rows."""
    counts: DataFrame
    """(encoding, level, rows, residuals) of every level, also those that are too rare to be kept."""
    rows_train: int
    rows_validation: int
    rows_test: int
    """Test rows that are encoded, too, because the served model learns from them."""

    @property
    def learned(self) -> int:
        """Number of rows that the judged model learns from."""
        return self.rows_train + self.rows_validation


@contextmanager
def encode_learning_rows(rows: Split, dataset: Spec) -> Iterator[EncodedSplit]:
    """Encode the rows that models learn from (`Split.learning`).

    The result is valid inside the block; cached frames are released at its end.
    """
    encoder, learning, cached = dataset.encoder, rows.learning, []
    if encoder.passes:  # each pass reads all rows twice
        learning = learning.select(*_columns(dataset)).persist()
        cached.append(learning)
    try:
        totals = target_statistics.count_totals(learning, dataset, encoder.parts + 1 + rows.learns_from_test)
        counts = target_statistics.count_levels(learning, dataset, totals).persist()
        cached.append(counts)
        # Checkpoints drop the plans. Where a frame is joined or united with itself, Spark does not recognise that its
        # source is cached and would count all levels again; and each of the many joins with the lookup table would be
        # planned with the whole plan of the table.
        levels = encode.frequent_levels(counts, encoder).localCheckpoint(eager=False)
        lookup = encode.training_lookup(levels, learning, dataset, totals).localCheckpoint(eager=False)
        encoded = encode.encode_rows(learning, dataset, lookup)
        judged = served = encode.serving_tables(levels, dataset, totals, encoder.parts + 1)
        if rows.learns_from_test:
            served = encode.serving_tables(levels, dataset, totals, totals.parts)
        train, learned = totals.rows[encoder.parts], totals.rows[encoder.parts + 1]
        sizes = (train, learned - train, totals.rows[-1] - learned)
        yield EncodedSplit(encoded, judged, served, counts, *sizes)
    finally:
        for frame in cached:
            frame.unpersist()


def _columns(dataset: Spec) -> list[str]:
    """Return the columns that counting and encoding read."""
    levels = [levels_column(name) for name in dataset.encodings]
    numbers = [number_column(name) for name, feature in dataset.features.items() if not feature.categorical]
    return [*dict.fromkeys(("label", dataset.label.outcome)), "part", *levels, *numbers]
