"""The Spark pipeline that serves: raw features in, `probability` out, JVM-only stages.

normalise → one lookup for each categorical and each cross → assemble → LightGBM. Written stage by stage into the
layout of a `PipelineModel`, and only ever used after it was loaded again, as serving will use it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import ArrayType, DataType, DoubleType, LongType, StringType, StructType
from synapse.ml.lightgbm import LightGBMClassificationModel

from workloads.features import encode
from workloads.features.categories import levels_column, number_column
from workloads.features.categories import normaliser as normalise
from workloads.features.encode import Levels
from workloads.spec import Spec
from workloads.training import spark_ml_io

_COLUMN_TYPES: dict[str, DataType] = {
    "integer": LongType(),
    "number": DoubleType(),
    "string": StringType(),
    "strings": ArrayType(StringType()),
}


@dataclass(frozen=True)
class Pipeline:
    """As `PipelineModel`, which keeps an object of Python beside each stage and has it tell the JVM all its parameters
    whenever it is used: hundreds of calls for a few dozen stages."""

    stages: Mapping[str, Any]
    """Of the JVM, in their order, by uid."""

    def transform(self, rows: DataFrame) -> DataFrame:
        frame = rows._jdf
        for stage in self.stages.values():
            frame = stage.transform(frame)
        return DataFrame(frame, rows.sparkSession)


def raw_schema(dataset: Spec) -> StructType:
    schema = StructType()
    for name, feature in dataset.features.items():
        schema.add(name, _COLUMN_TYPES[feature.type])
    return schema


def save(
    folder: Path, dataset: Spec, levels: Mapping[str, Levels], model: LightGBMClassificationModel, spark: SparkSession
) -> Pipeline:
    """Written to `folder` and loaded again."""
    normaliser = normalise(dataset)
    assembler = VectorAssembler(
        inputCols=[
            *(
                encode.encoded_column(name) if feature.categorical else number_column(name)
                for name, feature in dataset.features.items()
            ),
            *(encode.encoded_column(name) for name, of in dataset.encodings.items() if len(of) > 1),
        ],
        outputCol="features",
        handleInvalid="keep",  # a missing number reaches LightGBM as NaN
    )
    lookups = [encode.lookup_uid(name) for name in dataset.encodings]
    uids = [normaliser.uid, *lookups, assembler.uid, model.uid]
    places = {uid: spark_ml_io.pipeline_stage(folder, uids, uid) for uid in uids}
    spark_ml_io.write_pipeline(folder, uids, spark)
    for stage in (normaliser, assembler, model):
        stage.write().save(str(places[stage.uid]))
    for name, of in levels.items():
        uid, between = encode.lookup_uid(name), (levels_column(name), encode.encoded_column(name))
        spark_ml_io.write_lookup(places[uid], uid, between, of.words, of.values, spark)
    return load(folder)


def load(folder: Path) -> Pipeline:
    """As `PipelineModel.load`, which runs three small jobs for each of a few dozen lookups."""
    spark = SparkSession.active()
    uids = spark_ml_io.read_metadata(folder)["paramMap"]["stageUids"]
    return Pipeline({uid: spark_ml_io.load(spark_ml_io.pipeline_stage(folder, uids, uid), spark) for uid in uids})
