"""What a row may know: training rows are cut into parts, and levels are counted for each part from other parts only.

With `history: earlier` a part knows the parts before it, so that no row is encoded from its own label or from
anything that happened later; with `others`, from all parts but its own. The last column of every count, `parts`, is
what a row after training knows: all of them.

Counted is the outcome: the click, or where on its scale the label's column lies if the spec gives one.

Where the spec asks for `passes`, levels are counted on what the effects of the row's user and item leave of the label
(backfitting: Breiman and Friedman, JASA 80, 1985). A film seen by strict users is then not a worse film, nor is a
profession that watches good films a kinder one. Each effect is known to a part from the same other parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from workloads.errors import UndefinedError
from workloads.features.categories import MISSING_LEVEL, levels_column
from workloads.spec import Encoder, Spec

_UNIT = 1_000_000_000
"""Of what is left of a label: whole billionths, because sums of integers do not depend on the order of rows."""


def part(dataset: Spec, edges: Sequence[float]) -> Column:
    """0 to parts - 1: by time between the `edges`, or by the row's content, so that copies of a row stay together."""
    if dataset.encoder.history == "earlier":
        reached = [(F.col("time") >= edge).cast("int") for edge in edges]
        return sum(reached, start=F.lit(0))
    return drawn(dataset, dataset.model.seed, dataset.encoder.parts).cast("int")


def drawn(dataset: Spec, seed: int, below: int, of: Sequence[str] = ()) -> Column:
    """0 to below - 1 by the row's content, or the columns `of` it: the same whatever the partitions, and copies of a
    row are drawn alike."""
    return F.pmod(F.xxhash64(*(of or ("time", *dataset.features)), F.lit(seed)), F.lit(below))


def known(encoder: Encoder, to: int) -> list[int]:
    """The parts that part `to` knows; to `parts`, which is after training, all of them."""
    if to == encoder.parts or encoder.history == "earlier":
        return list(range(to))
    return [of for of in range(encoder.parts) if of != to]


def present(encoder: Encoder, rows: str, of: Column) -> Column:
    """Whether part `of` itself has rows of what the array `rows` counts; assumed of rows after training."""
    after = F.least(of + 2, F.lit(encoder.parts + 1)) if encoder.history == "earlier" else F.lit(encoder.parts + 1)
    return (of == encoder.parts) | (F.element_at(rows, after) > F.element_at(rows, of + 1))


@dataclass(frozen=True)
class Totals:
    """Of the training rows that each part knows; the last is all of them."""

    rows: Sequence[int]
    outcomes: Sequence[int]
    """Their sum, in whole billionths."""
    validation: int
    """Rows of the part after them."""

    def rate(self, part: int) -> float:
        """The mean outcome. A part that knows nothing uses none; it gets that of all rows."""
        part = part if self.rows[part] else -1
        return self.outcomes[part] / _UNIT / self.rows[part]

    def share(self, part: int) -> float:
        return self.rows[part] / self.rows[-1]


def totals(rows: DataFrame, dataset: Spec) -> Totals:
    """Sums over rows to learn from, with `part`. Raises `UndefinedError` when there is nothing to learn."""
    encoder = dataset.encoder
    sums = [
        F.count(F.lit(1)).alias("rows"),
        F.sum(_units(F.col(dataset.label.outcome))).alias("outcomes"),
        F.sum("label").alias("clicks"),
    ]
    found = {row.part: row for row in rows.groupBy("part").agg(*sums).collect()}
    after = found.pop(encoder.parts, None)
    counted, clicks = sum(row.rows for row in found.values()), sum(int(row.clicks) for row in found.values())
    if not 0 < clicks < counted:
        raise UndefinedError(f"the training part holds {counted} rows, {clicks} of them clicks: both are needed")

    def seen(value: str) -> list[int]:
        return [sum(found[of][value] for of in known(encoder, to) if of in found) for to in range(encoder.parts + 1)]

    return Totals(seen("rows"), seen("outcomes"), after.rows if after else 0)


