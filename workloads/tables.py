"""Raw files as typed Spark tables in which every line that was not understood is marked with the reason, not dropped.

Does not decide what becomes of a marked line, and knows nothing of joins or labels: `prepare.py` does.
"""

import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DoubleType, LongType, StringType, StructField, StructType

from workloads.errors import WorkloadError
from workloads.spec import Table

MALFORMED = "__malformed"
"""Why a line was not understood, null for all others."""
_UNREAD = "__unread"
"""The text of a line that Spark could not take apart, null for all others."""
_TYPES: Mapping[str, DataType] = {"integer": LongType(), "number": DoubleType()}
# What each type that a header may give to a column can be read as.
_READABLE = {
    "token": ("integer", "number", "string"),
    "float": ("integer", "number"),
    "token_seq": ("string",),
    "float_seq": ("string",),
}
_WIDTH = 2_000  # characters of a rejected line that are kept


@dataclass(frozen=True)
class Lines:
    """A file as a table: every column it has and `MALFORMED`."""

    file: Path
    frame: DataFrame
    unused: tuple[str, ...]
    """Columns that nothing asked for."""

    def mark(self, fault: Column, reason: Column | str) -> "Lines":
        why = F.when(fault, F.lit(reason))
        return replace(self, frame=self.frame.withColumn(MALFORMED, F.coalesce(F.col(MALFORMED), why)))

    def rejected(self, limit: int) -> list[dict[str, str]]:
        """The first lines that were not understood, each with the reason. Reads the file again, up to the last of them.

        The text of a line that Spark could take apart is put together again, its numbers as they were read.
        """
        columns = [c for c in self.frame.schema if c.name not in (MALFORMED, _UNREAD)]
        fields = F.split(_UNREAD, "\t", -1)
        unreadable = [
            F.when(_column(c).isNull() & (fields[place] != ""), f"{c.name} is not {_article(c)}")
            for place, c in enumerate(columns)
            if c.dataType != StringType()
        ]
        wrong_count = F.concat(F.size(fields), F.lit(f" columns, not {len(columns)}"))
        unread = F.when(F.size(fields) != len(columns), wrong_count).otherwise(
            F.coalesce(*unreadable, F.lit("unreadable"))
        )
        line = F.coalesce(_UNREAD, F.concat_ws("\t", *(F.coalesce(_text(c), F.lit("")) for c in columns)))
        found = self.frame.filter(F.col(MALFORMED).isNotNull()).select(
            F.when(F.col(_UNREAD).isNull(), F.col(MALFORMED)).otherwise(unread).alias("reason"),
            F.substring(line, 1, _WIDTH).alias("line"),
        )
        return [{"file": self.file.name, **row.asDict()} for row in found.limit(limit).collect()]


def locate(snapshot: Path, table: Table, what: str) -> Path:
    if not snapshot.is_dir():
        raise WorkloadError(f"{what}: no folder {snapshot}")
    for pattern in table.files:
        matches = sorted(path for path in snapshot.glob(pattern) if path.is_file())
        if len(matches) > 1:
            listed = ", ".join(path.name for path in matches)
            raise WorkloadError(f"{what}: {snapshot} holds {listed}: leave one file that matches {pattern}")
        if matches:
            return matches[0]
    raise WorkloadError(f"{what}: no file {' or '.join(str(snapshot / name) for name in table.files)}")


def read(spark: SparkSession, file: Path, table: Table, types: Mapping[str, str], required: Iterable[str]) -> Lines:
    """Marked are a wrong number of columns, an unreadable number and a required value that is absent.

    `types` names the columns wanted, as integer, number or string. A file without one of them, or whose header gives
    one a type that cannot be read so, is refused as a whole.
    """
    header = list(table.columns) or _header(file)
    columns = [name.split(":")[0] for name in header]
    _check_columns(file, header, columns, types)
    schema = StructType()
    for written, name in zip(header, columns, strict=True):
        schema.add(written, _TYPES.get(types.get(name, "string"), StringType()))
    frame = spark.read.csv(
        str(file),
        schema=schema.add(_UNREAD, StringType()),
        sep="\t",
        header=not table.columns,
        mode="PERMISSIVE",
        columnNameOfCorruptRecord=_UNREAD,
        quote="",
        escape="",
    ).toDF(*columns, _UNREAD)
    # The reason is told apart only for the lines that are shown: here it would cost every line.
    frame = frame.withColumn(MALFORMED, F.when(F.col(_UNREAD).isNotNull(), "unreadable"))
    lines = Lines(file, frame, tuple(name for name in columns if name not in types))
    for name in required:
        lines = lines.mark(F.col(name).isNull(), f"{name} is missing")
    for name in (name for name, kind in types.items() if kind == "number"):
        lines = lines.mark(F.isnan(name) | (F.abs(F.col(name)) == float("inf")), f"{name} is not a finite number")
    return lines


def _check_columns(file: Path, header: list[str], columns: list[str], types: Mapping[str, str]) -> None:
    lower = [name.lower() for name in columns]
    if repeated := [name for name in columns if lower.count(name.lower()) > 1]:
        raise WorkloadError(f"{file}: column {repeated[0]!r} is there twice; names must differ in more than case")
    for name, wanted in types.items():
        if name not in columns:
            raise WorkloadError(
                f"{file}: no column {name!r}; there are: {', '.join(columns)}. "
                "Land a file that has it, or name another column in the spec"
            )
        given = header[columns.index(name)].partition(":")[2]
        if wanted not in _READABLE.get(given, (wanted,)):
            able = " or ".join(kind for kind, readable in _READABLE.items() if wanted in readable)
            raise WorkloadError(
                f"{file}: column {name!r} is of type {given} by the header, and the spec reads it as {wanted}. "
                f"Land it as {able}, or change its type in the spec"
            )


def _column(column: StructField) -> Column:
    """Quoted, since a file may name its columns as it likes."""
    return F.col("`" + column.name.replace("`", "``") + "`")


def _text(column: StructField) -> Column:
    value = _column(column)
    # A double prints 1767600000 as 1.7676E9.
    whole = F.when(value == F.floor(value), F.floor(value)) if column.dataType == DoubleType() else F.lit(None)
    return F.coalesce(whole.cast("string"), value.cast("string"))


def _article(column: StructField) -> str:
    return "an integer" if column.dataType == LongType() else "a number"


def _header(file: Path) -> list[str]:
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
        header = lines.readline().rstrip("\r\n")
    if not header:
        raise WorkloadError(f"{file}: is empty, a header line was expected")
    return header.split("\t")
