"""Warm start: a fit that keeps the trees of an earlier model and adds trees that correct its errors.

Does not use SynapseML's `modelString`: it prepends the earlier trees, but fits the new ones from a score of zero, so
that together the trees count every effect twice.
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
    """The spec, with the number of trees to fit."""
    model: str = ""
    """LightGBM's text of the earlier model; empty for a fit from scratch."""
    lineage: dict[str, Any] | None = None
    """`warm_start` in `lineage.json`; None if the spec does not ask for a warm start or no model is live."""


def start(live: Live | None, dataset: Spec) -> Start:
    """Return the start of a fit: the live model if the spec asks for a warm start and the model allows one.

    Otherwise the fit starts from scratch, and `lineage` holds the reason under `anew`.
    """
    further = dataset.model.warm_start
    if not further or live is None:
        return Start(dataset)
    trees = count_trees(live.model)
    reason = live.skipped or _difference(live.model, dataset)
    if not reason and trees + further > dataset.model.num_iterations:
        reason = f"{trees} trees and {further} further ones are more than num_iterations {dataset.model.num_iterations}"
    if reason:
        return Start(dataset, lineage={"run_id": live.run_id, "trees": 0, "anew": reason})
    fewer = dataset.with_model(num_iterations=further, warm_start=0)
    return Start(fewer, live.model, {"run_id": live.run_id, "trees": trees})


def _difference(earlier: str, dataset: Spec) -> str:
    """Return why the earlier trees cannot be used; empty if they can.

    The columns must be the same. Encodings of a day's older statistics are accepted.
    """
    lines = dict(line.split("=", 1) for line in earlier.partition("\n\n")[0].splitlines() if "=" in line)
    known, names = lines.get("feature_names", "").split(), dataset.slot_names
    if known != names:
        index = next((i for i, pair in enumerate(zip(known, names, strict=False)) if pair[0] != pair[1]), None)
        if index is None:
            return f"it has {len(known)} columns, not {len(names)}"
        return f"it has {known[index]!r} where {names[index]!r} is"
    if not lines.get("objective", "").startswith("binary"):
        return f"its objective is {lines.get('objective')!r}, not binary"
    return ""


def with_initial_score(rows: DataFrame, earlier: str, dataset: Spec) -> DataFrame:
    """Add the earlier model's score (log odds) as column `SCORE`, from which LightGBM starts the fit.

    earlier: LightGBM's text of a model with the same columns in the same order; otherwise raises `WorkloadError`.
    """
    if reason := _difference(earlier, dataset):
        raise WorkloadError(
            f"cannot continue from the earlier model: {reason}. Train without it once; later runs can then continue "
            "from that model."
        )
    model = LightGBMClassificationModel.loadNativeModelFromString(earlier)
    model.setNumIterations(-1).setRawPredictionCol("raw").setProbabilityCol("").setPredictionCol("")
    return model.transform(rows).withColumn(SCORE, spark_ml_io.vector_to_array("raw")[1]).drop("raw")


def join_models(spark: SparkSession, earlier: str, further: LightGBMClassificationModel) -> LightGBMClassificationModel:
    """Return one model with the earlier trees first and the further ones after them."""
    Booster = spark._jvm.com.microsoft.azure.synapse.ml.lightgbm.booster.LightGBMBooster
    booster = Booster(further.getNativeModel())
    booster.mergeBooster(earlier)
    model = LightGBMClassificationModel.loadNativeModelFromString(booster.saveToString(spark._jvm.scala.Option.empty()))
    trees, wanted = model.getBoosterNumTotalIterations(), further.getBoosterNumTotalIterations() + count_trees(earlier)
    if trees != wanted:
        raise WorkloadError(f"the joined model has {trees} trees, not {wanted}, and must not be used")
    return model


def count_trees(text: str) -> int:
    """Return the number of trees in LightGBM's text of a model; 0 for an empty text."""
    return sum(line.startswith("Tree=") for line in text.splitlines())