def count_levels(rows: DataFrame, dataset: Spec, counted: Totals) -> DataFrame:
    """(encoding, level, rows, left) of normalised training rows with `part` and the outcome, in one
    shuffle, however many encodings there are; each pass over users and items adds one a side.

    `encoding` is the place in the spec's encodings. `rows` and `left` are arrays over parts of what the part knows of
    the level: how many rows, and the sum of what is left of their outcomes, in whole billionths.
    """
    rests: list[str] = []
    if dataset.encoder.passes:
        rows, rests = _less_effects(rows, dataset, counted)

    outcome = dataset.label.outcome
    carried = ["part", outcome, *sorted(set(rests))]
    exploded = _exploded(rows, dataset, carried)
    keys = ["encoding", "level"]
    if not rests:
        return _known_outcomes(exploded, keys, outcome, counted, dataset.encoder)
    places = {rest: [i for i, of in enumerate(rests) if of == rest] for rest in rests}
    rest = F.coalesce(*(F.when(F.col("encoding").isin(at), F.col(of)) for of, at in places.items()))
    return _known_rests(exploded.select("part", *keys, rest.alias("left")), keys, dataset.encoder)


def _exploded(rows: DataFrame, dataset: Spec, carried: Sequence[str]) -> DataFrame:
    """(carried, encoding, level), a row for each level."""
    levels = [F.col(levels_column(name)) for name in dataset.encodings]
    if all(map(dataset.single, dataset.encodings)):
        return rows.select(*carried, F.posexplode(F.array(*(of[0] for of in levels))).alias("encoding", "level"))
    # Twice, because a structure for each level and its encoding would cost more than counting it.
    each = rows.select(*carried, F.posexplode(F.array(*levels)).alias("encoding", "levels"))
    return each.select(*carried, "encoding", F.explode("levels").alias("level"))


def _known_outcomes(rows: DataFrame, keys: list[str], outcome: str, counted: Totals, encoder: Encoder) -> DataFrame:
    """Where only the mean outcome is taken off, which is the same for all rows: sums of outcomes suffice."""

    def amount(part: int) -> Column:
        here = F.col("part") == part
        if outcome == "label":  # a count is much less generated code than a sum
            return F.count(F.when(here & (F.col("label") == 1), True)) * F.lit(_UNIT)
        return F.sum(F.when(here, _units(F.col(outcome))).otherwise(0))

    sums = [amount(part).alias(f"outcomes_{part}") for part in range(encoder.parts)]

    def left(to: int) -> Column:
        rest = _sum("outcomes", known(encoder, to)) / _UNIT - _sum("rows", known(encoder, to)) * counted.rate(to)
        return _units(rest)

    return _known(rows, keys, sums, left, encoder)


def _units(value: Column) -> Column:
    return F.rint(value * _UNIT).cast("long")


def _known_rests(rows: DataFrame, keys: list[str], encoder: Encoder) -> DataFrame:
    """Of rows with what is `left` of the outcome for each part, 0 for a part that does not know the row."""
    sums = [F.sum(F.element_at("left", to + 1)).alias(f"left_{to}") for to in range(encoder.parts + 1)]
    return _known(rows, keys, sums, lambda to: F.col(f"left_{to}"), encoder)


def _known(
    rows: DataFrame, keys: list[str], sums: list[Column], left: Callable[[int], Column], encoder: Encoder
) -> DataFrame:
    """(keys, rows, left). One column for each part until the end: what Spark does to an array's elements, it
    interprets."""
    here = [F.count(F.when(F.col("part") == part, True)).alias(f"rows_{part}") for part in range(encoder.parts)]
    every = range(encoder.parts + 1)
    return (
        rows.groupBy(*keys)
        .agg(*here, *sums)
        .select(
            *keys,
            F.array(*(_sum("rows", known(encoder, to)) for to in every)).alias("rows"),
            F.array(*map(left, every)).alias("left"),
        )
    )


