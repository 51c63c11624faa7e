"""How the log loss falls tree by tree, on some of the rows that a model was fitted on and some that stopped the fit.

SynapseML keeps none of what LightGBM measures on its way, so the leaves of each row are asked for once, and summed
here. Takes a sample: the curve is to be looked at. Judges nothing.
"""

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from synapse.ml.lightgbm import LightGBMClassificationModel

from workloads.evaluation import metrics
from workloads.training import fit, spark_ml_io

ROWS = 2_000
"""Of each kind."""


def by_tree(
    model: LightGBMClassificationModel, laid_out: DataFrame, rows_train: int, rows_validation: int
) -> dict[str, list[float]]:
    """`train/log_loss_by_tree` and `validation/log_loss_by_tree`."""
    values = [
        np.array(line.partition("=")[2].split(), float)
        for line in model.getNativeModel().splitlines()
        if line.startswith("leaf_value=")
    ]
    some = fit.drawn(ROWS / max(1, rows_train)) | (F.col("validation") & fit.drawn(ROWS / max(1, rows_validation)))
    found = (
        model.copy()
        .setLeafPredictionCol("leaves")
        .setProbabilityCol("")
        .transform(laid_out.filter(some))
        .groupBy("validation", F.spark_partition_id())
        # A few long arrays reach Python far quicker than many small rows.
        .agg(
            F.collect_list("label").alias("labels"),
            F.flatten(F.collect_list(spark_ml_io.vector_to_array("leaves"))).alias("leaves"),
        )
        .collect()
    )
    curves = {}
    for name, validation in (("train", False), ("validation", True)):
        parts = [part for part in found if part.validation is validation]
        if not parts:
            continue
        labels = np.concatenate([np.asarray(part.labels, float) for part in parts])
        leaves = np.concatenate([np.asarray(part.leaves, int) for part in parts]).reshape(len(labels), len(values))
        scores = np.cumsum([of[leaves[:, tree]] for tree, of in enumerate(values)], axis=0)
        curves[f"{name}/log_loss_by_tree"] = [metrics.log_loss(labels, 1 / (1 + np.exp(-score))) for score in scores]
    return curves
