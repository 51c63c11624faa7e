"""Target encoding: each level as two numbers, cross-fitted for training and held in JVM-only Spark stages for serving.

The pair of a level is (smoothed effect on the click rate, log of 1 + count), both float32. A level that is rare or
unseen has the pair (0, 0), that is the base rate. An encoding's value is the mean over the row's levels.

Serving looks each encoding up in a `Word2VecModel`, written in Spark's saved layout: its `transform` returns the mean
vector of a row's levels, without Python, for up to a million levels. Training needs other pairs for every part
(`target_statistics.py`): one table, keyed by a hash of (encoding, part, levels), is broadcast once and joined once for
each encoding. The driver holds at most `max_levels` levels, and one pair per level and part that uses it. Hashes have
64 bits: the probability that two of ten million coincide is 3 in a million.

Does not count levels (`target_statistics.py`) or manage cached frames (`encode_split.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads.features.categories import MISSING_LEVEL, levels_column, number_column
from workloads.features.target_statistics import Totals, occurs_in_part, smoothed_effect
from workloads.spec import PAIR, Encoder, Spec
from workloads.training import spark_ml_io

WIDTH = len(PAIR)
_ALWAYS_KEPT = 1_000
"""Levels with more rows than this are always kept, even above `max_levels`."""
_UNBOUNDED_PARTITIONS = 1_000_000
"""Coalescing to this number of partitions changes no partition, but ends the Java method that Spark generates.

