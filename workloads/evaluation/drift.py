"""How far the rows have moved since the model that serves now was trained: shares by feature, then and now.

Training rows are profiled, at most about `ROWS` of them, and the profile is kept with the artefact. The next run
measures its own training rows in the bins of the live model's profile: like with like, one snapshot against the one
before. (The last part by time would not do: most users in it may be new in the best of worlds.) What is unseen is
what the live model's own levels do not hold. The rows are few enough to be counted here and not in Spark.

The change is the population stability index, the sum over bins of (now - then) ln(now / then): N. Siddiqi, Credit Risk
Scorecards, 2006, where 0.1 is worth a look and 0.25 a shift. Bins of its kind have no order: a feature that moved a
little and one that moved far out of a bin look alike. scikit-learn and SciPy have no such function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from workloads.features import target_statistics
from workloads.features.categories import MISSING_LEVEL, levels_column, normaliser, number_column
from workloads.features.encode import Levels
from workloads.live_model import Live
from workloads.spec import Spec

ROWS = 50_000
"""Enough for shares of two dozen bins: chance alone moves the index by a thousandth."""
_DECILES = [tenths / 10 for tenths in range(1, 10)]
_TOP = 20
"""Levels with a bin of their own."""
_UNSEEN = -2
"""Its bin, among those of a categorical."""
_LEAST = 1e-4
"""An empty bin's share, which has no logarithm."""

Bins = Mapping[str, Mapping[str, Any]]
"""By feature, either `edges`, the lower bounds of all bins but the first, or `levels`, a bin each."""


@dataclass(frozen=True)
class Sample:
    rows: int
    lists: Mapping[str, Sequence[tuple[Sequence[str], int]]]
    """By categorical, each list of levels that a row has, with how many rows have it."""
    numbers: Mapping[str, np.ndarray]
    """NaN where a row has none."""


def sample(training: DataFrame, rows: int, dataset: Spec) -> Sample:
    """About `ROWS` of the `rows` training rows; which ones depends on their content alone."""
    # A time that is the row's place in its file is the row's alone: of those not drawn, Spark reads nothing else.
    content = ("time",) if dataset.time.column is None else ()
    drawn = target_statistics.drawn(dataset, dataset.model.seed, 1_000_000, content)
    some = training.filter(drawn < round(1_000_000 * min(1.0, ROWS / rows))).select(*dataset.features)
    some = normaliser(dataset).transform(some).persist()
    try:
        lists = _lists(some, dataset.categoricals)
        names = [name for name, feature in dataset.features.items() if not feature.categorical]
        values = [F.coalesce(number_column(name), F.lit(float("nan"))) for name in names]
        found = some.agg(F.count(F.lit(1)), *map(F.collect_list, values)).first()
        assert found is not None
        count, *numbers = found
        return Sample(count, lists, dict(zip(names, map(np.array, numbers), strict=True)))
    finally:
        some.unpersist()


def _lists(some: DataFrame, names: Sequence[str]) -> dict[str, list[tuple[Sequence[str], int]]]:
    if not names:
        return {}
    every = F.array(*map(levels_column, names))
    counted = some.select(F.posexplode(every).alias("place", "levels")).groupBy("place", "levels").count()
    # A few long arrays reach Python far quicker than many small rows.
    lists = [F.collect_list(of).alias(of) for of in ("levels", "count")]
    found = {
        row.place: list(zip(row.levels, row["count"], strict=True))
        for row in counted.groupBy("place").agg(*lists).collect()
    }
    return {name: found.get(place, []) for place, name in enumerate(names)}


def profile(some: Sample, dataset: Spec, levels: Mapping[str, Levels]) -> Any:
    """`profile.json` of a sample.

    By feature its bins and their `shares`: of a number below the first of `edges`, from each edge on, and missing; of
    a categorical the most frequent `levels`, other ones, unseen ones and missing.
    """
    bins: dict[str, dict[str, Any]] = {
        name: {"levels": _most_frequent(levels[name])}
        if feature.categorical
        else {"edges": _deciles(some.numbers[name])}
        for name, feature in dataset.features.items()
    }
    return {"features": {name: {**bins[name], "shares": of} for name, of in _shares(some, levels, bins).items()}}


def since(live: Live, some: Sample) -> dict[str, dict[str, float | None]]:
    """By feature, of a sample against the profile of the model that serves now: `psi` and, of categoricals, the
    `unseen_share` and by how much it is above (`unseen_rise`) that of the rows the model was trained on, whose rare
    levels it does not know either. Empty where it has no profile."""
    if not live.profile:
        return {}
    then = live.profile["features"]
    now = _shares(some, live.levels, then)
    return {name: _change(of["shares"], now[name], "levels" in of) for name, of in then.items()}


def _change(then: Sequence[float], now: Sequence[float], categorical: bool) -> dict[str, float | None]:
    change: dict[str, float | None] = {"psi": psi(then, now), "unseen_share": None, "unseen_rise": None}
    if categorical:
        change |= {"unseen_share": now[_UNSEEN], "unseen_rise": now[_UNSEEN] - then[_UNSEEN]}
    return change


def psi(then: Sequence[float], now: Sequence[float]) -> float:
    before, after = (np.maximum(shares, _LEAST) for shares in (then, now))
    return float(((after - before) * np.log(after / before)).sum())


def _deciles(values: np.ndarray) -> list[float]:
    known = values[~np.isnan(values)]
    return np.unique(np.quantile(known, _DECILES, method="inverted_cdf")).tolist() if len(known) else []


def _most_frequent(of: Levels) -> list[str]:
    order = np.argsort(-of.values[:, 1], kind="stable")[: _TOP + 1]
    return [of.words[place] for place in order if of.words[place] != MISSING_LEVEL][:_TOP]


def _shares(some: Sample, levels: Mapping[str, Levels], bins: Bins) -> dict[str, list[float]]:
    """Of each feature by bin."""
    counts = {
        name: _of_levels(some.lists[name], levels[name], of["levels"])
        if "levels" in of
        else _of_numbers(some.numbers[name], of["edges"])
        for name, of in bins.items()
    }
    return {name: (of / of.sum()).tolist() for name, of in counts.items()}


def _of_numbers(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    missing = np.isnan(values)
    reached = np.searchsorted(edges, values[~missing], side="right")
    return np.append(np.bincount(reached, minlength=len(edges) + 1), missing.sum())


def _of_levels(lists: Sequence[tuple[Sequence[str], int]], levels: Levels, own: Sequence[str]) -> np.ndarray:
    """A row with several levels counts once for each, and as unseen when it knows none."""
    counts = np.zeros(len(own) + 3, np.int64)
    other, unseen, missing = range(len(own), len(counts))
    bins = {level: place for place, level in enumerate(own)} | {MISSING_LEVEL: missing}
    known = {word for word, seen in zip(levels.words, levels.values[:, 1].tolist(), strict=True) if seen > 0}
    for of, rows in lists:
        elsewhere = unseen if known.isdisjoint(of) else other
        for level in of:
            counts[bins.get(level, elsewhere)] += rows
    return counts
