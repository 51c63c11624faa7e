"""A fit that goes on from an earlier model: the earlier trees are kept, and further ones learn what they miss.

Does not use SynapseML's `modelString`: it prepends the earlier trees, but lets the further ones learn from zero, as if
there were none, so that together they say everything twice.
"""

from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from synapse.ml.lightgbm import LightGBMClassificationModel

from workloads.errors import WorkloadError
from workloads.live_model import Live
from workloads.spec import Spec
from workloads.training import spark_ml_io

SCORE = "earlier_score"


@dataclass(frozen=True)
class Start:
    dataset: Spec
    """With the number of trees that are to be fitted."""
    model: str = ""
    """The text of the model to go on from; empty: none."""
    lineage: dict[str, Any] | None = None


def start(live: Live | None, dataset: Spec) -> Start:
    """From what serves now if the spec asks for it and that can be; otherwise anew, and `lineage` says why."""
    further = dataset.model.warm_start
    if not further or live is None:
        return Start(dataset)
    trees = _trees(live.model)
    reason = live.skipped or _differs(live.model, dataset)
    if not reason and trees + further > dataset.model.num_iterations:
        reason = f"{trees} trees and {further} further ones are more than num_iterations {dataset.model.num_iterations}"
    if reason:
        return Start(dataset, lineage={"run_id": live.run_id, "trees": 0, "anew": reason})
    fewer = dataset.with_model(num_iterations=further, warm_start=0)
    return Start(fewer, live.model, {"run_id": live.run_id, "trees": trees})


def _differs(earlier: str, dataset: Spec) -> str:
    """Why its trees cannot come first; columns may mean something else by a day, but must be the same ones."""
    lines = dict(line.split("=", 1) for line in earlier.partition("\n\n")[0].splitlines() if "=" in line)
    known, names = lines.get("feature_names", "").split(), dataset.slot_names
    if known != names:
        at = next((i for i, pair in enumerate(zip(known, names, strict=False)) if pair[0] != pair[1]), None)
        which = f"{len(known)} columns, not {len(names)}" if at is None else f"{known[at]!r} where {names[at]!r} is"
        return f"it has {which}"
    if not lines.get("objective", "").startswith("binary"):
        return f"its objective is {lines.get('objective')!r}, not binary"
    return ""


def scored(rows: DataFrame, earlier: str, dataset: Spec) -> DataFrame:
    """`rows` with the earlier model's score (log odds) as column `SCORE`, from which a fit begins.

    `earlier` is the text of a model of the same columns, in the same order.
    """
    if reason := _differs(earlier, dataset):
        raise WorkloadError(
            f"cannot go on from the earlier model: {reason}. Train without it once, "
            "and later runs can go on from that model."
        )
    model = LightGBMClassificationModel.loadNativeModelFromString(earlier)
    model.setNumIterations(-1).setRawPredictionCol("raw").setProbabilityCol("").setPredictionCol("")
    return model.transform(rows).withColumn(SCORE, spark_ml_io.vector_to_array("raw")[1]).drop("raw")


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