Normalisation, all joins and the vector in one method are too long for Java's compilers: Java would interpret it, which
takes twice the time.
"""


def encoded_column(name: str) -> str:
    return f"{name}__encoded"


def lookup_uid(name: str) -> str:
    return f"Word2VecModel_{name}"


@dataclass(frozen=True)
class Levels:
    """The serving table of one encoding."""

    levels: Sequence[str]
    """Ascending by their UTF-8 bytes."""
    values: np.ndarray
    """Pairs, (levels, 2) float32."""


def frequent_levels(counts: DataFrame, encoder: Encoder) -> DataFrame:
    """Return the levels with a count of at least `min_count`, and of these the `max_levels` most frequent ones."""
    count = F.element_at("rows", -1)
    minimum = encoder.min_count
    eligible = counts.filter(count >= minimum)
    bounded = F.least(count, F.lit(_ALWAYS_KEPT)).alias("bounded")
    levels_by_count = {row.bounded: row["count"] for row in eligible.groupBy(bounded).count().collect()}
    remaining = sum(levels_by_count.values())
    for value in sorted(levels_by_count):
        if remaining <= encoder.max_levels:
            break
        remaining, minimum = remaining - levels_by_count[value], value + 1
    return eligible.filter(count >= minimum)


def _pair(rows: Column, residual: Column, encoder: Encoder, share: Column | float) -> list[Column]:
    """Return the pair of a level. Counts of a part that knows a `share` of all rows are scaled up by it, so that a
    count means the same in training as in serving."""
    values = (smoothed_effect(rows, residual, encoder), F.log1p(rows / share))
    return [value.cast("float").alias(name) for name, value in zip(PAIR, values, strict=True)]


def serving_tables(levels: DataFrame, dataset: Spec, totals: Totals, part: int) -> dict[str, Levels]:
    """Return, by encoding, the kept levels and the missing level, which a `Word2VecModel` needs.

    part: the tables hold what encodes rows of this part; `totals.parts` counts all rows.
    """
    encoder = dataset.encoder
    rows, residual = (F.element_at(column, part + 1) for column in ("rows", "residuals"))
    columns = _pair(rows, residual, encoder, totals.share(part))
    pair = [column.alias(name) for name, column in zip(PAIR, columns, strict=True)]
    levels = levels.filter(rows >= encoder.min_count)
    # A few long arrays reach Python much faster than many small rows.
    sorted_levels = F.array_sort(F.collect_list(F.struct("level", *pair))).alias("sorted")
    arrays = levels.groupBy("encoding").agg(sorted_levels)
    selected = ("encoding", "sorted.level", *(f"sorted.{value}" for value in PAIR))
    row_by_encoding = {row.encoding: row for row in arrays.select(*selected).collect()}
    tables = {}
    for i, name in enumerate(dataset.encodings):
        row = row_by_encoding.get(i)
        names = list(row.level) if row else []
        values = np.array([row[value] if row else [] for value in PAIR], np.float32).T
        if names[:1] != [MISSING_LEVEL]:
            names, values = [MISSING_LEVEL, *names], np.vstack([np.zeros((1, WIDTH), np.float32), values])
        tables[name] = Levels(names, values)
    return tables


def training_lookup(levels: DataFrame, rows: DataFrame, dataset: Spec, totals: Totals) -> DataFrame:
    """Return (key, rate, count) for every part and each level or list of levels that occurs in it and that it knows."""
    encoder = dataset.encoder
    shares = F.array(*(F.lit(totals.share(part) or 1.0) for part in range(totals.parts)))
    # One row per part: Spark would interpret a function over the array's elements.
    parts = F.posexplode(F.slice(F.arrays_zip("rows", "residuals"), 1, totals.parts)).alias("part", "known")
    by_part = levels.select("encoding", "level", "rows", parts)
    part, count = F.col("part"), F.col("known.rows")
    single = by_part.filter((count >= encoder.min_count) & occurs_in_part(encoder, "rows", part)).select(
        _key("encoding", "part", "level").alias("key"),
        *_pair(count, F.col("known.residuals"), encoder, F.element_at(shares, part + 1)),
    )
    multivalued = [name for name in dataset.encodings if not dataset.single(name)]
    return single.unionByName(_list_means(single, rows, dataset, multivalued)) if multivalued else single


def _key(encoding: Column | str, part: Column | str, levels: Column | str) -> Column:
    """Return the hash of a level or a list of levels. A list of one level has the same hash as the level itself."""
    return F.xxhash64(encoding, part, levels)


def _list_means(single: DataFrame, rows: DataFrame, dataset: Spec, multivalued: Sequence[str]) -> DataFrame:
    """Return the mean pairs of lists of two levels or more, computed once for each distinct list."""
    lists = None
    for name in multivalued:
        encoding = F.lit(list(dataset.encodings).index(name))
        lists_of_encoding = rows.filter(F.size(levels_column(name)) > 1).select(
            encoding.alias("encoding"), "part", F.col(levels_column(name)).alias("levels")
        )
        lists = lists_of_encoding if lists is None else lists.unionByName(lists_of_encoding)
    assert lists is not None
    members = lists.distinct().select(
        _key("encoding", "part", "levels").alias("list"),
        F.size("levels").alias("size"),
        F.explode(F.transform("levels", lambda level: _key("encoding", "part", level))).alias("key"),
    )
    means = [(F.sum(value) / F.first("size")).cast("float").alias(value) for value in PAIR]
    return members.join(single, "key").groupBy("list").agg(*means).withColumnRenamed("list", "key")


def encode_rows(rows: DataFrame, dataset: Spec, lookup: DataFrame) -> DataFrame:
    """Return (label, validation, test, features) of rows with levels and `part`.

    lookup: the table of `training_lookup`.
    """
    keys = []
    for i, name in enumerate(dataset.encodings):
        levels = F.col(levels_column(name))
        keys.append(_key(F.lit(i), "part", levels[0] if dataset.single(name) else levels).alias(f"key_{i}"))
    numbers = [number_column(name) for name, feature in dataset.features.items() if not feature.categorical]
    after_training = F.col("part") - dataset.encoder.parts
    stages = [(after_training == 0).alias("validation"), (after_training == 1).alias("test")]
    rows = rows.select("label", *stages, *numbers, *keys)
    rows = rows.coalesce(_UNBOUNDED_PARTITIONS)
    values: dict[tuple[str, str], Column] = {}
    for i, name in enumerate(dataset.encodings):
        # The same table in every join, so Spark broadcasts it once.
        renamed = {"key": f"lookup_key_{i}"} | {value: f"{value}_{i}" for value in PAIR}
        table = F.broadcast(lookup).withColumnsRenamed(renamed)
        rows = rows.join(table, F.col(f"key_{i}") == F.col(f"lookup_key_{i}"), "left")
        for value in PAIR:
            values[name, value] = F.coalesce(F.col(f"{value}_{i}").cast("double"), F.lit(0.0))
    for name, feature in dataset.features.items():
        if not feature.categorical:
            values[name, "number"] = F.coalesce(number_column(name), F.lit(float("nan")))
    vector = F.array(*(values[column] for column in dataset.model_columns))
    return rows.select("label", "validation", "test", spark_ml_io.array_to_vector(vector).alias("features"))
