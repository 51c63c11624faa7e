"""How far the rows have moved since the model that serves now was trained: shares by feature, then and now.

Training rows are profiled, at most about `ROWS` of them, and the profile is kept with the artefact. The next run
measures its own training rows in the bins of the live model's profile: like with like, one snapshot against the one
before. (The last part by time would not do: most users in it may be new in the best of worlds.) What is unseen is
what the live pipeline's own lookups do not know. Two aggregations, however many features there are.

The change is the population stability index, the sum over bins of (now - then) ln(now / then): N. Siddiqi, Credit Risk
Scorecards, 2006, where 0.1 is worth a look and 0.25 a shift. Bins of its kind have no order: a feature that moved a
little and one that moved far out of a bin look alike.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads import encode, history, stages
from workloads.encode import Levels
from workloads.levels import MISSING_LEVEL, levels_column, number_column
from workloads.live import Live
from workloads.pipeline import Pipeline
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


@contextmanager
def sample(training: DataFrame, rows: int, dataset: Spec) -> Iterator[DataFrame]:
    """The features of about `ROWS` of the `rows` training rows, which ones depends on their content alone. Kept while
    they are measured."""
    drawn = history.drawn(dataset, dataset.model.seed, 1_000_000) < round(1_000_000 * min(1.0, ROWS / rows))
    some = training.filter(drawn).select(*dataset.features).persist()
    try:
        yield some
    finally:
        some.unpersist()


def profile(some: DataFrame, dataset: Spec, pipeline: Pipeline, levels: Mapping[str, Levels]) -> Any:
    """`profile.json` of a sample.

    By feature its bins and their `shares`: of a number below the first of `edges`, from each edge on, and missing; of
    a categorical the most frequent `levels`, other ones, unseen ones and missing.
    """
    bins: dict[str, Any] = _edges(some, dataset)
    bins |= {name: {"levels": _most_frequent(levels[name])} for name in dataset.categoricals}
    bins = {name: bins[name] for name in dataset.features}
    return {"features": {name: {**bins[name], "shares": of} for name, of in _shares(some, pipeline, bins).items()}}


def since(live: Live, some: DataFrame) -> dict[str, dict[str, float | None]]:
    """By feature, of a sample against the profile of the model that serves now: `psi` and, of categoricals, the
    `unseen_share` and by how much it is above (`unseen_rise`) that of the rows the model was trained on, whose rare
    levels it does not know either. Empty where it has no profile."""
    if not live.pipeline or not live.profile:
        return {}
    then = live.profile["features"]
    now = _shares(some, live.pipeline, then)
    return {name: _change(of["shares"], now[name], "levels" in of) for name, of in then.items()}


def _change(then: Sequence[float], now: Sequence[float], categorical: bool) -> dict[str, float | None]:
    change: dict[str, float | None] = {"psi": psi(then, now), "unseen_share": None, "unseen_rise": None}
    if categorical:
        change |= {"unseen_share": now[_UNSEEN], "unseen_rise": now[_UNSEEN] - then[_UNSEEN]}
    return change


def psi(then: Sequence[float], now: Sequence[float]) -> float:
    before, after = (np.maximum(shares, _LEAST) for shares in (then, now))
    return float(((after - before) * np.log(after / before)).sum())


def _edges(rows: DataFrame, dataset: Spec) -> dict[str, dict[str, Any]]:
    numbers = [name for name, feature in dataset.features.items() if not feature.categorical]
    if not numbers:
        return {}
    deciles = rows.agg(*(F.percentile_approx(F.col(name).cast("double"), _DECILES) for name in numbers)).first()
    assert deciles is not None
    return {name: {"edges": sorted(set(of or ()))} for name, of in zip(numbers, deciles, strict=True)}


def _most_frequent(of: Levels) -> list[str]:
    order = np.argsort(-of.values[:, 1], kind="stable")[: _TOP + 1]
    return [of.words[place] for place in order if of.words[place] != MISSING_LEVEL][:_TOP]


def _shares(rows: DataFrame, pipeline: Pipeline, bins: Bins) -> dict[str, list[float]]:
    """Of each feature by bin. A row with several levels counts once for each, and as unseen when it knows none."""
    lookups = {encode.lookup_uid(name) for name, of in bins.items() if "levels" in of}
    normaliser = next(iter(pipeline.stages))
    encoded = pipeline.part({normaliser, *lookups}).transform(rows)
    # The bins of all features in one row of places, so that a value's bin is a number and nothing else.
    *starts, end = np.cumsum([0, *map(_count, bins.values())]).tolist()
    places = [
        _places_of_levels(name, of["levels"], first)
        if "levels" in of
        else F.expr(_place_of_number(name, of["edges"], first))
        for first, (name, of) in zip(starts, bins.items(), strict=True)
    ]
    counts = np.zeros(end)
    for row in encoded.select(F.explode(F.concat(*places)).alias("place")).groupBy("place").count().collect():
        counts[row.place] = row["count"]
    by_feature = zip(bins, np.split(counts, starts[1:]), strict=True)
    return {name: (of / of.sum()).tolist() for name, of in by_feature}


def _count(of: Mapping[str, Any]) -> int:
    return len(of["levels"]) + 3 if "levels" in of else len(of["edges"]) + 2


def _place_of_number(name: str, edges: Sequence[float], first: int) -> str:
    value = f"`{number_column(name)}`"
    reached = " + ".join([str(first), *(f"int({value} >= {float(edge)!r}D)" for edge in edges)])
    return f"array(if(isnull({value}) OR isnan({value}), {first + len(edges) + 1}, {reached}))"


def _places_of_levels(name: str, levels: Sequence[str], first: int) -> Column:
    other, unseen, missing = range(first + len(levels), first + len(levels) + 3)
    own = {level: place for place, level in enumerate(levels, first)} | {MISSING_LEVEL: missing}
    # As one literal: each call of a Spark function is a question to the JVM.
    places = F.from_json(F.lit(json.dumps(own)), "map<string, int>")
    known = stages.vector_to_array(encode.encoded_column(name))[1] > 0
    elsewhere = F.when(known, other).otherwise(unseen)
    return F.transform(levels_column(name), lambda level: F.coalesce(F.try_element_at(places, level), elsewhere))
