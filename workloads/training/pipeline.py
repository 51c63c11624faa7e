"""The serving pipeline in Spark: raw features in, `probability` out, JVM-only stages.

Its stages are the level transformer, one lookup per categorical and per cross, the vector assembler and LightGBM. They
are written one by one into the layout of a `PipelineModel`. Training evaluates the pipeline only after loading it
again, as serving does. Does not fit anything: `fit.py` does.
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
from workloads.features.categories import level_transformer, levels_column, number_column
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
    """A lightweight `PipelineModel`.

    PySpark's class keeps a Python object per stage, which sends all its parameters to the JVM at every use: hundreds
    of calls for a few dozen stages.
    """

    stages: Mapping[str, Any]
    """The JVM's stages by uid, in order."""

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
    """Write the pipeline to `folder`, and return it loaded again."""
    transformer = level_transformer(dataset)
    assembler = VectorAssembler(
        inputCols=[
            *(
                encode.encoded_column(name) if feature.categorical else number_column(name)
                for name, feature in dataset.features.items()
            ),
            *(encode.encoded_column(name) for name, features in dataset.encodings.items() if len(features) > 1),
        ],
        outputCol="features",
        handleInvalid="keep",  # a missing number reaches LightGBM as NaN
    )
    lookups = [encode.lookup_uid(name) for name in dataset.encodings]
    uids = [transformer.uid, *lookups, assembler.uid, model.uid]
    folders = {uid: spark_ml_io.pipeline_stage(folder, uids, uid) for uid in uids}
    spark_ml_io.write_pipeline(folder, uids, spark)
    for stage in (transformer, assembler, model):
        stage.write().save(str(folders[stage.uid]))
    for name, table in levels.items():
        uid, columns = encode.lookup_uid(name), (levels_column(name), encode.encoded_column(name))
        spark_ml_io.write_lookup(folders[uid], uid, columns, table.levels, table.values, spark)
    return load(folder)


def load(folder: Path) -> Pipeline:
    """Load the pipeline without Spark jobs: `PipelineModel.load` runs three for each of a few dozen lookups."""
    spark = SparkSession.active()
    uids = spark_ml_io.read_metadata(folder)["paramMap"]["stageUids"]
    return Pipeline({uid: spark_ml_io.load(spark_ml_io.pipeline_stage(folder, uids, uid), spark) for uid in uids})
