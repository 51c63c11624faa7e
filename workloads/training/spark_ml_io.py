"""Spark ML stages written to and read from their saved layout without Spark, which runs a few jobs for each of many.

`PipelineModel.load` reads what is written here, too. `Word2VecModel` can publicly be fitted and loaded only: the one
that is read here is made with constructors that Spark keeps to its own packages.

A layout is a `metadata` text file of one JSON line, and for a lookup a parquet table (word, vector) in `data`. Written
in order and never appended to, as a volume demands.
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
    stage: Path, uid: str, between: tuple[str, str], words: Sequence[str], vectors: np.ndarray, spark: SparkSession
) -> None:
    """A `Word2VecModel` from one column to another, with float32 `vectors` (words, width)."""
    source, target = between
    count, width = vectors.shape
    parameters = {"inputCol": source, "outputCol": target, "vectorSize": width}
    write_metadata(stage, LOOKUP, uid, parameters, spark)
    lists = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * np.int32(width), vectors.ravel())
    written = pa.BufferOutputStream()  # a writer may go back in its file
    pq.write_table(pa.table({"word": pa.array(words, pa.string()), "vector": lists}), written)
    (stage / "data").mkdir()
    (stage / "data" / "part-00000.parquet").write_bytes(written.getvalue())


def load(stage: Path, spark: SparkSession) -> Any:
    """The JVM's object, as its class would load it; for a lookup without the three jobs that this takes there."""
    document = read_metadata(stage)
    if document["class"] == LOOKUP:
        return _lookup(document, pq.read_table(stage / "data"), spark)
    return reduce(getattr, document["class"].split("."), spark._jvm).load(str(stage))


def _lookup(document: Mapping[str, Any], table: pa.Table, spark: SparkSession) -> Any:
    """Its words go to the JVM as JSON and its vectors as bytes, each in one call."""
    jvm: Any = spark._jvm
    places = {word: place for place, word in enumerate(table["word"].to_pylist())}
    vectors = table["vector"].combine_chunks().flatten().to_numpy().astype(">f4")
    words = jvm.com.fasterxml.jackson.databind.ObjectMapper().readValue(
        json.dumps(places), jvm.java.util.HashMap().getClass()
    )
    values = spark.sparkContext._gateway.new_array(jvm.float, len(vectors))
    jvm.java.nio.ByteBuffer.wrap(vectors.tobytes()).asFloatBuffer().get(values)
    inner = jvm.org.apache.spark.mllib.feature.Word2VecModel(jvm.PythonUtils.toScalaMap(words), values)
    model = jvm.org.apache.spark.ml.feature.Word2VecModel(document["uid"], inner)
    for name, value in document["paramMap"].items():
        model.set(model.getParam(name), value)
    return model


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
