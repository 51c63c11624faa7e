"""Raw files of one snapshot → one typed table in the lake, users and items joined to every interaction.

    prepare --dataset movielens --raw <snapshot folder> --features <table folder>

The table is parquet, partitioned by day; `_prepared.json` beside it comes last and says what was read and refused:
without it, a table does not exist. Does not fetch data, encode anything or split it.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from workloads import session, spec, tables
from workloads.command import run
from workloads.errors import WorkloadError
from workloads.spec import Feature, Spec, Table
from workloads.tables import MALFORMED

PREPARED = "_prepared.json"
SYNTHETIC = "SYNTHETIC.json"
"""Written beside generated rows, by the generator; whatever is made of them says so too."""


@dataclass(frozen=True)
class _Side:
    """Users or items, read and checked."""

    key: str
    frame: DataFrame
    report: Mapping[str, Any]


def prepare(spark: SparkSession, dataset: Spec, raw: Path, features: Path) -> dict[str, Any]:
    started = time.monotonic()
    file = tables.locate(raw, dataset.interactions, "interactions")
    sides = [_read_side(spark, dataset, raw, name) for name in ("users", "items") if getattr(dataset, name)]
    interactions = _mark_label(_read_interactions(spark, dataset, file, sides), dataset)

    seen, kept = Observation(), Observation()
    understood = interactions.observe(seen, F.count(F.lit(1)).alias("lines"), F.count(MALFORMED).alias("malformed"))
    rows = _typed(_join(understood.filter(F.col(MALFORMED).isNull()), sides), dataset)
    orphan = F.lit(False)
    for side in sides:
        orphan |= F.col(f"__no_{side.key}")
    row_hash = F.xxhash64(*(c for c in rows.columns if not c.startswith("__")))
    rows = rows.observe(
        kept,
        F.count(F.lit(1)).alias("rows"),
        F.sum("label").alias("clicks"),
        F.count_if(orphan).alias("orphans"),
        F.to_json(F.percentile_approx("time", [p / 100 for p in range(101)], 100_000)).alias("percentiles"),
        # Sums do not depend on the order of rows; halves of 32 bits cannot overflow them.
        F.sum(F.shiftrightunsigned(row_hash, 32)).alias("high"),
        F.sum(row_hash.bitwiseAND(0xFFFFFFFF)).alias("low"),
    ).select(*(c for c in rows.columns if not c.startswith("__")))

    _forget(features)
    try:
        # One file a day; the rows of a file in time order are already together.
        by_day = rows.repartition("day") if dataset.time.column else rows
        by_day.write.partitionBy("day").parquet(str(features))
        report = _limited(file.name, seen.get["lines"], seen.get["malformed"], dataset, interactions)
        orphans, total = kept.get["orphans"], kept.get["rows"]
        if total == 0:
            raise WorkloadError(f"{file}: holds no row that was understood")
        if orphans > dataset.limits.orphan_share * total:
            raise WorkloadError(
                f"{file}: {orphans} of {total} interactions refer to a user or item that is in no table, "
                f"more than limits.orphan_share {dataset.limits.orphan_share:.2%}"
            )
        marker = raw / SYNTHETIC
        prepared = {
            "dataset": dataset.name,
            "spec_digest": dataset.digest,
            "synthetic": json.loads(marker.read_text("utf-8")) if marker.exists() else None,
            "rows": total,
            "clicks": int(kept.get["clicks"]),
            "orphans": orphans,
            "time_percentiles": json.loads(kept.get["percentiles"]),
            "digest": hashlib.sha256(
                f"{rows.schema.simpleString()}/{total}/{kept.get['high']}/{kept.get['low']}".encode()
            ).hexdigest(),
            "tables": {
                "interactions": report,
                **{name: side.report for name, side in zip(("users", "items"), sides, strict=False)},
            },
            "schema": {column.name: column.dataType.simpleString() for column in rows.schema},
            "seconds": round(time.monotonic() - started, 2),
        }
        (features / PREPARED).write_text(json.dumps(prepared, indent=1), "utf-8")
        return prepared
    except BaseException:
        _forget(features)
        raise


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


def _read_side(spark: SparkSession, dataset: Spec, raw: Path, name: str) -> _Side:
    table: Table = getattr(dataset, name)
    key = table.key or ""
    file = tables.locate(raw, table, name)
    columns = _features_of(dataset, name.removesuffix("s"))
    frame = tables.read(spark, file, table, {**_wanted(dataset, columns), key: "string"}, [key]).cache()
    counted = frame.agg(
        F.count(F.lit(1)).alias("lines"),
        F.count(MALFORMED).alias("malformed"),
        F.count_distinct(F.when(F.col(MALFORMED).isNull(), F.col(key))).alias("keys"),
    ).first()
    assert counted is not None
    report = _limited(file.name, counted.lines, counted.malformed, dataset, frame)
    if repeated := counted.lines - counted.malformed - counted["keys"]:
        raise WorkloadError(f"{file}: {repeated} lines repeat a {key} that an earlier line has; it must be unique")
    understood = frame.filter(F.col(MALFORMED).isNull())
    return _Side(key, understood.select(key, *(_value(f, n).alias(f"__{n}") for n, f in columns.items())), report)


def _read_interactions(spark: SparkSession, dataset: Spec, file: Path, sides: Sequence[_Side]) -> DataFrame:
    joined = {n for side in ("user", "item") for n in _features_of(dataset, side)}
    own = {n: f for n, f in dataset.features.items() if n not in joined}
    required = {dataset.label.column: "integer" if dataset.label.at_least is None else "number"}
    if dataset.time.column:
        required[dataset.time.column] = "number"
    keys = {side.key: "string" for side in sides}
    types = {**_wanted(dataset, own), **keys, **required}
    frame = tables.read(spark, file, dataset.interactions, types, [*required, *keys])
    return frame if dataset.time.column else _with_position(frame)


def _with_position(frame: DataFrame) -> DataFrame:
    """`__position`: the row's place in the file. One pass more, that only counts the rows of each partition."""
    counted = frame.groupBy(F.spark_partition_id().alias("partition")).count().collect()
    counts = {row.partition: row["count"] for row in counted}
    starts = [sum(counts.get(p, 0) for p in range(partition)) for partition in range(max(counts, default=0) + 1)]
    start = F.element_at(F.array(*(F.lit(value).cast("long") for value in starts)), F.spark_partition_id() + 1)
    within = F.monotonically_increasing_id().bitwiseAND((1 << 33) - 1)
    return frame.withColumns({"__position": start + within, "__positions": F.lit(sum(counts.values()))})