def _sum(of: str, parts: Sequence[int]) -> Column:
    return reduce(Column.__add__, (F.col(f"{of}_{part}") for part in parts), F.lit(0).cast("long"))


def effect(rows: Column, left: Column, encoder: Encoder) -> Column:
    """Smoothed: the mean of what is left, as if `smoothing` rows without any effect had been seen too."""
    return left / _UNIT / (rows + F.lit(encoder.smoothing))


_FEW_KEYS = 100_000
"""So many users or items, with an effect for each part, are sent to every executor."""
_USER, _ITEM = "user__effect", "item__effect"


def _rest(dataset: Spec, counted: Totals, *effects: str) -> Column:
    """Array over parts: the outcome less its mean and the effects, 0 for a part that does not know the row."""

    def rest(to: int) -> Column:
        value = F.col(dataset.label.outcome) - F.lit(counted.rate(to))
        for effects_of in effects:
            value -= F.coalesce(F.element_at(effects_of, to + 1), F.lit(0.0))
        return F.when(F.col("part").isin(known(dataset.encoder, to)), _units(value)).otherwise(0)

    # Each element in full, and not by a function of it, which Spark would interpret.
    return F.array(*map(rest, range(dataset.encoder.parts + 1)))


def _stand_between(dataset: Spec, of: tuple[str, ...]) -> tuple[str, ...]:
    """Which effects stand between an encoding and the outcome: the other side's, unless its id is part of it."""
    sides = {dataset.features[name].side for name in of}
    user = "item" in sides and dataset.user_id not in of
    item = "user" in sides and dataset.item_id not in of
    return (_USER,) * user + (_ITEM,) * item


def _less_effects(rows: DataFrame, dataset: Spec, counted: Totals) -> tuple[DataFrame, list[str]]:
    """Rows with columns of what effects leave of the outcome, and which of them each encoding is counted on."""
    encoder = dataset.encoder
    ids = {_USER: dataset.user_id or "", _ITEM: dataset.item_id or ""}
    rows = rows.withColumns({f"{name}__key": F.col(levels_column(of))[0] for name, of in ids.items()})
    found: dict[str, DataFrame] = {}
    for _ in range(encoder.passes):
        for mine, other in ((_USER, _ITEM), (_ITEM, _USER)):
            others = [other] if other in found else []
            seen = _join(rows, found[other], other) if others else rows
            left = seen.withColumn("left", _rest(dataset, counted, *others)).select("part", f"{mine}__key", "left")
            found[mine] = _effects(left, mine, encoder)
    for name, effects in found.items():
        rows = _join(rows, effects, name)
    between = [_stand_between(dataset, of) for of in dataset.encodings.values()]
    names = {effects: "__".join(("rest", *(name.split("__")[0] for name in effects))) for effects in between}
    rows = rows.withColumns({name: _rest(dataset, counted, *effects) for effects, name in names.items()})
    return rows, [names[effects] for effects in between]


def _join(rows: DataFrame, effects: DataFrame, name: str) -> DataFrame:
    """Without asking Spark for a plan: it knows nothing of the size of what was cut off from its plan."""
    small = effects.count() <= _FEW_KEYS
    return rows.join(F.broadcast(effects) if small else effects, f"{name}__key", "left")


def _effects(rows: DataFrame, name: str, encoder: Encoder) -> DataFrame:
    """(key, effect over parts) of every user or item."""
    key = f"{name}__key"
    sums = _known_rests(rows.filter(F.col(key) != MISSING_LEVEL), [key], encoder)
    effects = F.transform(F.arrays_zip("rows", "left"), lambda of: effect(of["rows"], of["left"], encoder))
    # Cut off from how it came about: the next pass would carry the plan of all passes before.
    return sums.select(key, effects.alias(name)).localCheckpoint(eager=False)
