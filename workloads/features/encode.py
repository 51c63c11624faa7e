"""Levels as two numbers each: cross-fitted for training, held in JVM-only Spark stages for serving.

A level becomes (smoothed effect on the click rate, log of 1 + count), both float32; a level that is rare or was never
seen becomes (0, 0), so it stands at the base rate. An encoding's value is the mean over the row's levels.

For serving, that is what Spark's `Word2VecModel.transform` computes, a lookup without Python that scales to a million
levels and takes several levels of one row, so each encoding is one, written in its saved layout. Training rows need
another pair for every part (`target_statistics.py`): one table by hash of (encoding, part, levels), broadcast once and
joined once for each encoding. The driver holds at most `max_levels` levels, and as many pairs as there are parts that
use them; hashes have 64 bits, so that two of ten million coincide with a chance of 3 in a million.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads.features.categories import MISSING_LEVEL, levels_column, number_column
from workloads.features.target_statistics import Totals, effect, present
from workloads.spec import PAIR, Encoder, Spec
from workloads.training import spark_ml_io

WIDTH = len(PAIR)
_MOST_SEEN = 1_000
"""Levels seen oftener are never too many."""
_ALL_THERE_ARE = 1_000_000
"""Partitions: coalescing to so many changes none, but ends the method that Spark generates. Normalising, all joins and
the vector in one are more than Java's compilers take: it would be interpreted, in twice the time."""


def encoded_column(name: str) -> str:
    return f"{name}__encoded"


def lookup_uid(name: str) -> str:
    return f"Word2VecModel_{name}"


@dataclass(frozen=True)
class Levels:
    """One encoding's levels in ascending byte order, with float32 pairs: what its serving stage holds."""

    words: Sequence[str]
    values: np.ndarray


def frequent(counts: DataFrame, encoder: Encoder) -> DataFrame:
    """The levels that are kept: seen `min_count` times, and no more than `max_levels`, the most frequent ones."""
    seen = F.element_at("rows", encoder.parts + 1)
    often = F.least(seen, F.lit(_MOST_SEEN))
    at_least = encoder.min_count
    kept = counts.filter(seen >= at_least)
    by_count = {row.seen: row["count"] for row in kept.groupBy(often.alias("seen")).count().collect()}
    left = sum(by_count.values())
    for count in sorted(by_count):
        if left <= encoder.max_levels:
            break
        left, at_least = left - by_count[count], count + 1
    return kept.filter(seen >= at_least)


def _pair(rows: Column, left: Column, encoder: Encoder, share: Column | float) -> list[Column]:
    """`share` of all rows is known: scaled up, a count in training means what it will in serving."""
    values = (effect(rows, left, encoder), F.log1p(rows / share))
    return [value.cast("float").alias(name) for name, value in zip(PAIR, values, strict=True)]


def served(levels: DataFrame, dataset: Spec) -> dict[str, Levels]:
    """By encoding, the kept levels and the missing one, which a lookup may not be without."""
    encoder = dataset.encoder
    rows, left = (F.element_at(value, encoder.parts + 1) for value in ("rows", "left"))
    pair = [value.alias(name) for name, value in zip(PAIR, _pair(rows, left, encoder, 1.0), strict=True)]
    # A few long arrays reach Python far quicker than many small rows.
    sorted_levels = F.array_sort(F.collect_list(F.struct("level", *pair))).alias("of")
    found = levels.groupBy("encoding").agg(sorted_levels)
    rows_of = {row.encoding: row for row in found.select("encoding", "of.level", *(f"of.{v}" for v in PAIR)).collect()}
    every = {}
    for i, name in enumerate(dataset.encodings):
        of = rows_of.get(i)
        words = list(of.level) if of else []
        values = np.array([of[value] if of else [] for value in PAIR], np.float32).T
        if words[:1] != [MISSING_LEVEL]:
            words, values = [MISSING_LEVEL, *words], np.vstack([np.zeros((1, WIDTH), np.float32), values])
        every[name] = Levels(words, values)
    return every


