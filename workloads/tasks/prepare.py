"""Prepare a snapshot: its raw files become one typed table, with users and items joined to every interaction.

    prepare --dataset movielens --raw <snapshot folder> --features <table folder>

The table is parquet, partitioned by day. `_prepared.json` in the same folder is written last and counts the rows that
were read and rejected; a table without it counts as missing. Next to it is a sample of the malformed lines
(`data/rejected_lines.py`). Does not fetch, encode or split data.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from workloads import session, spec
from workloads.data import raw_file, request_limits, tables
from workloads.data.rejected_lines import REJECTED, RejectedLines
from workloads.data.tables import MALFORMED, Lines
from workloads.data.text_table import Wanted
from workloads.errors import WorkloadError
from workloads.spec import Feature, Spec, Table, Time
from workloads.tasks.command import run

PREPARED = "_prepared.json"
_SIDES = ("users", "items")
_KEY = "key__of_side"
_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


@dataclass(frozen=True)
class _Side:
    """Users or items, read and checked."""

    key: str
    """The column of the interactions that refers to it."""
    frame: DataFrame
    """`_KEY` and each feature as its `_joined` column."""
    report: Mapping[str, Any]


def prepare(spark: SparkSession, dataset: Spec, raw: Path, features: Path) -> dict[str, Any]:
    """Write the table of the snapshot `raw` to the folder `features`; return the content of `_prepared.json`."""
    started = time.monotonic()
    tables_of_spec = {name: getattr(dataset, name) for name in ("interactions", *_SIDES)}
    files = {name: raw_file.locate(raw, table, name) for name, table in tables_of_spec.items() if table}
    rejected = RejectedLines(features / REJECTED, dataset.limits.malformed_share)
    _remove(features)
    try:
        with ExitStack() as cached:
            sides = {
                name: cached.enter_context(_read_side(spark, dataset, file, name, rejected))
                for name, file in files.items()
                if name in _SIDES
            }
            table = _write(spark, dataset, files["interactions"], sides, features, rejected)
    except BaseException as fault:
        _remove(features)
        if isinstance(fault, Exception) and not isinstance(fault, WorkloadError):
            # Spark's own error names neither the file nor the cause.
            for file in files.values():
                raw_file.check_archive(file)
        raise
    finally:
        rejected.write()
    marker = raw / raw_file.SYNTHETIC
    prepared = {
        "dataset": dataset.name,
        "spec_digest": dataset.digest,
        "synthetic": json.loads(marker.read_text("utf-8")) if marker.exists() else None,
        **table,
        "seconds": round(time.monotonic() - started, 2),
    }
    (features / PREPARED).write_text(json.dumps(prepared, indent=1), "utf-8")
    return prepared


@dataclass(frozen=True)
class _Observations:
    """Figures that Spark collects while it writes the table; available after the write."""

    lines: Observation
    """`lines` and `malformed` of the file of interactions."""
    width: Observation | None
    """`wide`: rows with more combinations than a request may have. None if no row can have more."""
    rows: Observation
    """Figures of the rows that are written."""


def _write(
    spark: SparkSession,
    dataset: Spec,
    file: Path,
    sides: Mapping[str, _Side],
    features: Path,
    rejected: RejectedLines,
) -> dict[str, Any]:
    """Write the table, and return its entries of `_prepared.json`. Raises `WorkloadError` if a limit is exceeded."""
    lines = _read_interactions(spark, dataset, file, [side.key for side in sides.values()])
    rows, observed = _observed_rows(lines, dataset, sides)
    table = rows.select(*(column for column in rows.columns if not column.startswith("__")))
    # One file per day. Without a time column, the rows of a day are already next to each other.
    by_day = table.repartition("day") if dataset.time.column else table
    by_day.write.partitionBy("day").parquet(str(features))

    count, malformed = observed.lines.get["lines"], observed.lines.get["malformed"]
    report = rejected.report(lines, count, malformed)
    if observed.width and (wide := observed.width.get["wide"]):
        _check_width(lines.file, wide, count, dataset)
        report |= {"rows": report["rows"] - wide, "rejected": report["rejected"] + wide}
    figures = observed.rows.get
    _check_orphans(lines.file, figures, sides, dataset)
    digest = f"{table.schema.simpleString()}/{figures['rows']}/{figures['high']}/{figures['low']}"
    return {
        "rows": figures["rows"],
        "clicks": int(figures["clicks"]),
        "orphans": figures["orphans"],
        "time_percentiles": json.loads(figures["percentiles"]),
        "digest": hashlib.sha256(digest.encode()).hexdigest(),
        "tables": {"interactions": report, **{name: side.report for name, side in sides.items()}},
        "schema": {column.name: column.dataType.simpleString() for column in table.schema},
    }


def _observed_rows(lines: Lines, dataset: Spec, sides: Mapping[str, _Side]) -> tuple[DataFrame, _Observations]:
    """Return the typed rows of the table with the flags `__no_<side>`, and the observations of their write."""
    of_lines, of_width, of_rows = Observation(), None, Observation()
    interactions = lines.values() if dataset.time.column else _with_position(lines.values())
    interactions = interactions.observe(
        of_lines, F.count(F.lit(1)).alias("lines"), F.count(MALFORMED).alias("malformed")
    )
    rows = _typed(_join(interactions.filter(F.col(MALFORMED).isNull()), lines, sides), lines, dataset)
    wide = request_limits.too_many_combinations(dataset)
    if wide is not None:
        of_width = Observation()
        rows = rows.observe(of_width, F.count_if(wide).alias("wide")).filter(~wide)
    orphan = F.lit(False)
    for name in sides:
        orphan |= F.col(f"__no_{name}")
    row_hash = F.xxhash64(*(column for column in rows.columns if not column.startswith("__")))
    rows = rows.observe(
        of_rows,
        F.count(F.lit(1)).alias("rows"),
        F.sum("label").alias("clicks"),
        F.count_if(orphan).alias("orphans"),
        *(F.count_if(F.col(f"__no_{name}")).alias(name) for name in sides),
        F.to_json(F.percentile_approx("time", [p / 100 for p in range(101)], 100_000)).alias("percentiles"),
        # Sums do not depend on the order of rows; halves of 32 bits cannot overflow them.
        F.sum(F.shiftrightunsigned(row_hash, 32)).alias("high"),
        F.sum(row_hash.bitwiseAND(0xFFFFFFFF)).alias("low"),
    )
    return rows, _Observations(of_lines, of_width, of_rows)


def _check_width(file: Path, wide: int, lines: int, dataset: Spec) -> None:
    """Raise `WorkloadError` if too many rows give a cross more combinations than a request may have."""
    if wide > dataset.limits.malformed_share * lines:
        raise WorkloadError(
            f"{file}: {wide} of {lines} interactions join lists that give a cross more than "
            f"{spec.MAX_STRINGS} combinations, the most that a request may give; that is more than "
            f"limits.malformed_share {dataset.limits.malformed_share:.2%}. Shorten the lists or leave the cross out"
        )


def _check_orphans(file: Path, figures: Mapping[str, Any], sides: Mapping[str, _Side], dataset: Spec) -> None:
    """Raise `WorkloadError` if the table is empty, or too many rows refer to an unknown user or item."""
    orphans, total = figures["orphans"], figures["rows"]
    if total == 0:
        raise WorkloadError(f"{file}: has no valid rows")
    if orphans > dataset.limits.orphan_share * total:
        absent = ", ".join(f"{figures[name]} to {name} by {side.key}" for name, side in sides.items())
        raise WorkloadError(
            f"{file}: {orphans} of {total} interactions ({orphans / total:.2%}) refer to a user or item that is "
            f"in no table, more than limits.orphan_share {dataset.limits.orphan_share:.2%}: {absent}"
        )


def prepared(features: Path, dataset: Spec) -> dict[str, Any]:
    """Return the content of `_prepared.json`. Raises `WorkloadError` if it is missing or belongs to another spec."""
    file = features / PREPARED
    if not file.exists():
        raise WorkloadError(f"no prepared table in {features} ({PREPARED} does not exist): run prepare first")
    document: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if absent := [name for name in dataset.features if name not in document["schema"]]:
        raise WorkloadError(f"{features}: no column {absent[0]!r}: prepared for another dataset or spec, prepare again")
    return document


def _wanted(columns: Mapping[str, Feature]) -> list[Wanted]:
    return [f.wanted(name) for name, f in columns.items()]


@contextmanager
def _read_side(spark: SparkSession, dataset: Spec, file: Path, name: str, rejected: RejectedLines) -> Iterator[_Side]:
    """Read and check a table of users or items. It is cached for the join until the end of the block."""
    table: Table = getattr(dataset, name)
    key = (table.key or "", "string")
    columns = dataset.features_of(name.removesuffix("s"))
    lines = tables.read(spark, file, table, [*_wanted(columns), key], [key])
    lines = request_limits.mark(lines, {n: (f, _value(lines, f, n)) for n, f in columns.items()})
    values = lines.values().cache()
    valid = values.filter(F.col(MALFORMED).isNull()).withColumn(_KEY, lines.column(*key))
    try:
        counts = values.agg(
            F.count(F.lit(1)).alias("lines"),
            F.count(MALFORMED).alias("malformed"),
            F.count_distinct(F.when(F.col(MALFORMED).isNull(), lines.column(*key))).alias("keys"),
        ).first()
        assert counts is not None
        report = rejected.report(lines, counts.lines, counts.malformed)
        if repeated := counts.lines - counts.malformed - counts["keys"]:
            duplicates = valid.groupBy(_KEY).count().filter("count > 1").orderBy(_KEY).limit(3).collect()
            shown = ", ".join(repr(row[_KEY]) for row in duplicates)
            raise WorkloadError(
                f"{file}: {repeated} lines repeat a {key[0]} that an earlier line has, such as {shown}; "
                "it must be unique"
            )
        features = (_value(lines, f, n).alias(_joined(n)) for n, f in columns.items())
        yield _Side(key[0], valid.select(_KEY, *features), report)
    finally:
        values.unpersist()


def _read_interactions(spark: SparkSession, dataset: Spec, file: Path, keys: list[str]) -> Lines:
    joined = {n for side in ("user", "item") for n in dataset.features_of(side)}
    own = {n: f for n, f in dataset.features.items() if n not in joined and not f.of_time}
    label, moment = dataset.label, dataset.time.column
    label_column = _label(dataset)
    required = [label_column, *([(moment, "number")] if moment else []), *((key, "string") for key in keys)]
    lines = tables.read(spark, file, dataset.interactions, [*_wanted(own), *required], required)
    lines = request_limits.mark(lines, {n: (f, _value(lines, f, n)) for n, f in own.items()})
    if label.scale:
        low, high = label.scale
        lines = lines.mark(
            ~lines.column(*label_column).between(low, high), f"{label.column} is not between {low:g} and {high:g}"
        )
    if label.at_least is None:
        lines = lines.mark(~lines.column(*label_column).isin(0, 1), f"{label.column} is neither 0 nor 1")
    return _mark_time(lines, moment, dataset.time) if moment else lines


def _label(dataset: Spec) -> Wanted:
    return dataset.label.column, "integer" if dataset.label.at_least is None else "number"


def _mark_time(lines: Lines, column: str, rule: Time) -> Lines:
    """Mark times outside the allowed days; the reason names the unit if the time looks like another one."""
    start, end = rule.seconds
    moment = lines.column(column, "number")
    reason = F.lit(f"{column} is not between {rule.days[0]} and {rule.days[1]}")
    for unit, factor in _UNITS.items():
        hint = f"{column} looks like {unit}; expected Unix seconds"
        reason = F.when((moment / factor >= start) & (moment / factor < end), hint).otherwise(reason)
    return lines.mark((moment < start) | (moment >= end), reason)


def _with_position(frame: DataFrame) -> DataFrame:
    """Add `__position`, the row's position in the file, and `__positions`, the number of rows.

    Takes a further pass, which counts the rows of each partition.
    """
    by_partition = frame.groupBy(F.spark_partition_id().alias("partition")).count().collect()
    counts = {row.partition: row["count"] for row in by_partition}
    starts = [sum(counts.get(p, 0) for p in range(partition)) for partition in range(max(counts, default=0) + 1)]
    start = F.element_at(F.array(*(F.lit(value).cast("long") for value in starts)), F.spark_partition_id() + 1)
    within = F.monotonically_increasing_id().bitwiseAND((1 << 33) - 1)
    return frame.withColumns({"__position": start + within, "__positions": F.lit(sum(counts.values()))})


def _joined(feature: str) -> str:
    """Return a unique name: features' names do not contain `__`, and no other internal column ends in `__joined`."""
    return f"{feature}__joined"


