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

from workloads import session, spec
from workloads.data import raw_file, request_limits, tables
from workloads.data.tables import MALFORMED, Lines
from workloads.data.text_table import Wanted
from workloads.errors import WorkloadError
from workloads.spec import Feature, Spec, Table, Time
from workloads.tasks.command import run

PREPARED = "_prepared.json"
REJECTED = "_rejected"
"""Spark reads over names that begin with `_`: the folder is no part of the table, and a table of its own."""
SYNTHETIC = "SYNTHETIC.json"
"""Written beside generated rows, by the generator; whatever is made of them says so too."""
_SAMPLE = 1_000  # lines of a file
_REASONS_SHOWN, _SHOWN_WIDTH = 5, 120
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


@dataclass(frozen=True)
class _Rejected:
    """A sample of the lines that were not understood, of all files."""

    folder: Path
    limit: float
    sample: list[dict[str, Any]] = field(default_factory=list)

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
    described = {name: getattr(dataset, name) for name in ("interactions", *_SIDES)}
    files = {name: raw_file.locate(raw, table, name) for name, table in described.items() if table}
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
    except BaseException as fault:
        _forget(features)
        if isinstance(fault, Exception) and not isinstance(fault, WorkloadError):
            # Spark's own error names neither the file nor the cause.
            for file in files.values():
                raw_file.check_archive(file)
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
    interactions = lines.values() if dataset.time.column else _with_position(lines.values())

    seen, kept = Observation(), Observation()
    understood = interactions.observe(seen, F.count(F.lit(1)).alias("lines"), F.count(MALFORMED).alias("malformed"))
    rows = _typed(_join(understood.filter(F.col(MALFORMED).isNull()), lines, sides), lines, dataset)
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


def _wanted(columns: Mapping[str, Feature]) -> list[Wanted]:
    return [f.wanted(name) for name, f in columns.items()]


@contextmanager
def _read_side(spark: SparkSession, dataset: Spec, file: Path, name: str, rejected: _Rejected) -> Iterator[_Side]:
    """Read once and kept for the join."""
    table: Table = getattr(dataset, name)
    key = (table.key or "", "string")
    columns = dataset.features_of(name.removesuffix("s"))
    lines = tables.read(spark, file, table, [*_wanted(columns), key], [key])
    lines = request_limits.mark(lines, {n: (f, _value(lines, f, n)) for n, f in columns.items()})
    values = lines.values().cache()
    understood = values.filter(F.col(MALFORMED).isNull()).withColumn(_KEY, lines.column(*key))
    try:
        counted = values.agg(
            F.count(F.lit(1)).alias("lines"),
            F.count(MALFORMED).alias("malformed"),
            F.count_distinct(F.when(F.col(MALFORMED).isNull(), lines.column(*key))).alias("keys"),
        ).first()
        assert counted is not None
        report = rejected.report(lines, counted.lines, counted.malformed)
        if repeated := counted.lines - counted.malformed - counted["keys"]:
            twice = understood.groupBy(_KEY).count().filter("count > 1").orderBy(_KEY).limit(3).collect()
            shown = ", ".join(repr(row[_KEY]) for row in twice)
            raise WorkloadError(
                f"{file}: {repeated} lines repeat a {key[0]} that an earlier line has, such as {shown}; "
                "it must be unique"
            )
        features = (_value(lines, f, n).alias(_joined(n)) for n, f in columns.items())
        yield _Side(key[0], understood.select(_KEY, *features), report)
    finally:
        values.unpersist()


def _read_interactions(spark: SparkSession, dataset: Spec, file: Path, keys: list[str]) -> Lines:
    joined = {n for side in ("user", "item") for n in dataset.features_of(side)}
    own = {n: f for n, f in dataset.features.items() if n not in joined and not f.of_time}
    label, moment = dataset.label, dataset.time.column
    given = _label(dataset)
    required = [given, *([(moment, "number")] if moment else []), *((key, "string") for key in keys)]
    lines = tables.read(spark, file, dataset.interactions, [*_wanted(own), *required], required)
    lines = request_limits.mark(lines, {n: (f, _value(lines, f, n)) for n, f in own.items()})
    if label.scale:
        low, high = label.scale
        lines = lines.mark(
            ~lines.column(*given).between(low, high), f"{label.column} does not lie from {low:g} to {high:g}"
        )
    if label.at_least is None:
        lines = lines.mark(~lines.column(*given).isin(0, 1), f"{label.column} is neither 0 nor 1")
    return _mark_time(lines, moment, dataset.time) if moment else lines


def _label(dataset: Spec) -> Wanted:
    return dataset.label.column, "integer" if dataset.label.at_least is None else "number"


def _mark_time(lines: Lines, column: str, rule: Time) -> Lines:
    """Outside its days: most often another unit, and then the reason says so."""
    start, end = rule.seconds
    moment = lines.column(column, "number")
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


def _joined(feature: str) -> str:
    """No feature's own name has `__` in it, and no other column of ours ends so."""
    return f"{feature}__joined"


def _join(interactions: DataFrame, lines: Lines, sides: Mapping[str, _Side]) -> DataFrame:
    for name, side in sides.items():
        found = f"__has_{name}"
        refers = lines.column(side.key, "string") == F.col(_KEY)
        interactions = interactions.join(side.frame.withColumn(found, F.lit(True)), refers, "left").drop(_KEY)
        interactions = interactions.withColumn(f"__no_{name}", F.col(found).isNull())
    return interactions


def _value(lines: Lines, feature: Feature, name: str) -> Column:
    column = lines.column(*feature.wanted(name))
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


def _typed(joined: DataFrame, lines: Lines, dataset: Spec) -> DataFrame:
    from_side = {n for side in ("user", "item") for n in dataset.features_of(side)}
    rule = dataset.label
    given = lines.column(*_label(dataset))
    label = given if rule.at_least is None else given >= rule.at_least
    judged = [label.cast("double").alias("label")]
    if rule.scale:
        low, high = rule.scale
        judged.append(((given - low) / (high - low)).alias(rule.outcome))
    if dataset.time.column:
        moment = F.floor(lines.column(dataset.time.column, "number"))
        day = F.date_from_unix_date((moment / 86400).cast("int"))  # by UTC, whatever the session's time zone
    else:
        moment = F.col("__position")
        day = F.floor(moment * (dataset.time.chunks or 1) / F.col("__positions")).cast("int")
    values = []
    for name, feature in dataset.features.items():
        if name in from_side:
            value = F.col(_joined(name))
        elif feature.of_time:
            value = _of_time(moment, feature.of_time)
        else:
            value = _value(lines, feature, name)
        values.append(value.alias(name))
    flags = [c for c in joined.columns if c.startswith("__no_")]
    return joined.select(moment.alias("time"), *judged, *values, *flags, day.alias("day"))


def _reasons(sample: list[dict[str, Any]]) -> list[str]:
    """The commonest reasons, each with how often and the first line it is given for."""
    first = {line["reason"]: line for line in reversed(sample)}
    common = Counter(line["reason"] for line in sample).most_common(_REASONS_SHOWN)
    return [f"\n  {count} x {reason}, first in {_shown(first[reason])}" for reason, count in common]


def _shown(line: Mapping[str, Any]) -> str:
    byte = f", byte {line['byte']}" if "byte" in line else ""
    return f"line {line['number']}{byte}: {line['line'][:_SHOWN_WIDTH]!r}"


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
