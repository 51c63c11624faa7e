"""Raw files of one snapshot → one typed table in the lake, users and items joined to every interaction.

    prepare --dataset movielens --raw <snapshot folder> --features <table folder>

The table is parquet, partitioned by day; `_prepared.json` beside it comes last and says what was read and refused:
without it, a table does not exist. `_rejected/` holds the first lines of each file that were not understood, each with
the reason; of a refused snapshot nothing else is left. Does not fetch data, encode anything or split it.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from workloads import request_limits, session, spec, tables
from workloads.command import run
from workloads.errors import WorkloadError
from workloads.spec import Feature, Spec, Table, Time
from workloads.tables import MALFORMED, Lines

PREPARED = "_prepared.json"
REJECTED = "_rejected"
"""Spark reads over names that begin with `_`: the folder is no part of the table, and a table of its own."""
SYNTHETIC = "SYNTHETIC.json"
"""Written beside generated rows, by the generator; whatever is made of them says so too."""
_SAMPLE = 1_000  # lines of a file
_REASONS_SHOWN, _SHOWN_WIDTH = 5, 120
_SIDES = ("users", "items")
_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


@dataclass(frozen=True)
class _Side:
    """Users or items, read and checked."""

    key: str
    frame: DataFrame
    report: Mapping[str, Any]


@dataclass(frozen=True)
class _Rejected:
    """A sample of the lines that were not understood, of all files."""

    folder: Path
    limit: float
    sample: list[dict[str, str]] = field(default_factory=list)

    def report(self, lines: Lines, count: int, malformed: int) -> dict[str, Any]:
        """What was read and refused of one file; an error when too much was refused."""
        sample = lines.rejected(min(malformed, _SAMPLE)) if malformed else []
        self.sample.extend(sample)
        if malformed > self.limit * count:
            raise WorkloadError(
                f"{lines.file}: {malformed} of {count} lines ({malformed / count:.2%}) were not understood, more than "
                f"limits.malformed_share {self.limit:.2%}. The first {len(sample)} are in {self.folder}:"
                + "".join(_reasons(sample))
            )
        return {
            "file": lines.file.name,
            "rows": count - malformed,
            "rejected": malformed,
            "unused_columns": list(lines.unused),
        }

    def write(self) -> None:
        if self.sample:
            self.folder.mkdir(parents=True, exist_ok=True)
            written = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.sample)
            (self.folder / "lines.jsonl").write_text(written, "utf-8")


def prepare(spark: SparkSession, dataset: Spec, raw: Path, features: Path) -> dict[str, Any]:
    started = time.monotonic()
    files = {
        name: tables.locate(raw, table, name) for name in ("interactions", *_SIDES) if (table := getattr(dataset, name))
    }
    rejected = _Rejected(features / REJECTED, dataset.limits.malformed_share)
    _forget(features)
    try:
        with ExitStack() as held:
            sides = {
                name: held.enter_context(_read_side(spark, dataset, file, name, rejected))
                for name, file in files.items()
                if name in _SIDES
            }
            written = _write(spark, dataset, files["interactions"], sides, features, rejected)
    except BaseException:
        _forget(features)
        raise
    finally:
        rejected.write()
    marker = raw / SYNTHETIC
    prepared = {
        "dataset": dataset.name,
        "spec_digest": dataset.digest,
        "synthetic": json.loads(marker.read_text("utf-8")) if marker.exists() else None,
        **written,
        "seconds": round(time.monotonic() - started, 2),
    }
    (features / PREPARED).write_text(json.dumps(prepared, indent=1), "utf-8")
    return prepared


def _write(
    spark: SparkSession,
    dataset: Spec,
    file: Path,
    sides: Mapping[str, _Side],
    features: Path,
    rejected: _Rejected,
) -> dict[str, Any]:
    """The table, and what `_prepared.json` is to say of it."""
    lines = _read_interactions(spark, dataset, file, [side.key for side in sides.values()])
    interactions = lines.frame if dataset.time.column else _with_position(lines.frame)

    seen, kept = Observation(), Observation()
    understood = interactions.observe(seen, F.count(F.lit(1)).alias("lines"), F.count(MALFORMED).alias("malformed"))
    rows = _typed(_join(understood.filter(F.col(MALFORMED).isNull()), sides), dataset)
    wide, refused = request_limits.too_many_combinations(dataset), Observation()
    if wide is not None:
        rows = rows.observe(refused, F.count_if(wide).alias("wide")).filter(~wide)
    orphan = F.lit(False)
    for name in sides:
        orphan |= F.col(f"__no_{name}")
    row_hash = F.xxhash64(*(c for c in rows.columns if not c.startswith("__")))
    rows = rows.observe(
        kept,
        F.count(F.lit(1)).alias("rows"),
        F.sum("label").alias("clicks"),
        F.count_if(orphan).alias("orphans"),
        *(F.count_if(F.col(f"__no_{name}")).alias(name) for name in sides),
        F.to_json(F.percentile_approx("time", [p / 100 for p in range(101)], 100_000)).alias("percentiles"),
        # Sums do not depend on the order of rows; halves of 32 bits cannot overflow them.
        F.sum(F.shiftrightunsigned(row_hash, 32)).alias("high"),
        F.sum(row_hash.bitwiseAND(0xFFFFFFFF)).alias("low"),
    ).select(*(c for c in rows.columns if not c.startswith("__")))
    # One file a day; the rows of a file in time order are already together.
    by_day = rows.repartition("day") if dataset.time.column else rows
    by_day.write.partitionBy("day").parquet(str(features))

    report = rejected.report(lines, seen.get["lines"], seen.get["malformed"])
    if wide is not None and (count := refused.get["wide"]):
        if count > dataset.limits.malformed_share * seen.get["lines"]:
            raise WorkloadError(
                f"{lines.file}: {count} of {seen.get['lines']} interactions join lists that give a cross more than "
                f"{spec.MAX_STRINGS} combinations, the most that a request may give; that is more than "
                f"limits.malformed_share {dataset.limits.malformed_share:.2%}. Shorten the lists or leave the cross out"
            )
        report |= {"rows": report["rows"] - count, "rejected": report["rejected"] + count}
    orphans, total = kept.get["orphans"], kept.get["rows"]
    if total == 0:
        raise WorkloadError(f"{lines.file}: holds no row that was understood")
    if orphans > dataset.limits.orphan_share * total:
        absent = ", ".join(f"{kept.get[name]} to {name} by {side.key}" for name, side in sides.items())
        raise WorkloadError(
            f"{lines.file}: {orphans} of {total} interactions ({orphans / total:.2%}) refer to a user or item that is "
            f"in no table, more than limits.orphan_share {dataset.limits.orphan_share:.2%}: {absent}"
        )
    return {
        "rows": total,
        "clicks": int(kept.get["clicks"]),
        "orphans": orphans,
        "time_percentiles": json.loads(kept.get["percentiles"]),
        "digest": hashlib.sha256(
            f"{rows.schema.simpleString()}/{total}/{kept.get['high']}/{kept.get['low']}".encode()
        ).hexdigest(),
        "tables": {"interactions": report, **{name: side.report for name, side in sides.items()}},
        "schema": {column.name: column.dataType.simpleString() for column in rows.schema},
    }


def prepared(features: Path, dataset: Spec) -> dict[str, Any]:
    """What `_prepared.json` says of a table, which is refused if it is not there or another spec's."""
    file = features / PREPARED
    if not file.exists():
        raise WorkloadError(f"no prepared table in {features} ({PREPARED} is not there): run prepare first")
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if absent := [name for name in dataset.features if name not in found["schema"]]:
        raise WorkloadError(f"{features}: no column {absent[0]!r}: prepared for another dataset or spec, prepare again")
    return found


