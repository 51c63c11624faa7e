"""Feature drift: the feature distributions of new training rows against those of the live model's training rows.

A sample of at most about `ROWS` training rows is profiled, and the profile is kept in the artefact. The next training
run counts its own training rows in the bins of the live model's profile, so both distributions come from the training
set of a snapshot. (The test set would not do: even without drift most of its users may be new.) A level is unseen if
the live model's serving tables do not hold it. The sample is small enough to be counted in Python.

The measure is the population stability index (PSI), the sum over bins of (now - then) ln(now / then): N. Siddiqi,
Credit Risk Scorecards, 2006, where 0.1 is worth a look and 0.25 a shift. PSI ignores the order of bins: a value that
moved a little out of its bin counts like one that moved far. scikit-learn and SciPy do not have this measure.

Not to be confused with prediction shift, which the rollout measures. Sets no limits: the release's gate does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from workloads.features import sampling
from workloads.features.categories import MISSING_LEVEL, level_transformer, levels_column, number_column
from workloads.features.encode import Levels
from workloads.live_model import Live
from workloads.spec import Spec

ROWS = 50_000
"""Enough for two dozen bins: chance alone changes the PSI by a thousandth."""
_DECILES = [tenths / 10 for tenths in range(1, 10)]
_TOP = 20
"""Number of levels that have their own bin."""
_UNSEEN = -2
"""Index of the bin of unseen levels among the bins of a categorical feature."""
_MIN_SHARE = 1e-4
"""Share assumed for an empty bin, because 0 has no logarithm."""

Bins = Mapping[str, Mapping[str, Any]]
"""Bins by feature: either `edges`, the lower bounds of all bins but the first, or `levels`, one bin each."""


@dataclass(frozen=True)
class Sample:
    rows: int
    lists: Mapping[str, Sequence[tuple[Sequence[str], int]]]
    """Distinct lists of levels with their number of rows, by categorical feature."""
    numbers: Mapping[str, np.ndarray]
    """Values by numeric feature; NaN where a row has none."""


def sample(training: DataFrame, rows: int, dataset: Spec) -> Sample:
    """Sample about `ROWS` of the `rows` training rows; the choice depends on their content alone."""
    # A time that is the row's position in the file identifies the row: Spark then reads no other column to choose.
    columns = ("time",) if dataset.time.column is None else ()
    chosen = sampling.rows_in_sample(dataset, seed=dataset.model.seed, share=ROWS / rows, columns=columns)
    sampled = level_transformer(dataset).transform(training.filter(chosen).select(*dataset.features)).persist()
    try:
        lists = _level_lists(sampled, dataset.categoricals)
        names = [name for name, feature in dataset.features.items() if not feature.categorical]
        values = [F.coalesce(number_column(name), F.lit(float("nan"))) for name in names]
        collected = sampled.agg(F.count(F.lit(1)), *map(F.collect_list, values)).first()
        assert collected is not None
        count, *numbers = collected
        return Sample(count, lists, dict(zip(names, map(np.array, numbers), strict=True)))
    finally:
        sampled.unpersist()


def _level_lists(sampled: DataFrame, names: Sequence[str]) -> dict[str, list[tuple[Sequence[str], int]]]:
    if not names:
        return {}
    lists = F.posexplode(F.array(*map(levels_column, names))).alias("feature", "levels")
    counted = sampled.select(lists).groupBy("feature", "levels").count()
    # A few long arrays reach Python much faster than many small rows.
    arrays = [F.collect_list(column).alias(column) for column in ("levels", "count")]
    by_feature = {
        row.feature: list(zip(row.levels, row["count"], strict=True))
        for row in counted.groupBy("feature").agg(*arrays).collect()
    }
    return {name: by_feature.get(index, []) for index, name in enumerate(names)}


def profile(sampled: Sample, dataset: Spec, levels: Mapping[str, Levels]) -> Any:
    """Return `profile.json`: by feature, its bins and their `shares`.

    The bins of a number are: below the first of `edges`, from each edge on, and missing. Those of a categorical feature
    are: the most frequent `levels`, other levels, unseen levels, and missing.
    """
    bins: dict[str, dict[str, Any]] = {
        name: {"levels": _most_frequent(levels[name])}
        if feature.categorical
        else {"edges": _deciles(sampled.numbers[name])}
        for name, feature in dataset.features.items()
    }
    shares = _shares(sampled, levels, bins)
    return {"features": {name: {**bins[name], "shares": values} for name, values in shares.items()}}


def compare(live: Live, sampled: Sample) -> dict[str, dict[str, float | None]]:
    """Return the drift by feature against the live model's profile; empty if it has none.

    `psi`, and for categorical features `unseen_share` and `unseen_rise`. The latter is the increase of the unseen share
    over that of the live model's own training rows, whose rare levels the model does not know either.
    """
    if not live.profile:
        return {}
    then = live.profile["features"]
    now = _shares(sampled, live.levels, then)
    return {
        name: _change(feature["shares"], now[name], categorical="levels" in feature) for name, feature in then.items()
    }


def _change(then: Sequence[float], now: Sequence[float], *, categorical: bool) -> dict[str, float | None]:
    change: dict[str, float | None] = {"psi": psi(then, now), "unseen_share": None, "unseen_rise": None}
    if categorical:
        change |= {"unseen_share": now[_UNSEEN], "unseen_rise": now[_UNSEEN] - then[_UNSEEN]}
    return change


def psi(then: Sequence[float], now: Sequence[float]) -> float:
    """Return the population stability index of two distributions over the same bins."""
    before, after = (np.maximum(shares, _MIN_SHARE) for shares in (then, now))
    return float(((after - before) * np.log(after / before)).sum())


def _deciles(values: np.ndarray) -> list[float]:
    known = values[~np.isnan(values)]
    return np.unique(np.quantile(known, _DECILES, method="inverted_cdf")).tolist() if len(known) else []


def _most_frequent(table: Levels) -> list[str]:
    order = np.argsort(-table.values[:, 1], kind="stable")[: _TOP + 1]
    return [table.levels[index] for index in order if table.levels[index] != MISSING_LEVEL][:_TOP]


def _shares(sampled: Sample, levels: Mapping[str, Levels], bins: Bins) -> dict[str, list[float]]:
    """Return the share of each bin by feature."""
    counts = {
        name: _count_levels(sampled.lists[name], levels[name], feature["levels"])
        if "levels" in feature
        else _count_numbers(sampled.numbers[name], feature["edges"])
        for name, feature in bins.items()
    }
    return {name: (values / values.sum()).tolist() for name, values in counts.items()}


def _count_numbers(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    missing = np.isnan(values)
    reached = np.searchsorted(edges, values[~missing], side="right")
    return np.append(np.bincount(reached, minlength=len(edges) + 1), missing.sum())


def _count_levels(lists: Sequence[tuple[Sequence[str], int]], table: Levels, own: Sequence[str]) -> np.ndarray:
    """Count levels by bin. A row counts once for each of its levels, as unseen only if the model knows none of them.

    own: levels that have their own bin.
    """
    counts = np.zeros(len(own) + 3, np.int64)
    other, unseen, missing = range(len(own), len(counts))
    bins = {level: index for index, level in enumerate(own)} | {MISSING_LEVEL: missing}
    known = {level for level, count in zip(table.levels, table.values[:, 1].tolist(), strict=True) if count > 0}
    for levels, rows in lists:
        otherwise = unseen if known.isdisjoint(levels) else other
        for level in levels:
            counts[bins.get(level, otherwise)] += rows
    return counts