def pairs(levels: DataFrame, rows: DataFrame, dataset: Spec, counted: Totals) -> DataFrame:
    """(key, rate, count) of the levels that the rows of each part have and know; the last part is validation's."""
    encoder = dataset.encoder
    shares = F.array(*(F.lit(counted.share(to) or 1.0) for to in range(encoder.parts + 1)))
    # Each part a row, and not a function of an array's elements, which Spark would interpret.
    parts = F.posexplode(F.arrays_zip("rows", "left")).alias("part", "known")
    known = levels.select("encoding", "level", "rows", parts)
    part, seen = F.col("part"), F.col("known.rows")
    single = known.filter((seen >= encoder.min_count) & present(encoder, "rows", part)).select(
        _key("encoding", "part", "level").alias("key"),
        *_pair(seen, F.col("known.left"), encoder, F.element_at(shares, part + 1)),
    )
    several = [name for name in dataset.encodings if not dataset.single(name)]
    return single.unionByName(_means(single, rows, dataset, several)) if several else single


def _key(encoding: Column | str, part: Column | str, levels: Column | str) -> Column:
    """One level and a list that holds it alone have the same hash."""
    return F.xxhash64(encoding, part, levels)


def _means(single: DataFrame, rows: DataFrame, dataset: Spec, several: Sequence[str]) -> DataFrame:
    """The pairs of lists of two levels or more: each distinct list once, not each row."""
    lists = None
    for name in several:
        place = F.lit(list(dataset.encodings).index(name))
        of = rows.filter(F.size(levels_column(name)) > 1).select(
            place.alias("encoding"), "part", F.col(levels_column(name)).alias("levels")
        )
        lists = of if lists is None else lists.unionByName(of)
    assert lists is not None
    one = lists.distinct().select(
        _key("encoding", "part", "levels").alias("list"),
        F.size("levels").alias("size"),
        F.explode(F.transform("levels", lambda level: _key("encoding", "part", level))).alias("key"),
    )
    means = [(F.sum(value) / F.first("size")).cast("float").alias(value) for value in PAIR]
    return one.join(single, "key").groupBy("list").agg(*means).withColumnRenamed("list", "key")


def encode_rows(rows: DataFrame, dataset: Spec, table: DataFrame) -> DataFrame:
    """Normalised rows with `part` → (label, validation, features), each encoded from what its part knows.

    `table` is `pairs`; rows of the last part are for validation.
    """
    keys = []
    for i, name in enumerate(dataset.encodings):
        levels = F.col(levels_column(name))
        keys.append(_key(F.lit(i), "part", levels[0] if dataset.single(name) else levels).alias(f"key_{i}"))
    numbers = [number_column(name) for name, feature in dataset.features.items() if not feature.categorical]
    rows = rows.select("label", (F.col("part") == dataset.encoder.parts).alias("validation"), *numbers, *keys)
    rows = rows.coalesce(_ALL_THERE_ARE)
    values: dict[tuple[str, str], Column] = {}
    for i, name in enumerate(dataset.encodings):
        # The same table each time, so that Spark broadcasts it once.
        found = {"key": f"found_{i}"} | {value: f"{value}_{i}" for value in PAIR}
        rows = rows.join(F.broadcast(table).withColumnsRenamed(found), F.col(f"key_{i}") == F.col(f"found_{i}"), "left")
        for value in PAIR:
            values[name, value] = F.coalesce(F.col(f"{value}_{i}").cast("double"), F.lit(0.0))
    for name, feature in dataset.features.items():
        if not feature.categorical:
            values[name, "number"] = F.coalesce(number_column(name), F.lit(float("nan")))
    vector = F.array(*(values[column] for column in dataset.model_columns))
    return rows.select("label", "validation", spark_ml_io.array_to_vector(vector).alias("features"))
