"""Raw columns to levels: for each categorical feature and each cross, an array of strings.

The rule is a `SQLTransformer`, so training and both serving engines apply the same one. Does not count or encode
levels: `target_statistics.py` and `encode.py` do.
"""

from collections.abc import Sequence

from pyspark.ml.feature import SQLTransformer

from workloads.spec import Feature, Spec

MISSING_LEVEL = "\u0000"
BETWEEN = "\u0001"
"""Separator of the levels that a cross combines."""


def levels_column(name: str) -> str:
    return f"{name}__levels"


def number_column(feature: str) -> str:
    return f"{feature}__number"


def level_transformer(dataset: Spec) -> SQLTransformer:
    """Return the stage that adds the array of levels of every encoding, and every number as a double.

    Spaces around a level are removed; an empty level is the missing level. The level of a number is its band. The
    levels of a cross are all combinations of its features' levels; the first feature varies slowest. The missing level
    is written `chr(0)` and not as a literal, because a Spark setting decides how SQL reads escapes in literals.
    """
    crossed = {name for cross in dataset.crosses for name in cross}
    columns, combinations = [], []
    for name, feature in dataset.features.items():
        if feature.categorical or name in crossed:
            columns.append(f"{_levels(name, feature)} AS `{levels_column(name)}`")
        if not feature.categorical:
            columns.append(f"CAST(`{name}` AS DOUBLE) AS `{number_column(name)}`")
    for name, features in dataset.encodings.items():
        if len(features) > 1:
            combinations.append(f"{_combinations(dataset, features)} AS `{levels_column(name)}`")
    statement = f"SELECT *, {', '.join(columns)} FROM __THIS__"
    if combinations:
        statement = f"SELECT *, {', '.join(combinations)} FROM ({statement})"
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


def _combinations(dataset: Spec, features: Sequence[str]) -> str:
    """Return SQL for the levels of a cross.

    Spark interprets functions over arrays instead of compiling them, so features with one level per row use none.
    """
    lists = [index for index, name in enumerate(features) if dataset.features[name].type == "strings"]
    if len(lists) > 1:
        return _all_combinations(*features)
    joined = ", chr(1), ".join(
        "level" if index in lists else f"`{levels_column(name)}`[0]" for index, name in enumerate(features)
    )
    if not lists:
        return f"array(concat({joined}))"
    return f"transform(`{levels_column(features[lists[0]])}`, level -> concat({joined}))"


def _all_combinations(first: str, *others: str) -> str:
    combined = f"`{levels_column(first)}`"
    for other in others:
        pairs = f"transform(`{levels_column(other)}`, b -> concat(a, chr(1), b))"
        combined = f"flatten(transform({combined}, a -> {pairs}))"
    return combined
