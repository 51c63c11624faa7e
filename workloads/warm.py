"""A fit that goes on from an earlier model: the earlier trees are kept, and further ones learn what they miss.

Does not use SynapseML's `modelString`: it prepends the earlier trees, but lets the further ones learn from zero, as if
there were none, so that together they say everything twice.
"""

from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from synapse.ml.lightgbm import LightGBMClassificationModel

from workloads import stages
from workloads.errors import WorkloadError

SCORE = "earlier_score"


def scored(rows: DataFrame, earlier: str, names: Sequence[str]) -> DataFrame:
    """`rows` with the earlier model's score (log odds) as column `SCORE`, from which a fit begins.

    `earlier` is the text of a model of the same columns, in the same order; what they mean may have moved by a day.
    """
    lines = dict(line.split("=", 1) for line in earlier.partition("\n\n")[0].splitlines() if "=" in line)
    known = lines.get("feature_names", "").split()
    if known != list(names):
        at = next((i for i, pair in enumerate(zip(known, names, strict=False)) if pair[0] != pair[1]), None)
        which = f"{len(known)} columns, not {len(names)}" if at is None else f"{known[at]!r} where {names[at]!r} is"
        raise WorkloadError(
            f"cannot go on from the earlier model: it has {which}. Train without it once, "
            "and later runs can go on from that model."
        )
    if not lines.get("objective", "").startswith("binary"):
        raise WorkloadError(
            f"cannot go on from the earlier model: its objective is {lines.get('objective')!r}, not binary"
        )
    model = LightGBMClassificationModel.loadNativeModelFromString(earlier)
    model.setNumIterations(-1).setRawPredictionCol("raw").setProbabilityCol("").setPredictionCol("")
    return model.transform(rows).withColumn(SCORE, stages.vector_to_array("raw")[1]).drop("raw")


def joined(spark: SparkSession, earlier: str, further: LightGBMClassificationModel) -> LightGBMClassificationModel:
    """The earlier trees and then the further ones, as one model."""
    Booster = spark._jvm.com.microsoft.azure.synapse.ml.lightgbm.booster.LightGBMBooster
    booster = Booster(further.getNativeModel())
    booster.mergeBooster(earlier)
    model = LightGBMClassificationModel.loadNativeModelFromString(booster.saveToString(spark._jvm.scala.Option.empty()))
    trees, wanted = model.getBoosterNumTotalIterations(), further.getBoosterNumTotalIterations() + _trees(earlier)
    if trees != wanted:
        raise WorkloadError(f"the joined model has {trees} trees, not {wanted}: it is not to be trusted")
    return model


def _trees(text: str) -> int:
    return sum(line.startswith("Tree=") for line in text.splitlines())
