"""The last part by time, scored by the saved and reloaded pipeline, the baseline and what serves now → the figures of
`metrics.json`.

Sets no bar: the gate is the release's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads import session, spec
from workloads.evaluation import metrics, paired_bootstrap
from workloads.features import encode
from workloads.live_model import Live
from workloads.spec import Spec
from workloads.training import baseline, spark_ml_io
from workloads.training.baseline import Baseline
from workloads.training.pipeline import Pipeline, raw_schema

_LIVE, _UNTOLD = "live__probability", "untold__probability"
_OURS = "judged__"
"""Before columns that pass through the live pipeline, which has names of its own."""
_PLACE = f"{_OURS}place"
"""Of a test row where it was read; golden rows lie before them, below 0."""


@dataclass(frozen=True)
class Scored:
    """Of every test row."""

    labels: np.ndarray
    probabilities: np.ndarray
    baseline: np.ndarray
    live: np.ndarray | None
    untold: np.ndarray | None
    """By the same model without the features of side context; None where it has no others or none of them."""
    by: Mapping[str, np.ndarray]
    """What to slice by."""
    golden: np.ndarray
    """Of the golden rows, by the model, in their order."""


def score(
    test: DataFrame,
    dataset: Spec,
    reloaded: Pipeline,
    plain: Baseline,
    live: Live | None,
    golden: Sequence[Mapping[str, Any]] = (),
) -> Scored:
    """Golden rows are scored along: whenever a pipeline is used, Spark sends all its lookups to the executors."""
    by = {part.feature: _slice_value(part) for part in dataset.slices} | {"day": F.col("day")}
    for key in (dataset.user_id, dataset.item_id):
        if key:
            known = spark_ml_io.vector_to_array(encode.encoded_column(key))[1] > 0
            by[f"{key} in training"] = F.when(known, "known").otherwise("new")
    columns = [F.col("label"), _click("probability"), _click(baseline.PROBABILITY), *by.values()]
    ours = [*(f"{_OURS}{place}" for place in range(len(columns))), _PLACE]
    # The last part is little of the table, and often in a single file, which one task would read and score alone.
    spread = _with_golden(test, golden, dataset).repartition(session.cores(test.sparkSession)[0], _PLACE)
    rows = plain.transform(reloaded.transform(spread)).select(
        *dataset.features, *(column.alias(name) for column, name in zip([*columns, F.col(_PLACE)], ours, strict=True))
    )
    serving = live.pipeline if live else None
    if serving:
        rows = serving.transform(rows).withColumn(_LIVE, _click("probability"))
    wanted = [*ours, _LIVE] if serving else ours
    if 0 < len(dataset.context) < len(dataset.features):
        nothing = {name: F.lit(None).cast(rows.schema[name].dataType) for name in dataset.context}
        asked = rows.select(*dataset.features, *wanted).withColumns(nothing)
        rows = reloaded.transform(asked).withColumn(_UNTOLD, _click("probability"))
        wanted = [*wanted, _UNTOLD]
    # A few long arrays reach Python far quicker than many small rows.
    parts = rows.groupBy(F.spark_partition_id()).agg(*(F.collect_list(name).alias(name) for name in wanted)).collect()
    found = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in wanted}
    in_order = np.argsort(found[_PLACE])
    test_rows = {name: of[in_order[len(golden) :]] for name, of in found.items()}
    labels, probabilities, plainly, *slices = (test_rows[name] for name in ours[:-1])
    return Scored(
        labels,
        probabilities,
        plainly,
        test_rows.get(_LIVE),
        test_rows.get(_UNTOLD),
        dict(zip(by, slices, strict=True)),
        found[ours[1]][in_order[: len(golden)]],
    )


def _with_golden(test: DataFrame, golden: Sequence[Mapping[str, Any]], dataset: Spec) -> DataFrame:
    day = F.col("day").cast("string").alias("day")
    rows = test.select("label", day, *dataset.features, F.monotonically_increasing_id().alias(_PLACE))
    if not golden:
        return rows
    values = [(*(row[name] for name in dataset.features), place) for place, row in enumerate(golden, -len(golden))]
    along = test.sparkSession.createDataFrame(values, raw_schema(dataset).add(_PLACE, "long"))
    # A golden row has neither, but nulls are left out of collected lists, which would no longer fit together.
    neither = {"label": F.lit(0.0), "day": F.lit("")}
    return rows.unionByName(along.withColumns(neither))


def metrics_document(
    scored: Scored, live: Live | None, drift: Mapping[str, Any], prepared: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    labels, probabilities = scored.labels, scored.probabilities
    whole = metrics.summary(labels, probabilities)
    rejected = sum(table["rejected"] for table in prepared["tables"].values())
    read = rejected + sum(table["rows"] for table in prepared["tables"].values())
    rows_test, clicks_test = whole.pop("rows"), whole.pop("clicks")
    bins = metrics.calibration(labels, probabilities)
    return {
        **whole,
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
        "live": live and _against(live, scored, seed),
        "context": None
        if scored.untold is None
        else paired_bootstrap.paired(labels, probabilities, scored.untold, seed),
        "drift": drift,
        "slices": metrics.slices(labels, probabilities, scored.by),
        "rejected_rows": rejected,
        "rejected_share": rejected / read,
        "synthetic": prepared["synthetic"] is not None,
    }


def _against(live: Live, scored: Scored, seed: int) -> dict[str, Any]:
    if scored.live is None:
        return {"run_id": live.run_id, "skipped": live.skipped}
    return {"run_id": live.run_id, **paired_bootstrap.paired(scored.labels, scored.probabilities, scored.live, seed)}


def _click(vector: str) -> Column:
    return spark_ml_io.vector_to_array(vector)[1]


def _slice_value(part: spec.Slice) -> Column:
    column = F.col(part.feature)
    if not part.bands:
        return F.coalesce(column, F.lit("missing"))
    value = F.when(column < part.bands[0], f"below {part.bands[0]:g}")
    for low, high in zip(part.bands, part.bands[1:], strict=False):
        value = value.when(column < high, f"{low:g} to below {high:g}")
    return value.when(column.isNull(), "missing").otherwise(f"{part.bands[-1]:g} and above")
