"""Raw files as typed Spark tables in which every line that was not understood is marked with the reason, not dropped.

The rules of the format are `text_table.py`'s. Does not decide what becomes of a marked line, and knows nothing of joins
or labels: `prepare.py` does.
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
"""Why a line was not understood, null for all others."""
_LINE, _FIELDS, _PLACE = "__line", "__fields", "__place"
"""The bytes of a line, its fields, and where in the file it stands: its partition and the lines before it there."""
_ROWS_OF_A_PARTITION = 33
"""Bits of `monotonically_increasing_id` below the number of the partition."""
_WIDTH = 2_000  # characters of a rejected line that are kept
_SQL_TYPES = {"integer": "BIGINT", "number": "DOUBLE"}
_UNREADABLE = {"integer": text_table.NO_INTEGER, "number": text_table.NO_NUMBER}


@dataclass(frozen=True)
class Lines:
    """A file as a table: each wanted column (`column`) and `MALFORMED`."""

    file: Path
    frame: DataFrame
    header: text_table.Header
    unused: tuple[str, ...]
    """Columns that nothing asked for."""

    def column(self, name: str, kind: str) -> Column:
        """Return a wanted column. Its name here is its place in the file: a file may give its columns any name."""
        return F.col(_name(self.header, (name, kind)))

    def mark(self, fault: Column, reason: Column | str) -> "Lines":
        why = F.when(fault, F.lit(reason))
        return replace(self, frame=self.frame.withColumn(MALFORMED, F.coalesce(F.col(MALFORMED), why)))

    def values(self) -> DataFrame:
        """Return the table without the text of the lines, which only `rejected` shows."""
        return self.frame.drop(_LINE, _PLACE)

    def rejected(self, limit: int) -> list[dict[str, Any]]:
        """The first lines that were not understood, each with its number in the file, the reason and, where it is not
        UTF-8, the place of the first such byte in the line. Reads the file again, up to the last of them."""
        # A character has four bytes at most.
        start = F.substring(F.col(_LINE).cast("binary"), 1, 4 * _WIDTH)
        found = (
            self.frame.filter(F.col(MALFORMED).isNotNull())
            .select(F.col(_PLACE).alias("place"), F.col(MALFORMED).alias("reason"), start.alias("start"))
            .limit(limit)
            .collect()
        )
        before = self._lines_before(max((row.place for row in found), default=0) >> _ROWS_OF_A_PARTITION)
        return [self._rejected(row, before) for row in found]

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
        of = F.spark_partition_id()
        raw = _raw(self.frame.sparkSession, self.file)
        counted = {row.of: row["count"] for row in raw.groupBy(of.alias("of")).count().collect()}
        return {partition: sum(counted.get(p, 0) for p in range(partition)) for partition in range(last + 1)}


def literal(path: Path) -> str:
    """Escape a path for Spark, which would take some for patterns."""
    return raw_file.PATTERN.sub(r"\\\g<0>", str(path.absolute()))


def read(spark: SparkSession, file: Path, table: Table, wanted: Iterable[Wanted], required: Iterable[Wanted]) -> Lines:
    """Every line that is not blank, marked where `text_table` calls it malformed.

    `wanted` are the columns to read. A file without one of them, or whose header gives one a type that cannot be read
    so, is refused as a whole.
    """
    header = text_table.header(file, table)
    wanted = header.in_order(file, wanted)
    unused = tuple(name for name in header.columns if name not in dict(wanted))
    # Quicker for a line whose first character is not blank, as in most lines.
    not_blank = (F.col(_LINE) >= "!") | F.col(_LINE).rlike(text_table.NOT_BLANK)
    frame = (
        _raw(spark, file)
        .filter((F.col(_PLACE) >= header.lines) & not_blank)
        .withColumn(_FIELDS, F.split(_LINE, "\t", -1))
        .select(_LINE, _PLACE, _FIELDS, *(_value(header, one) for one in wanted))
    )
    frame = frame.withColumn(MALFORMED, _reason(header, wanted, list(required))).drop(_FIELDS)
    return Lines(file, frame, header, unused)


def _raw(spark: SparkSession, file: Path) -> DataFrame:
    """Spark does not decode a line of text that it reads."""
    place = F.monotonically_increasing_id().alias(_PLACE)
    return spark.read.text(literal(file)).select(F.col("value").alias(_LINE), place)


def _reason(header: text_table.Header, wanted: Iterable[Wanted], required: Iterable[Wanted]) -> Column:
    """The first that applies, in the order of `text_table.read`."""
    fields, columns = F.size(_FIELDS), len(header.columns)
    reasons = [
        # Splitting decodes and encodes again, and replaces bytes that are not UTF-8. `decode` would do so, too, but
        # raises an error from Spark 4.0 on (apache/datafusion-comet#4465).
        F.when(F.array_join(_FIELDS, "\t") != F.col(_LINE), text_table.NOT_UTF8),
        F.when(F.col(_LINE).contains("\0"), text_table.NUL),
        F.when(fields != columns, F.concat(fields.cast("string"), F.lit(text_table.wrong_count("", columns)))),
    ]
    for name, kind in wanted:
        if fault := _UNREADABLE.get(kind):
            unread = F.col(_name(header, (name, kind))).isNull() & (F.expr(_text(header, name)) != "")
            reasons.append(F.when(unread, f"{name} {fault}"))
    reasons += [F.when(F.col(_name(header, one)).isNull(), text_table.missing(one[0])) for one in required]
    for name, kind in wanted:
        if kind == "number":
            number = F.col(_name(header, (name, kind)))
            infinite = F.isnan(number) | (F.abs(number) == float("inf"))
            reasons.append(F.when(infinite, text_table.not_finite(name)))
    return F.coalesce(*reasons)


def _value(header: text_table.Header, wanted: Wanted) -> Column:
    """Return the typed field, null where it is empty or unreadable: no error in ANSI mode either."""
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
