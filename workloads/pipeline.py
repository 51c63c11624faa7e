"""The Spark pipeline that serves: raw features in, `probability` out, JVM-only stages.

normalise → one lookup for each categorical → assemble → LightGBM. Written stage by stage into the layout of a
`PipelineModel`, and only ever used after it was loaded again, as serving will use it.
"""

from pathlib import Path

from pyspark.ml import PipelineModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import ArrayType, DataType, DoubleType, LongType, StringType, StructType
from synapse.ml.lightgbm import LightGBMClassificationModel

from workloads import encode, stages
from workloads.spec import Spec

_COLUMN_TYPES: dict[str, DataType] = {
    "integer": LongType(),
    "number": DoubleType(),
    "string": StringType(),
    "strings": ArrayType(StringType()),
}


def raw_schema(dataset: Spec) -> StructType:
    schema = StructType()
    for name, feature in dataset.features.items():
        schema.add(name, _COLUMN_TYPES[feature.type])
    return schema


def save(folder: Path, dataset: Spec, levels: DataFrame, model: LightGBMClassificationModel) -> PipelineModel:
    """Written to `folder` and loaded again."""
    spark: SparkSession = levels.sparkSession
    normaliser = encode.normaliser(dataset)
    assembler = VectorAssembler(
        inputCols=[
            encode.encoded_column(name) if feature.categorical else encode.number_column(name)
            for name, feature in dataset.features.items()
        ],
        outputCol="features",
        handleInvalid="keep",  # a missing number reaches LightGBM as NaN
    )
    lookups = [encode.lookup_uid(name) for name in dataset.categoricals]
    uids = [normaliser.uid, *lookups, assembler.uid, model.uid]
    places = {uid: stages.pipeline_stage(folder, uids, uid) for uid in uids}
    stages.write_pipeline(folder, uids, spark)
    for stage in (normaliser, assembler, model):
        stage.write().save(str(places[stage.uid]))
    folders = {name: places[encode.lookup_uid(name)] for name in dataset.categoricals}
    encode.write_lookups(levels, dataset, "served", folders)
    return PipelineModel.load(str(folder))