def _wanted(dataset: Spec, columns: Mapping[str, Feature]) -> dict[str, str]:
    return {f.column or name: "string" if f.categorical else f.type for name, f in columns.items()}


def _features_of(dataset: Spec, side: str) -> dict[str, Feature]:
    """The features that the table of `side` holds; its key comes with the interactions."""
    table: Table | None = getattr(dataset, f"{side}s", None)
    return {n: f for n, f in dataset.features.items() if f.side == side and table and (f.column or n) != table.key}


@contextmanager
def _read_side(spark: SparkSession, dataset: Spec, file: Path, name: str, rejected: _Rejected) -> Iterator[_Side]:
    """Read once and kept for the join."""
    table: Table = getattr(dataset, name)
    key = table.key or ""
    columns = _features_of(dataset, name.removesuffix("s"))
    lines = tables.read(spark, file, table, {**_wanted(dataset, columns), key: "string"}, [key])
    lines = request_limits.mark(lines, {n: (f, _value(f, n)) for n, f in columns.items()})
    understood = lines.frame.cache().filter(F.col(MALFORMED).isNull())
    try:
        counted = lines.frame.agg(
            F.count(F.lit(1)).alias("lines"),
            F.count(MALFORMED).alias("malformed"),
            F.count_distinct(F.when(F.col(MALFORMED).isNull(), F.col(key))).alias("keys"),
        ).first()
        assert counted is not None
        report = rejected.report(lines, counted.lines, counted.malformed)
        if repeated := counted.lines - counted.malformed - counted["keys"]:
            twice = understood.groupBy(key).count().filter("count > 1").orderBy(key).limit(3).collect()
            shown = ", ".join(repr(row[key]) for row in twice)
            raise WorkloadError(
                f"{file}: {repeated} lines repeat a {key} that an earlier line has, such as {shown}; it must be unique"
            )
        yield _Side(key, understood.select(key, *(_value(f, n).alias(f"__{n}") for n, f in columns.items())), report)
    finally:
        lines.frame.unpersist()