def _mark_label(frame: DataFrame, dataset: Spec) -> DataFrame:
    if dataset.label.at_least is not None:
        return frame
    return tables.mark(frame, ~F.col(dataset.label.column).isin(0, 1))


def _join(interactions: DataFrame, sides: Sequence[_Side]) -> DataFrame:
    for side in sides:
        found = f"__has_{side.key}"
        interactions = interactions.join(side.frame.withColumn(found, F.lit(True)), side.key, "left")
        interactions = interactions.withColumn(f"__no_{side.key}", F.col(found).isNull())
    return interactions


def _value(feature: Feature, name: str) -> Column:
    column = F.col(feature.column or name)
    if feature.type == "strings":
        return F.filter(F.split(column, _literal(feature.separator or "")), lambda level: level != "")
    return column


def _literal(separator: str) -> str:
    """As Java's regular expressions take it literally."""
    return f"\\Q{separator}\\E"


def _typed(joined: DataFrame, dataset: Spec) -> DataFrame:
    from_side = {n for side in ("user", "item") for n in _features_of(dataset, side)}
    label = F.col(dataset.label.column)
    if dataset.label.at_least is not None:
        label = label >= dataset.label.at_least
    if dataset.time.column:
        moment = F.floor(dataset.time.column)
        day = F.date_from_unix_date((moment / 86400).cast("int"))  # by UTC, whatever the session's time zone
    else:
        moment = F.col("__position")
        day = F.floor(moment * (dataset.time.chunks or 1) / F.col("__positions")).cast("int")
    values = [
        F.col(f"__{name}").alias(name) if name in from_side else _value(feature, name).alias(name)
        for name, feature in dataset.features.items()
    ]
    flags = [c for c in joined.columns if c.startswith("__no_")]
    return joined.select(moment.alias("time"), label.cast("double").alias("label"), *values, *flags, day.alias("day"))


def _limited(file: str, lines: int, malformed: int, dataset: Spec, frame: DataFrame) -> dict[str, Any]:
    """What was read and refused of one file; an error when too much was refused."""
    examples = tables.first_malformed(frame) if malformed else []
    if malformed > dataset.limits.malformed_share * lines:
        shown = "\n  ".join(repr(line) for line in examples)
        raise WorkloadError(
            f"{file}: {malformed} of {lines} lines were not understood, more than limits.malformed_share "
            f"{dataset.limits.malformed_share:.2%} (wrong number of columns, unreadable number, missing key or label). "
            f"The first:\n  {shown}"
        )
    return {"file": file, "rows": lines - malformed, "rejected": malformed, "rejected_examples": examples}


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
