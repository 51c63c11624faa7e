"""Raw files as typed Spark tables in which every line that was not understood is marked, not dropped.

Does not decide what becomes of a marked line, and knows nothing of joins or labels: `prepare.py` does.
"""

import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DoubleType, LongType, StringType, StructType

from workloads.errors import WorkloadError
from workloads.spec import Table

MALFORMED = "__malformed"
"""The text of a line that was not understood, null for all others."""
_TYPES: Mapping[str, DataType] = {"integer": LongType(), "number": DoubleType()}


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


def read(spark: SparkSession, file: Path, table: Table, types: Mapping[str, str], required: Iterable[str]) -> DataFrame:
    """The columns of the file and `MALFORMED`: wrong number of columns, an unreadable number, a required value absent.

    `types` names the columns wanted, as integer, number or string.
    """
    header = list(table.columns) or _header(file)
    columns = [name.split(":")[0] for name in header]
    if absent := [name for name in types if name not in columns]:
        raise WorkloadError(f"{file}: no column {absent[0]!r}; there are: {', '.join(columns)}")
    schema = StructType()
    for written, name in zip(header, columns, strict=True):
        schema.add(written, _TYPES.get(types.get(name, "string"), StringType()))
    frame = spark.read.csv(
        str(file),
        schema=schema.add(MALFORMED, StringType()),
        sep="\t",
        header=not table.columns,
        mode="PERMISSIVE",
        columnNameOfCorruptRecord=MALFORMED,
        quote="",
        escape="",
    ).toDF(*columns, MALFORMED)
    for name in required:
        frame = mark(frame, F.col(name).isNull())
    for name in (name for name, kind in types.items() if kind == "number"):
        frame = mark(frame, F.isnan(name) | (F.abs(F.col(name)) == float("inf")))
    return frame


def mark(frame: DataFrame, fault: Column) -> DataFrame:
    line = F.concat_ws("\t", *(F.coalesce(F.col(c).cast("string"), F.lit("")) for c in frame.columns if c != MALFORMED))
    return frame.withColumn(MALFORMED, F.coalesce(F.col(MALFORMED), F.when(fault, line)))


def first_malformed(frame: DataFrame, limit: int = 3, width: int = 120) -> list[str]:
    """Reads the file again, up to these lines."""
    return [row[MALFORMED][:width] for row in frame.filter(F.col(MALFORMED).isNotNull()).limit(limit).collect()]


def _header(file: Path) -> list[str]:
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
        header = lines.readline().rstrip("\r\n")
    if not header:
        raise WorkloadError(f"{file}: is empty, a header line was expected")
    return header.split("\t")
