"""Write and read Spark ML stages in their saved layout without Spark jobs; Spark itself runs several for each stage.

`PipelineModel.load` can read the result. `Word2VecModel` has no public constructor: `_lookup` uses constructors that
are private to Spark's packages.

The layout is a `metadata` text file of one JSON line and, for a lookup, a parquet table (word, vector) in `data`. Files
are written from start to end, because a Databricks volume allows neither seeking nor appending.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

LOOKUP = "org.apache.spark.ml.feature.Word2VecModel"


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
    stage: Path, uid: str, columns: tuple[str, str], words: Sequence[str], vectors: np.ndarray, spark: SparkSession
) -> None:
    """Write a `Word2VecModel`.

    columns: input and output column. vectors: (words, width) float32.
    """
    source, target = columns
    count, width = vectors.shape
    parameters = {"inputCol": source, "outputCol": target, "vectorSize": width}
    write_metadata(stage, LOOKUP, uid, parameters, spark)
    lists = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * np.int32(width), vectors.ravel())
    buffer = pa.BufferOutputStream()  # the parquet writer may seek back in its file
    pq.write_table(pa.table({"word": pa.array(words, pa.string()), "vector": lists}), buffer)
    (stage / "data").mkdir()
    (stage / "data" / "part-00000.parquet").write_bytes(buffer.getvalue())


def load(stage: Path, spark: SparkSession) -> Any:
    """Return the JVM's object of a stage; lookups are built here, because Spark would run three jobs for each."""
    document = read_metadata(stage)
    if document["class"] == LOOKUP:
        return _lookup(document, pq.read_table(stage / "data"), spark)
    return reduce(getattr, document["class"].split("."), spark._jvm).load(str(stage))


def _lookup(document: Mapping[str, Any], table: pa.Table, spark: SparkSession) -> Any:
    """Build a `Word2VecModel`. Words go to the JVM as JSON and vectors as bytes, each in one call."""
    jvm: Any = spark._jvm
    indices = {word: index for index, word in enumerate(table["word"].to_pylist())}
    vectors = table["vector"].combine_chunks().flatten().to_numpy().astype(">f4")
    words = jvm.com.fasterxml.jackson.databind.ObjectMapper().readValue(
        json.dumps(indices), jvm.java.util.HashMap().getClass()
    )
    values = spark.sparkContext._gateway.new_array(jvm.float, len(vectors))
    jvm.java.nio.ByteBuffer.wrap(vectors.tobytes()).asFloatBuffer().get(values)
    inner = jvm.org.apache.spark.mllib.feature.Word2VecModel(jvm.PythonUtils.toScalaMap(words), values)
    model = jvm.org.apache.spark.ml.feature.Word2VecModel(document["uid"], inner)
    for name, value in document["paramMap"].items():
        model.set(model.getParam(name), value)
    return model


def write_pipeline(pipeline: Path, uids: Sequence[str], spark: SparkSession) -> None:
    """Write the metadata of a `PipelineModel`, whose stages are written to the folders of `pipeline_stage`."""
    write_metadata(
        pipeline, "org.apache.spark.ml.PipelineModel", "PipelineModel_clicks", {"stageUids": list(uids)}, spark
    )


def pipeline_stage(pipeline: Path, uids: Sequence[str], uid: str) -> Path:
    """Return the folder in which Spark looks for a stage: its index is padded to the digits of the stage count."""
    index = list(uids).index(uid)
    return pipeline / "stages" / f"{index:0{len(str(len(uids)))}d}_{uid}"


def vector_to_array(column: str) -> Column:
    """Return a vector column as an array. The same function in `pyspark.ml.functions` requires pandas."""
    functions = SparkSession.active()._jvm.org.apache.spark.ml.functions
    return Column(functions.vector_to_array(F.col(column)._jc, "float64"))


def array_to_vector(column: Column) -> Column:
    functions = SparkSession.active()._jvm.org.apache.spark.ml.functions
    return Column(functions.array_to_vector(column._jc))
