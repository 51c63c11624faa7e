"""Learning curve: the log loss after each tree, on samples of the training and the validation set, for diagnosis only.

SynapseML does not return the losses that LightGBM computes during a fit. Therefore the leaf of each row in each tree is
predicted once, and the leaf values are summed here.
"""

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from synapse.ml.lightgbm import LightGBMClassificationModel

from workloads.evaluation import metrics
from workloads.features.sampling import in_sample
from workloads.training import spark_ml_io

ROWS = 2_000
"""Size of each of the two samples."""


def by_tree(
    model: LightGBMClassificationModel, laid_out: DataFrame, rows_train: int, rows_validation: int
) -> dict[str, list[float]]:
    """Return the series `train/log_loss_by_tree` and `validation/log_loss_by_tree`, without the latter if it is empty.

    laid_out: (label, validation, features).
    """
    leaf_values = [
        np.array(line.partition("=")[2].split(), float)
        for line in model.getNativeModel().splitlines()
        if line.startswith("leaf_value=")
    ]
    sampled = in_sample(ROWS / max(1, rows_train))
    sampled |= F.col("validation") & in_sample(ROWS / max(1, rows_validation))
    partitions = (
        model.copy()
        .setLeafPredictionCol("leaves")
        .setProbabilityCol("")
        .transform(laid_out.filter(sampled))
        .groupBy("validation", F.spark_partition_id())
        # A few long arrays reach Python much faster than many small rows.
        .agg(
            F.collect_list("label").alias("labels"),
            F.flatten(F.collect_list(spark_ml_io.vector_to_array("leaves"))).alias("leaves"),
        )
        .collect()
    )
    curves = {}
    for name, validation in (("train", False), ("validation", True)):
        parts = [part for part in partitions if part.validation is validation]
        if not parts:
            continue
        labels = np.concatenate([np.asarray(part.labels, float) for part in parts])
        leaves = np.concatenate([np.asarray(part.leaves, int) for part in parts]).reshape(len(labels), len(leaf_values))
        scores = np.cumsum([values[leaves[:, tree]] for tree, values in enumerate(leaf_values)], axis=0)
        curves[f"{name}/log_loss_by_tree"] = [metrics.log_loss(labels, 1 / (1 + np.exp(-score))) for score in scores]
    return curves
