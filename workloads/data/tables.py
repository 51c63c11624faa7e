"""Raw files as typed Spark tables, in which malformed lines are marked with the reason and not dropped.

`text_table.py` has the rules of the format. Does not decide about marked lines, join tables or compute labels:
`tasks/prepare.py` does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from workloads.data import raw_file, text_table
from workloads.data.text_table import Wanted
from workloads.spec import Table

MALFORMED = "__malformed"
"""Reason if a line is malformed, otherwise null."""
_LINE, _FIELDS, _PLACE = "__line", "__fields", "__place"
"""The bytes of a line, its fields, and its place in the file: the partition and the number of lines before it there."""
_ROWS_OF_A_PARTITION = 33
"""Bits of `monotonically_increasing_id` below the number of the partition."""
_WIDTH = 2_000  # characters to keep of a rejected line
_SQL_TYPES = {"integer": "BIGINT", "number": "DOUBLE"}
_UNREADABLE = {"integer": text_table.NO_INTEGER, "number": text_table.NO_NUMBER}


@dataclass(frozen=True)
class Lines:
    """A file as a table: each wanted column (`column`) and `MALFORMED`."""

    file: Path
    frame: DataFrame
    header: text_table.Header
    unused: tuple[str, ...]
    """Columns that nothing reads."""

    def column(self, name: str, kind: str) -> Column:
        """Return a wanted column. Its Spark name is made of its index, because a file may give columns any name."""
        return F.col(_name(self.header, (name, kind)))

    def mark(self, fault: Column, reason: Column | str) -> "Lines":
        """Mark lines for which `fault` is true and that have no reason yet."""
        marked = F.coalesce(F.col(MALFORMED), F.when(fault, F.lit(reason)))
        return replace(self, frame=self.frame.withColumn(MALFORMED, marked))

    def values(self) -> DataFrame:
        """Return the table without the text of the lines, which only `rejected` shows."""
        return self.frame.drop(_LINE, _PLACE)

    def rejected(self, limit: int) -> list[dict[str, Any]]:
        """Return the first `limit` malformed lines: line number, reason, text and, if it is not UTF-8, the position of
        the first bad byte. Reads the file again up to the last of these lines."""
        # A character has at most four bytes.
        start = F.substring(F.col(_LINE).cast("binary"), 1, 4 * _WIDTH)
        lines = (
            self.frame.filter(F.col(MALFORMED).isNotNull())
            .select(F.col(_PLACE).alias("place"), F.col(MALFORMED).alias("reason"), start.alias("start"))
            .limit(limit)
            .collect()
        )
        before = self._lines_before(max((row.place for row in lines), default=0) >> _ROWS_OF_A_PARTITION)
        return [self._rejected(row, before) for row in lines]

    def _rejected(self, row: Any, before: Mapping[int, int]) -> dict[str, Any]:
        partition, place = divmod(row.place, 1 << _ROWS_OF_A_PARTITION)
        line = {"file": self.file.name, "number": before[partition] + place + 1, "reason": row.reason}
        if row.reason == text_table.NOT_UTF8 and (byte := text_table.first_bad_byte(bytes(row.start))):
            line["byte"] = byte
        return {**line, "line": row.start.decode(errors="backslashreplace")[:_WIDTH]}

    def _lines_before(self, last: int) -> dict[int, int]:
        """Count, for each partition up to the `last`, the lines of all partitions before it."""
        if not last:
            return {0: 0}
        raw = _raw(self.frame.sparkSession, self.file)
        by_partition = raw.groupBy(F.spark_partition_id().alias("partition")).count().collect()
        counts = {row.partition: row["count"] for row in by_partition}
        return {partition: sum(counts.get(p, 0) for p in range(partition)) for partition in range(last + 1)}


def literal(path: Path) -> str:
    """Escape a path for Spark, which reads some characters as a pattern."""
    return raw_file.PATTERN.sub(r"\\\g<0>", str(path.absolute()))


def read(spark: SparkSession, file: Path, table: Table, wanted: Iterable[Wanted], required: Iterable[Wanted]) -> Lines:
    """Return every line that is not blank; lines that `text_table` calls malformed are marked.

    wanted: columns to read. required: columns of these that must not be empty. Raises `WorkloadError` if the file lacks
    a wanted column, or the type in its header cannot be read as wanted.
    """
    header = text_table.header(file, table)
    wanted = header.in_order(file, wanted)
    unused = tuple(name for name in header.columns if name not in dict(wanted))
    # The comparison is faster than the expression, and true for most lines: their first character is not blank.
    not_blank = (F.col(_LINE) >= "!") | F.col(_LINE).rlike(text_table.NOT_BLANK)
    frame = (
        _raw(spark, file)
        .filter((F.col(_PLACE) >= header.lines) & not_blank)
        .withColumn(_FIELDS, F.split(_LINE, "\t", -1))
        .select(_LINE, _PLACE, _FIELDS, *(_value(header, column) for column in wanted))
    )
    frame = frame.withColumn(MALFORMED, _reason(header, wanted, list(required))).drop(_FIELDS)
    return Lines(file, frame, header, unused)


def _raw(spark: SparkSession, file: Path) -> DataFrame:
    """Return the lines of the file as bytes: Spark does not decode text that it reads."""
    place = F.monotonically_increasing_id().alias(_PLACE)
    return spark.read.text(literal(file)).select(F.col("value").alias(_LINE), place)


def _reason(header: text_table.Header, wanted: Iterable[Wanted], required: Iterable[Wanted]) -> Column:
    """Return the first reason that applies, in the order of `text_table.read`; null if none does."""
    fields, columns = F.size(_FIELDS), len(header.columns)
    reasons = [
        # Splitting decodes and encodes the line, which replaces bytes that are not UTF-8. `decode` would do so, too,
        # but since Spark 4.0 it raises an error (apache/datafusion-comet#4465).
        F.when(F.array_join(_FIELDS, "\t") != F.col(_LINE), text_table.NOT_UTF8),
        F.when(F.col(_LINE).contains("\0"), text_table.NUL),
        F.when(fields != columns, F.concat(fields.cast("string"), F.lit(text_table.wrong_count("", columns)))),
    ]
    for name, kind in wanted:
        if fault := _UNREADABLE.get(kind):
            unreadable = F.col(_name(header, (name, kind))).isNull() & (F.expr(_text(header, name)) != "")
            reasons.append(F.when(unreadable, f"{name} {fault}"))
    reasons += [F.when(F.col(_name(header, column)).isNull(), text_table.missing(column[0])) for column in required]
    for name, kind in wanted:
        if kind == "number":
            number = F.col(_name(header, (name, kind)))
            infinite = F.isnan(number) | (F.abs(number) == float("inf"))
            reasons.append(F.when(infinite, text_table.not_finite(name)))
    return F.coalesce(*reasons)


def _value(header: text_table.Header, wanted: Wanted) -> Column:
    """Return the typed field, null if it is empty or unreadable; never an error, not even in ANSI mode."""
    name, kind = wanted
    text = f"nullif({_text(header, name)}, '')"
    value = F.expr(f"try_cast({text} AS {_SQL_TYPES[kind]})" if kind != "string" else text)
    if kind == "number":
        value = F.when(F.expr(text).rlike(rf"^(?:{text_table.NUMBER})\z"), value)
    return value.alias(_name(header, wanted))


def _text(header: text_table.Header, column: str) -> str:
    return f"get({_FIELDS}, {header.place(column)})"


def _name(header: text_table.Header, wanted: Wanted) -> str:
    name, kind = wanted
    return f"{kind}_{header.place(name)}"
