"""Statistics of target encoding: how often each level occurs and how far its mean outcome is from the overall mean.

Cross-fitting: training rows are cut into parts, and a row is encoded from statistics of other parts only. With
`history: earlier` these are the parts before its own, so that no row is encoded from its own label or from a later
one. With `history: others` they are all training parts but its own. The validation rows are one further part, encoded
from all training rows; the test rows, if the final model learns from them, are another, encoded from all rows before
them. So a model that learns from more rows needs no other encoding. Arrays over parts have one more element, the last,
for rows after all of these parts (serving): it covers all parts.

The outcome is the click or, if the spec gives the label a scale, the position of the label's column on that scale.

If the spec asks for `passes`, statistics use the residual of the outcome after removing the effects of the row's user
and item (backfitting: Breiman and Friedman, JASA 80, 1985). A film that strict users watch then does not count as a
worse film, and an occupation whose members watch good films does not count as a better one. These effects are
cross-fitted by the same parts.

Does not turn statistics into features: `encode.py` does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads.errors import UndefinedError
from workloads.features import sampling
from workloads.features.categories import MISSING_LEVEL, levels_column
from workloads.spec import Encoder, Spec

_UNIT = 1_000_000_000
"""Outcomes and residuals are summed as integers, in billionths: such sums do not depend on the order of rows."""


def training_part(dataset: Spec, edges: Sequence[float]) -> Column:
    """Return the part of a training row, from 0 to parts - 1.

    With `history: earlier`, parts lie between the times `edges`. Otherwise the part is a hash of the row's content, so
    that copies of a row are in the same part.
    """
    if dataset.encoder.history == "earlier":
        reached = [(F.col("time") >= edge).cast("int") for edge in edges]
        return sum(reached, start=F.lit(0))
    bucket = sampling.hash_bucket(dataset, seed=dataset.model.seed, buckets=dataset.encoder.parts)
    return bucket.cast("int")


def known_parts(encoder: Encoder, part: int) -> list[int]:
    """Return the parts whose statistics encode rows of `part`; after the training parts, all parts before it."""
    if part >= encoder.parts or encoder.history == "earlier":
        return list(range(part))
    return [other for other in range(encoder.parts) if other != part]


def occurs_in_part(encoder: Encoder, rows: str, part: Column) -> Column:
    """Return whether a level occurs in `part` itself.

    rows: column with the array, over parts, of the number of rows that encode each part.
    """
    after = part + 1 if encoder.history == "earlier" else F.greatest(part + 1, F.lit(encoder.parts))
    return F.element_at(rows, after + 1) > F.element_at(rows, part + 1)


@dataclass(frozen=True)
class Totals:
    """Sums over the rows whose statistics encode each part; the last element covers all rows."""

    rows: Sequence[int]
    outcomes: Sequence[int]
    """Sum of outcomes, in billionths."""

    @property
    def parts(self) -> int:
        """Number of parts: those of training, one of validation and, if the final model learns from it, one of test."""
        return len(self.rows) - 1

    def rate(self, part: int) -> float:
        """Return the mean outcome known to `part`; the overall mean if it knows no rows, where it is not used."""
        part = part if self.rows[part] else -1
        return self.outcomes[part] / _UNIT / self.rows[part]

    def share(self, part: int) -> float:
        return self.rows[part] / self.rows[-1]


def count_totals(rows: DataFrame, dataset: Spec, parts: int) -> Totals:
    """Sum over rows with `part`, which is below `parts`.

    Raises `UndefinedError` if the training rows hold no clicks, or nothing but clicks.
    """
    encoder = dataset.encoder
    sums = [
        F.count(F.lit(1)).alias("rows"),
        F.sum(_units(F.col(dataset.label.outcome))).alias("outcomes"),
        F.sum("label").alias("clicks"),
    ]
    by_part = {row.part: row for row in rows.groupBy("part").agg(*sums).collect()}
    training = [row for part, row in by_part.items() if part < encoder.parts]
    counted, clicks = sum(row.rows for row in training), sum(int(row.clicks) for row in training)
    if not 0 < clicks < counted:
        raise UndefinedError(f"the training set holds {counted} rows, {clicks} of them clicks: both are needed")

    def known(column: str) -> list[int]:
        every = (known_parts(encoder, part) for part in range(parts + 1))
        return [sum(by_part[part][column] for part in known if part in by_part) for known in every]

    return Totals(known("rows"), known("outcomes"))


def count_levels(rows: DataFrame, dataset: Spec, totals: Totals) -> DataFrame:
    """Return (encoding, level, rows, residuals) of rows with levels, `part` and the outcome.

    `encoding` is the index in the spec's encodings. `rows` and `residuals` are arrays over parts: number of rows with
    the level that encode the part, and the sum of their outcomes less the mean outcome and the effects, in billionths.

    All encodings together take one shuffle; each pass over users and items takes one more a side.
    """
    residual_columns: list[str] = []
    if dataset.encoder.passes:
        rows, residual_columns = _with_residuals(rows, dataset, totals)

    outcome = dataset.label.outcome
    carried = ["part", outcome, *sorted(set(residual_columns))]
    exploded = _explode_levels(rows, dataset, carried)
    keys = ["encoding", "level"]
    if not residual_columns:
        return _sum_outcomes(exploded, keys, outcome, totals, dataset.encoder)
    encodings = {
        column: [i for i, other in enumerate(residual_columns) if other == column] for column in residual_columns
    }
    residual = F.coalesce(
        *(F.when(F.col("encoding").isin(indices), F.col(column)) for column, indices in encodings.items())
    )
    return _sum_residuals(exploded.select("part", *keys, residual.alias("residuals")), keys, totals, dataset.encoder)


def _explode_levels(rows: DataFrame, dataset: Spec, carried: Sequence[str]) -> DataFrame:
    """Return (carried, encoding, level), a row for each level."""
    levels = [F.col(levels_column(name)) for name in dataset.encodings]
    if all(map(dataset.single, dataset.encodings)):
        first_levels = F.array(*(column[0] for column in levels))
        return rows.select(*carried, F.posexplode(first_levels).alias("encoding", "level"))
    # Exploding twice is cheaper than one array of (encoding, level) structures, which costs more than the counting.
    each = rows.select(*carried, F.posexplode(F.array(*levels)).alias("encoding", "levels"))
    return each.select(*carried, "encoding", F.explode("levels").alias("level"))


def _sum_outcomes(rows: DataFrame, keys: list[str], outcome: str, totals: Totals, encoder: Encoder) -> DataFrame:
    """Return (keys, rows, residuals) without passes: the mean is the same for all rows, so sums of outcomes suffice."""

    def amount(part: int) -> Column:
        in_part = F.col("part") == part
        if outcome == "label":  # Spark generates much less code for a count than for a sum
            return F.count(F.when(in_part & (F.col("label") == 1), True)) * F.lit(_UNIT)
        return F.sum(F.when(in_part, _units(F.col(outcome))).otherwise(0))

    sums = [amount(part).alias(f"outcomes_{part}") for part in range(totals.parts)]

    def residual(part: int) -> Column:
        parts = known_parts(encoder, part)
        return _units(_sum("outcomes", parts) / _UNIT - _sum("rows", parts) * totals.rate(part))

    return _aggregate(rows, keys, sums, residual, totals, encoder)


def _units(value: Column) -> Column:
    return F.rint(value * _UNIT).cast("long")


def _sum_residuals(rows: DataFrame, keys: list[str], totals: Totals, encoder: Encoder) -> DataFrame:
    """Return (keys, rows, residuals) of rows with an array `residuals` over parts, 0 for parts that exclude the row."""
    sums = [F.sum(F.element_at("residuals", part + 1)).alias(f"residual_{part}") for part in range(totals.parts + 1)]
    return _aggregate(rows, keys, sums, lambda part: F.col(f"residual_{part}"), totals, encoder)


def _aggregate(
    rows: DataFrame,
    keys: list[str],
    sums: list[Column],
    residual: Callable[[int], Column],
    totals: Totals,
    encoder: Encoder,
) -> DataFrame:
    """Return (keys, rows, residuals). There is one column per part until the last step, because Spark interprets
    functions over the elements of an array instead of compiling them."""
    counts = [F.count(F.when(F.col("part") == part, True)).alias(f"rows_{part}") for part in range(totals.parts)]
    parts = range(totals.parts + 1)
    return (
        rows.groupBy(*keys)
        .agg(*counts, *sums)
        .select(
            *keys,
            F.array(*(_sum("rows", known_parts(encoder, part)) for part in parts)).alias("rows"),
            F.array(*map(residual, parts)).alias("residuals"),
        )
    )


def _sum(prefix: str, parts: Sequence[int]) -> Column:
    return reduce(Column.__add__, (F.col(f"{prefix}_{part}") for part in parts), F.lit(0).cast("long"))


def smoothed_effect(rows: Column, residual: Column, encoder: Encoder) -> Column:
    """Return the mean residual, shrunk to 0 as if `smoothing` further rows had a residual of 0."""
    return residual / _UNIT / (rows + F.lit(encoder.smoothing))


_BROADCAST_KEYS = 100_000
"""Up to this number of users or items, each with an effect per part, the table is sent to every executor."""
_USER, _ITEM = "user__effect", "item__effect"


def _residuals(dataset: Spec, totals: Totals, *effects: str) -> Column:
    """Return the array over parts of the outcome less its mean and the effects, 0 for parts that exclude the row."""

    def residual(part: int) -> Column:
        value = F.col(dataset.label.outcome) - F.lit(totals.rate(part))
        for effect in effects:
            value -= F.coalesce(F.element_at(effect, part + 1), F.lit(0.0))
        return F.when(F.col("part").isin(known_parts(dataset.encoder, part)), _units(value)).otherwise(0)

    # One expression per element: Spark would interpret a function over the array's elements.
    return F.array(*map(residual, range(totals.parts + 1)))


def _confounding_effects(dataset: Spec, features: tuple[str, ...]) -> tuple[str, ...]:
    """Return the effects to remove before an encoding of `features` is counted.

    A feature of an item is confounded by the users who see the item, and the other way round. The effect of a side
    stays if the side's id is part of the encoding.
    """
    sides = {dataset.features[name].side for name in features}
    user = "item" in sides and dataset.user_id not in features
    item = "user" in sides and dataset.item_id not in features
    return (_USER,) * user + (_ITEM,) * item


def _with_residuals(rows: DataFrame, dataset: Spec, totals: Totals) -> tuple[DataFrame, list[str]]:
    """Return the rows with columns of residuals, and for each encoding the name of the column that it counts."""
    encoder = dataset.encoder
    ids = {_USER: dataset.user_id or "", _ITEM: dataset.item_id or ""}
    rows = rows.withColumns({f"{name}__key": F.col(levels_column(feature))[0] for name, feature in ids.items()})
    effects: dict[str, DataFrame] = {}
    for _ in range(encoder.passes):
        for side, other in ((_USER, _ITEM), (_ITEM, _USER)):
            removed = [other] if other in effects else []
            joined = _join(rows, effects[other], other) if removed else rows
            residuals = joined.withColumn("residuals", _residuals(dataset, totals, *removed))
            effects[side] = _estimate_effects(
                residuals.select("part", f"{side}__key", "residuals"), side, totals, encoder
            )
    for side, table in effects.items():
        rows = _join(rows, table, side)
    removed_by_encoding = [_confounding_effects(dataset, features) for features in dataset.encodings.values()]
    columns = {
        removed: "__".join(("residuals", *(side.split("__")[0] for side in removed))) for removed in removed_by_encoding
    }
    rows = rows.withColumns({column: _residuals(dataset, totals, *removed) for removed, column in columns.items()})
    return rows, [columns[removed] for removed in removed_by_encoding]


def _join(rows: DataFrame, effects: DataFrame, name: str) -> DataFrame:
    """Join effects by key. Spark does not know the size of a checkpoint, so the kind of join is chosen here."""
    small = effects.count() <= _BROADCAST_KEYS
    return rows.join(F.broadcast(effects) if small else effects, f"{name}__key", "left")


def _estimate_effects(rows: DataFrame, name: str, totals: Totals, encoder: Encoder) -> DataFrame:
    """Return (key, array of effects over parts) of every user or item."""
    key = f"{name}__key"
    sums = _sum_residuals(rows.filter(F.col(key) != MISSING_LEVEL), [key], totals, encoder)
    effects = F.transform(
        F.arrays_zip("rows", "residuals"),
        lambda known: smoothed_effect(known["rows"], known["residuals"], encoder),
    )
    # The checkpoint drops the plan; otherwise each pass would carry the plans of all passes before it.
    return sums.select(key, effects.alias(name)).localCheckpoint(eager=False)
