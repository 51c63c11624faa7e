"""Raw columns → the levels that are counted and looked up: one array of strings for each categorical and each cross.

A `SQLTransformer`, so training and both serving engines read the same rule. Does not know what a level is worth.
"""

from collections.abc import Sequence

from pyspark.ml.feature import SQLTransformer

from workloads.spec import Feature, Spec

MISSING_LEVEL = "\u0000"
BETWEEN = "\u0001"
"""Between the levels of a cross."""


def levels_column(name: str) -> str:
    return f"{name}__levels"


def number_column(feature: str) -> str:
    return f"{feature}__number"


def normaliser(dataset: Spec) -> SQLTransformer:
    """Adds the array of levels of every encoding, and a double of every number.

    A level is trimmed of spaces; what is then empty is the missing level. A number has the level of its band. The
    levels of a cross are all combinations, the first feature's outermost. `chr(0)` rather than a literal: how SQL
    reads escapes in one is a setting.
    """
    crossed = {name for cross in dataset.crosses for name in cross}
    columns, combined = [], []
    for name, feature in dataset.features.items():
        if feature.categorical or name in crossed:
            columns.append(f"{_levels(name, feature)} AS `{levels_column(name)}`")
        if not feature.categorical:
            columns.append(f"CAST(`{name}` AS DOUBLE) AS `{number_column(name)}`")
    for name, of in dataset.encodings.items():
        if len(of) > 1:
            combined.append(f"{_combinations(dataset, of)} AS `{levels_column(name)}`")
    statement = f"SELECT *, {', '.join(columns)} FROM __THIS__"
    if combined:
        statement = f"SELECT *, {', '.join(combined)} FROM ({statement})"
    return SQLTransformer(statement=statement)


def _levels(name: str, feature: Feature) -> str:
    level = "coalesce(nullif(trim({}), ''), chr(0))"
    if feature.type == "string":
        return f"array({level.format(f'`{name}`')})"
    if feature.type == "strings":
        every = f"transform(`{name}`, level -> {level.format('level')})"
        return f"if(size(`{name}`) > 0, {every}, array(chr(0)))"
    below = " ".join(f"WHEN `{name}` < {bound!r}D THEN '{band}'" for band, bound in enumerate(feature.bands))
    return f"array(CASE WHEN `{name}` IS NULL THEN chr(0) {below} ELSE '{len(feature.bands)}' END)"


def _combinations(dataset: Spec, of: Sequence[str]) -> str:
    """What has one level takes no function over an array: Spark interprets those."""
    several = [place for place, name in enumerate(of) if dataset.features[name].type == "strings"]
    if len(several) > 1:
        return _all_combinations(*of)
    joined = ", chr(1), ".join(
        "level" if place in several else f"`{levels_column(name)}`[0]" for place, name in enumerate(of)
    )
    if not several:
        return f"array(concat({joined}))"
    return f"transform(`{levels_column(of[several[0]])}`, level -> concat({joined}))"


def _all_combinations(first: str, *others: str) -> str:
    combined = f"`{levels_column(first)}`"
    for other in others:
        pairs = f"transform(`{levels_column(other)}`, b -> concat(a, chr(1), b))"
        combined = f"flatten(transform({combined}, a -> {pairs}))"
    return combined
