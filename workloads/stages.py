"""Spark ML stages written straight in their saved layout, for what Spark has no public way to build.

`Word2VecModel` can be fitted and loaded, not made from given vectors; and saving a pipeline of many costs Spark a
few jobs a stage. A layout is a `metadata` text file of one JSON line, and for a lookup a parquet table (word, vector)
in `data`. Written in order and never appended to, as a volume demands.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F


def write_metadata(stage: Path, kind: str, uid: str, parameters: Mapping[str, Any], spark: SparkSession) -> None:
    folder = stage / "metadata"
    folder.mkdir(parents=True)
    document = {
        "class": kind,
        "timestamp": int(time.time() * 1000),
        "sparkVersion": spark.version,
        "uid": uid,
        "paramMap": dict(parameters),
        "defaultParamMap": {},
    }
    (folder / "part-00000").write_text(json.dumps(document) + "\n", "utf-8")
    (folder / "_SUCCESS").touch()


def read_metadata(stage: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(next((stage / "metadata").glob("part-*")).read_text("utf-8"))
    return document


def write_lookup(
    stage: Path, uid: str, between: tuple[str, str], words: Sequence[str], vectors: np.ndarray, spark: SparkSession
) -> None:
    """A `Word2VecModel` from one column to another, with float32 `vectors` (words, width)."""
    source, target = between
    count, width = vectors.shape
    parameters = {"inputCol": source, "outputCol": target, "vectorSize": width}
    write_metadata(stage, "org.apache.spark.ml.feature.Word2VecModel", uid, parameters, spark)
    lists = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * np.int32(width), vectors.ravel())
    written = pa.BufferOutputStream()  # a writer may go back in its file
    pq.write_table(pa.table({"word": pa.array(words, pa.string()), "vector": lists}), written)
    (stage / "data").mkdir()
    (stage / "data" / "part-00000.parquet").write_bytes(written.getvalue())


def write_pipeline(pipeline: Path, uids: Sequence[str], spark: SparkSession) -> None:
    """The frame of a `PipelineModel` whose stages lie in `pipeline_stage(...)`."""
    write_metadata(
        pipeline, "org.apache.spark.ml.PipelineModel", "PipelineModel_clicks", {"stageUids": list(uids)}, spark
    )


def pipeline_stage(pipeline: Path, uids: Sequence[str], uid: str) -> Path:
    """Where Spark looks for it: the place is padded to the width of the number of stages."""
    place = list(uids).index(uid)
    return pipeline / "stages" / f"{place:0{len(str(len(uids)))}d}_{uid}"


def vector_to_array(column: str) -> Column:
    """`pyspark.ml.functions` has it too, but wants pandas for its other functions."""
    functions = SparkSession.active()._jvm.org.apache.spark.ml.functions
    return Column(functions.vector_to_array(F.col(column)._jc, "float64"))


def array_to_vector(column: Column) -> Column:
    functions = SparkSession.active()._jvm.org.apache.spark.ml.functions
    return Column(functions.array_to_vector(column._jc))