def _join(interactions: DataFrame, lines: Lines, sides: Mapping[str, _Side]) -> DataFrame:
    for name, side in sides.items():
        present = f"__has_{name}"
        same_key = lines.column(side.key, "string") == F.col(_KEY)
        interactions = interactions.join(side.frame.withColumn(present, F.lit(True)), same_key, "left").drop(_KEY)
        interactions = interactions.withColumn(f"__no_{name}", F.col(present).isNull())
    return interactions


def _value(lines: Lines, feature: Feature, name: str) -> Column:
    column = lines.column(*feature.wanted(name))
    if feature.type == "strings":
        return F.filter(F.split(column, _literal(feature.separator or "")), lambda level: level != "")
    return column


def _time_feature(moment: Column, kind: str) -> Column:
    """Return the `hour` or `weekday` of Unix seconds in UTC; the session's time zone does not matter."""
    if kind == "hour":
        return F.floor(F.pmod(moment, F.lit(86_400)) / 3600)
    return F.pmod(F.floor(moment / 86_400) + 3, F.lit(7)) + 1  # 1970-01-01 was a Thursday


def _literal(separator: str) -> str:
    """Quote a separator for Java's regular expressions."""
    return f"\\Q{separator}\\E"


def _typed(joined: DataFrame, lines: Lines, dataset: Spec) -> DataFrame:
    from_side = {n for side in ("user", "item") for n in dataset.features_of(side)}
    rule = dataset.label
    raw_label = lines.column(*_label(dataset))
    label = raw_label if rule.at_least is None else raw_label >= rule.at_least
    labels = [label.cast("double").alias("label")]
    if rule.scale:
        low, high = rule.scale
        labels.append(((raw_label - low) / (high - low)).alias(rule.outcome))
    if dataset.time.column:
        moment = F.floor(lines.column(dataset.time.column, "number"))
        day = F.date_from_unix_date((moment / 86400).cast("int"))  # in UTC; the session's time zone does not matter
    else:
        moment = F.col("__position")
        day = F.floor(moment * (dataset.time.chunks or 1) / F.col("__positions")).cast("int")
    values = []
    for name, feature in dataset.features.items():
        if name in from_side:
            value = F.col(_joined(name))
        elif feature.of_time:
            value = _time_feature(moment, feature.of_time)
        else:
            value = _value(lines, feature, name)
        values.append(value.alias(name))
    flags = [c for c in joined.columns if c.startswith("__no_")]
    return joined.select(moment.alias("time"), *labels, *values, *flags, day.alias("day"))


def _remove(features: Path) -> None:
    (features / PREPARED).unlink(missing_ok=True)
    shutil.rmtree(features, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="prepare", description="Join and type one raw snapshot into the lake.")
    parser.add_argument("--dataset", required=True, help="name of a dataset spec")
    parser.add_argument("--raw", required=True, type=Path, help="folder of the raw snapshot")
    parser.add_argument("--features", required=True, type=Path, help="folder of the table to write")
    arguments = parser.parse_args()

    def work() -> None:
        dataset = spec.load(arguments.dataset)
        prepared = prepare(session.start(), dataset, arguments.raw, arguments.features)
        rejected = sum(table["rejected"] for table in prepared["tables"].values())
        print(f"prepared {prepared['rows']} rows ({rejected} lines rejected) in {prepared['seconds']} s", flush=True)

    run(work)


if __name__ == "__main__":
    main()