def _read_interactions(spark: SparkSession, dataset: Spec, file: Path, keys: list[str]) -> Lines:
    joined = {n for side in ("user", "item") for n in _features_of(dataset, side)}
    own = {n: f for n, f in dataset.features.items() if n not in joined and not f.of_time}
    label, moment = dataset.label, dataset.time.column
    required = {label.column: "integer" if label.at_least is None else "number"}
    if moment:
        required[moment] = "number"
    types = {**_wanted(dataset, own), **dict.fromkeys(keys, "string"), **required}
    lines = tables.read(spark, file, dataset.interactions, types, [*required, *keys])
    lines = request_limits.mark(lines, {n: (f, _value(f, n)) for n, f in own.items()})
    if label.scale:
        low, high = label.scale
        lines = lines.mark(
            ~F.col(label.column).between(low, high), f"{label.column} does not lie from {low:g} to {high:g}"
        )
    if label.at_least is None:
        lines = lines.mark(~F.col(label.column).isin(0, 1), f"{label.column} is neither 0 nor 1")
    return _mark_time(lines, moment, dataset.time) if moment else lines


def _mark_time(lines: Lines, column: str, rule: Time) -> Lines:
    """Outside its days: most often another unit, and then the reason says so."""
    start, end = rule.seconds
    moment = F.col(column)
    reason = F.lit(f"{column} does not lie from {rule.days[0]} to {rule.days[1]}")
    for unit, factor in _UNITS.items():
        hint = f"{column} looks like {unit}; expected Unix seconds"
        reason = F.when((moment / factor >= start) & (moment / factor < end), hint).otherwise(reason)
    return lines.mark((moment < start) | (moment >= end), reason)


def _with_position(frame: DataFrame) -> DataFrame:
    """`__position`: the row's place in the file. One pass more, that only counts the rows of each partition."""
    counted = frame.groupBy(F.spark_partition_id().alias("partition")).count().collect()
    counts = {row.partition: row["count"] for row in counted}
    starts = [sum(counts.get(p, 0) for p in range(partition)) for partition in range(max(counts, default=0) + 1)]
    start = F.element_at(F.array(*(F.lit(value).cast("long") for value in starts)), F.spark_partition_id() + 1)
    within = F.monotonically_increasing_id().bitwiseAND((1 << 33) - 1)
    return frame.withColumns({"__position": start + within, "__positions": F.lit(sum(counts.values()))})


def _join(interactions: DataFrame, sides: Mapping[str, _Side]) -> DataFrame:
    for name, side in sides.items():
        found = f"__has_{name}"
        interactions = interactions.join(side.frame.withColumn(found, F.lit(True)), side.key, "left")
        interactions = interactions.withColumn(f"__no_{name}", F.col(found).isNull())
    return interactions


def _value(feature: Feature, name: str) -> Column:
    column = F.col(feature.column or name)
    if feature.type == "strings":
        return F.filter(F.split(column, _literal(feature.separator or "")), lambda level: level != "")
    return column


def _of_time(moment: Column, what: str) -> Column:
    """By UTC, whatever the session's time zone."""
    if what == "hour":
        return F.floor(F.pmod(moment, F.lit(86_400)) / 3600)
    return F.pmod(F.floor(moment / 86_400) + 3, F.lit(7)) + 1  # the first day of 1970 was a Thursday


def _literal(separator: str) -> str:
    """As Java's regular expressions take it literally."""
    return f"\\Q{separator}\\E"


def _typed(joined: DataFrame, dataset: Spec) -> DataFrame:
    from_side = {n for side in ("user", "item") for n in _features_of(dataset, side)}
    rule = dataset.label
    given = F.col(rule.column)
    label = given if rule.at_least is None else given >= rule.at_least
    judged = [label.cast("double").alias("label")]
    if rule.scale:
        low, high = rule.scale
        judged.append(((given - low) / (high - low)).alias(rule.outcome))
    if dataset.time.column:
        moment = F.floor(dataset.time.column)
        day = F.date_from_unix_date((moment / 86400).cast("int"))  # by UTC, whatever the session's time zone
    else:
        moment = F.col("__position")
        day = F.floor(moment * (dataset.time.chunks or 1) / F.col("__positions")).cast("int")
    values = [
        (F.col(f"__{n}") if n in from_side else _of_time(moment, f.of_time) if f.of_time else _value(f, n)).alias(n)
        for n, f in dataset.features.items()
    ]
    flags = [c for c in joined.columns if c.startswith("__no_")]
    return joined.select(moment.alias("time"), *judged, *values, *flags, day.alias("day"))


def _reasons(sample: list[dict[str, str]]) -> list[str]:
    """The commonest reasons, each with how often and the first line it is given for."""
    first = {line["reason"]: line["line"] for line in reversed(sample)}
    common = Counter(line["reason"] for line in sample).most_common(_REASONS_SHOWN)
    return [f"\n  {count} x {reason}, first in {first[reason][:_SHOWN_WIDTH]!r}" for reason, count in common]


def _forget(features: Path) -> None:
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
        print(f"prepared {prepared['rows']} rows ({rejected} lines refused) in {prepared['seconds']} s", flush=True)

    run(work)


if __name__ == "__main__":
    main()
