"""Categorical levels as two numbers each, cross-fitted in training, held in JVM-only Spark stages.

A level becomes (smoothed click rate minus the base rate, log of 1 + count), both float32; a level that is rare or
was never seen becomes (0, 0), so it stands at the base rate. A feature's value is the mean over its levels.

That is what Spark's `Word2VecModel.transform` computes, a lookup without Python that scales to a million levels and
takes multi-valued features, so each categorical is one, written in its saved layout. In training the vectors hold
the pair of every fold side by side, computed without that fold's rows, and a row reads those of its own fold: no
row sees its own label, and training and serving go through the same stage.

One shuffle gives all statistics. The driver holds all kept levels once, when `encoder.npz` is written; the stages
themselves need that much memory on every executor.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyspark.ml.feature import SQLTransformer, Word2VecModel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads import stages
from workloads.spec import Encoder, Spec

MISSING_LEVEL = "\u0000"
PAIR = 2
"""Numbers a level: rate and count."""
EVERY_ROW = -1


def levels_column(feature: str) -> str:
    return f"{feature}__levels"


def encoded_column(feature: str) -> str:
    return f"{feature}__encoded"


def number_column(feature: str) -> str:
    return f"{feature}__number"


def lookup_uid(feature: str) -> str:
    return f"Word2VecModel_{feature}"


def normaliser(dataset: Spec) -> SQLTransformer:
    """Raw columns → the array of levels of every categorical, and a double of every number.

    A level is trimmed of spaces; what is then empty is the missing level. `chr(0)` rather than a literal: how SQL
    reads escapes in one is a setting.
    """
    level = "coalesce(nullif(trim({}), ''), chr(0))"
    columns = []
    for name, feature in dataset.features.items():
        if feature.type == "string":
            columns.append(f"array({level.format(f'`{name}`')}) AS `{levels_column(name)}`")
        elif feature.type == "strings":
            every = f"transform(`{name}`, level -> {level.format('level')})"
            columns.append(f"if(size(`{name}`) > 0, {every}, array(chr(0))) AS `{levels_column(name)}`")
        else:
            columns.append(f"CAST(`{name}` AS DOUBLE) AS `{number_column(name)}`")
    return SQLTransformer(statement=f"SELECT *, {', '.join(columns)} FROM __THIS__")


def fold_of(dataset: Spec) -> Column:
    """By the row's content: the same fold whatever the partitions, and copies of a row stay in one fold."""
    return F.pmod(F.xxhash64("time", *dataset.features, F.lit(dataset.model.seed)), F.lit(dataset.encoder.folds))


def count_levels(train: DataFrame, dataset: Spec) -> DataFrame:
    """(feature, level, rows_k and clicks_k for each fold k) of normalised rows with `fold` and `label`.

    `feature` is the place in the spec's categoricals, or `EVERY_ROW`, which counts the rows themselves.
    """

    def tagged(feature: int, levels: Column) -> Column:
        return F.transform(levels, lambda level: F.struct(F.lit(feature).alias("feature"), level.alias("level")))

    of = [tagged(i, F.col(levels_column(name))) for i, name in enumerate(dataset.categoricals)]
    of.append(tagged(EVERY_ROW, F.array(F.lit(""))))
    exploded = train.select("fold", "label", F.explode(F.flatten(F.array(*of))).alias("of")).select(
        "fold", "label", "of.feature", "of.level"
    )
    # In no fold, so they count nowhere: no lookup may be without a word, and this one is always asked for.
    missing = train.sparkSession.range(len(dataset.categoricals)).selectExpr(
        "-1L AS fold", "0D AS label", "CAST(id AS INT) AS feature", "chr(0) AS level"
    )
    sums = []
    for k in range(dataset.encoder.folds):
        here = F.col("fold") == k
        sums += [
            F.sum(F.when(here, 1.0).otherwise(0.0)).alias(f"rows_{k}"),
            F.sum(F.when(here, F.col("label")).otherwise(0.0)).alias(f"clicks_{k}"),
        ]
    return exploded.unionByName(missing).groupBy("feature", "level").agg(*sums)


