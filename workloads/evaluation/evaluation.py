"""Evaluation on the test set: the saved and reloaded pipeline, the baseline and the live model, for `metrics.json`.

Sets no limits: the release's gate does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from workloads import session, spec
from workloads.evaluation import metrics, paired_bootstrap
from workloads.features import encode
from workloads.live_model import Live
from workloads.spec import Spec
from workloads.training import baseline, spark_ml_io
from workloads.training.baseline import Baseline
from workloads.training.pipeline import Pipeline, raw_schema

_PREFIX = "evaluated__"
"""Prefix of all columns that are collected. Pipelines add columns under other names, the live model's included."""
_POSITION = f"{_PREFIX}position"
"""Place of a row in its table; rows are ordered by it."""
_LABEL = f"{_PREFIX}label"
_MODEL = f"{_PREFIX}model"
_BASELINE = f"{_PREFIX}baseline"
_LIVE = f"{_PREFIX}live"
_WITHOUT_CONTEXT = f"{_PREFIX}without_context"


@dataclass(frozen=True)
class Scored:
    """Arrays over the test rows."""

    labels: np.ndarray
    probabilities: np.ndarray
    baseline: np.ndarray
    """Probabilities of logistic regression."""
    live: np.ndarray | None
    """Probabilities of the live model; None if there is none to compare with."""
    without_context: np.ndarray | None
    """The model's probabilities with all context features missing; None if no feature or every feature is context."""
    slices: Mapping[str, np.ndarray]
    """Value of each row, by slice."""


def score(
    test: DataFrame,
    dataset: Spec,
    *,
    model: Pipeline,
    baseline_model: Baseline,
    live: Live | None = None,
) -> Scored:
    """Score the test set with every model."""
    slices = _slice_columns(dataset)
    slice_names = {name: f"{_PREFIX}slice_{index}" for index, name in enumerate(slices)}
    columns = {
        _POSITION: F.col(_POSITION),
        _LABEL: F.col("label"),
        _MODEL: _click("probability"),
        _BASELINE: _click(baseline.PROBABILITY),
        **{slice_names[name]: column for name, column in slices.items()},
    }
    # The test set is a small share of the table and often one file, which a single task would read and score.
    day = F.col("day").cast("string").alias("day")
    rows = test.select("label", day, *dataset.features, F.monotonically_increasing_id().alias(_POSITION))
    rows = rows.repartition(session.cores(test.sparkSession)[0], _POSITION)
    rows = baseline_model.transform(model.transform(rows))
    rows = rows.select(*dataset.features, *(column.alias(name) for name, column in columns.items()))
    names = list(columns)
    if live and live.pipeline:
        rows = live.pipeline.transform(rows).withColumn(_LIVE, _click("probability"))
        names.append(_LIVE)
    if 0 < len(dataset.context) < len(dataset.features):
        rows = rows.select(*dataset.features, *names)
        missing = {name: F.lit(None).cast(rows.schema[name].dataType) for name in dataset.context}
        rows = model.transform(rows.withColumns(missing)).withColumn(_WITHOUT_CONTEXT, _click("probability"))
        names.append(_WITHOUT_CONTEXT)
    arrays = _collect(rows, names)
    return Scored(
        labels=arrays[_LABEL],
        probabilities=arrays[_MODEL],
        baseline=arrays[_BASELINE],
        live=arrays.get(_LIVE),
        without_context=arrays.get(_WITHOUT_CONTEXT),
        slices={name: arrays[column] for name, column in slice_names.items()},
    )


def probabilities(golden: Sequence[Mapping[str, Any]], dataset: Spec, model: Pipeline) -> np.ndarray:
    """Return the model's probabilities of golden rows, in their order."""
    values = [(*(row[name] for name in dataset.features), position) for position, row in enumerate(golden)]
    schema = raw_schema(dataset).add(_POSITION, "long")
    rows = SparkSession.active().createDataFrame(values, schema).coalesce(1)
    scored = model.transform(rows).select(_POSITION, _click("probability").alias(_MODEL))
    return np.array([row[_MODEL] for row in sorted(scored.collect(), key=lambda row: row[_POSITION])], float)


def _slice_columns(dataset: Spec) -> dict[str, Column]:
    """Return the value of each slice: the spec's slices, the day, and whether training knew the user and the item."""
    slices = {part.feature: _slice_value(part) for part in dataset.slices} | {"day": F.col("day")}
    for key in (dataset.user_id, dataset.item_id):
        if key:
            known = spark_ml_io.vector_to_array(encode.encoded_column(key))[1] > 0
            slices[f"{key} in training"] = F.when(known, "known").otherwise("new")
    return slices


def _collect(rows: DataFrame, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns as arrays, ordered by position."""
    # A few long arrays reach Python much faster than many small rows.
    lists = (F.collect_list(name).alias(name) for name in names)
    partitions = rows.groupBy(F.spark_partition_id()).agg(*lists).collect()
    arrays = {name: np.concatenate([np.asarray(partition[name]) for partition in partitions]) for name in names}
    order = np.argsort(arrays[_POSITION])
    return {name: values[order] for name, values in arrays.items()}


def metrics_document(
    scored: Scored, *, live: Live | None, drift: Mapping[str, Any], prepared: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Return the part of `metrics.json` that the test set determines.

    drift: feature drift by feature (`drift.py`). prepared: content of `_prepared.json`. seed: that of the bootstrap.
    """
    labels, probabilities = scored.labels, scored.probabilities
    summary = metrics.summary(labels, probabilities)
    rejected = sum(table["rejected"] for table in prepared["tables"].values())
    read = rejected + sum(table["rows"] for table in prepared["tables"].values())
    rows_test, clicks_test = summary.pop("rows"), summary.pop("clicks")
    bins = metrics.calibration(labels, probabilities)
    return {
        **summary,
        **metrics.spread(probabilities),
        "average_precision": metrics.average_precision(labels, probabilities),
        "expected_calibration_error": metrics.expected_calibration_error(bins),
        "lift": metrics.lift(labels, probabilities),
        "calibration": bins,
        "rows_test": rows_test,
        "clicks_test": clicks_test,
        "baseline": {
            "auc": metrics.auc(labels, scored.baseline),
            "log_loss": metrics.log_loss(labels, scored.baseline),
        },
        "live": live and _compare_with_live(live, scored, seed),
        "context": None
        if scored.without_context is None
        else paired_bootstrap.paired(labels, probabilities, scored.without_context, seed),
        "drift": drift,
        "slices": metrics.slices(labels, probabilities, scored.slices),
        "rejected_rows": rejected,
        "rejected_share": rejected / read,
        "synthetic": prepared["synthetic"] is not None,
    }


def _compare_with_live(live: Live, scored: Scored, seed: int) -> dict[str, Any]:
    if scored.live is None:
        return {"run_id": live.run_id, "skipped": live.skipped}
    return {"run_id": live.run_id, **paired_bootstrap.paired(scored.labels, scored.probabilities, scored.live, seed)}


def _click(vector: str) -> Column:
    """Return the probability of a click, the second element of a probability vector."""
    return spark_ml_io.vector_to_array(vector)[1]


def _slice_value(part: spec.Slice) -> Column:
    column = F.col(part.feature)
    if not part.bands:
        return F.coalesce(column, F.lit("missing"))
    value = F.when(column < part.bands[0], f"below {part.bands[0]:g}")
    for low, high in zip(part.bands, part.bands[1:], strict=False):
        value = value.when(column < high, f"{low:g} to below {high:g}")
    return value.when(column.isNull(), "missing").otherwise(f"{part.bands[-1]:g} and above")