def _total(of: str, folds: int, without: int | None = None) -> Column:
    return sum((F.col(f"{of}_{k}") for k in range(folds) if k != without), start=F.lit(0.0))


def totals(counts: DataFrame, encoder: Encoder) -> tuple[int, int]:
    """Rows and clicks."""
    rows, clicks = (_total(of, encoder.folds).cast("long").alias(of) for of in ("rows", "clicks"))
    found = counts.filter(F.col("feature") == EVERY_ROW).select(rows, clicks).collect()
    return (found[0].rows, found[0].clicks) if found else (0, 0)


def vectors(counts: DataFrame, encoder: Encoder, base_rate: float) -> DataFrame:
    """(feature, word, `served`: its pair, `crossed`: the pairs of all folds in a row), of the levels that are kept."""

    def total(of: str, without: int | None = None) -> Column:
        return _total(of, encoder.folds, without)

    def pair(rows: Column, clicks: Column) -> list[Column]:
        rate = (clicks - rows * base_rate) / (rows + encoder.smoothing)
        kept = rows >= encoder.min_count
        return [F.when(kept, value).otherwise(0.0).cast("float") for value in (rate, F.log1p(rows))]

    # Other folds hold (folds - 1) / folds of the rows: scaled up, a level weighs in training what it will in serving.
    scale = encoder.folds / (encoder.folds - 1)
    crossed = [
        value for k in range(encoder.folds) for value in pair(total("rows", k) * scale, total("clicks", k) * scale)
    ]
    kept = (total("rows") >= encoder.min_count) | (F.col("level") == F.expr("chr(0)"))
    return counts.filter((F.col("feature") != EVERY_ROW) & kept).select(
        "feature",
        F.col("level").alias("word"),
        F.array(*pair(total("rows"), total("clicks"))).alias("served"),
        F.array(*crossed).alias("crossed"),
    )


def write_lookups(table: DataFrame, dataset: Spec, vector: str, folders: Mapping[str, Path]) -> None:
    """One lookup stage for each categorical, with `served` or `crossed` vectors."""
    width = PAIR if vector == "served" else PAIR * dataset.encoder.folds
    stages.write_lookups(
        [(folders[name], lookup_uid(name), levels_column(name), encoded_column(name)) for name in dataset.categoricals],
        table.select("feature", "word", F.col(vector).alias("vector")),
        width,
    )


def encode_training_rows(train: DataFrame, dataset: Spec, crossed: Mapping[str, Path]) -> DataFrame:
    """Normalised rows with `fold` → (label, features), each row by the pairs of its own fold."""
    with ThreadPoolExecutor(4) as pool:  # each waits for a few small jobs
        lookups = dict(zip(crossed, pool.map(Word2VecModel.load, map(str, crossed.values())), strict=True))
    values = []
    for name, feature in dataset.features.items():
        if feature.categorical:
            train = lookups[name].transform(train)
            folds = stages.vector_to_array(encoded_column(name))
            values.append(F.slice(folds, (F.col("fold") * PAIR + 1).cast("int"), PAIR))
        else:
            values.append(F.array(F.coalesce(number_column(name), F.lit(float("nan")))))
    return train.select("label", stages.array_to_vector(F.concat(*values)).alias("features"))


@dataclass(frozen=True)
class Levels:
    """One categorical's levels in ascending byte order, with float32 pairs: what its serving stage holds."""

    words: Sequence[str]
    values: np.ndarray


def collect_levels(table: DataFrame, dataset: Spec) -> dict[str, Levels]:
    # A few long arrays reach Python far quicker than many small rows.
    sorted_levels = F.array_sort(F.collect_list(F.struct("word", "served"))).alias("of")
    rows = (
        table.groupBy("feature")
        .agg(sorted_levels)
        .select(
            "feature",
            "of.word",
            F.transform("of.served", lambda pair: pair[0]).alias("rates"),
            F.transform("of.served", lambda pair: pair[1]).alias("counts"),
        )
    )
    found = {row.feature: Levels(row.word, np.array([row.rates, row.counts], np.float32).T) for row in rows.collect()}
    return {name: found[i] for i, name in enumerate(dataset.categoricals)}
