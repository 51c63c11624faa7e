"""Leakage check: how well each feature alone separates clicks from other rows; nearly perfectly means label leakage.

Computes the AUC of each single feature on a sample of the validation set, or of the training set if there is none.
Training rows are cross-fitted, so the encoding of a row does not contain its own label. Sets no limit: the model card
warns, the release's gate refuses.
"""

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from workloads.evaluation import metrics
from workloads.features.sampling import in_sample
from workloads.spec import Spec
from workloads.training import spark_ml_io

ROWS = 20_000
_MIN_ROWS = 10
"""Minimum number of clicks and of other rows: fewer may be separated by chance."""


def feature_auc(laid_out: DataFrame, rows_train: int, rows_validation: int, dataset: Spec) -> dict[str, float | None]:
    """Return the AUC by feature, from 0.5 to 1 for either direction; None with too few clicks or other rows.

    laid_out: (label, validation, features). A categorical feature gets the higher AUC of its smoothed click rate and
    its count. A number gets the higher AUC with missing values below and above all others.
    """
    rows = laid_out.filter("validation") if rows_validation else laid_out
    share = ROWS / max(1, rows_validation or rows_train)
    partitions = (
        rows.filter(in_sample(share))
        .groupBy(F.spark_partition_id())
        # A few long arrays reach Python much faster than many small rows.
        .agg(
            F.collect_list("label").alias("labels"),
            F.flatten(F.collect_list(spark_ml_io.vector_to_array("features"))).alias("features"),
        )
        .collect()
    )
    names = [name for name, _ in dataset.model_columns]
    labels = np.concatenate([np.empty(0), *(np.asarray(part.labels, float) for part in partitions)])
    values = np.concatenate([np.empty(0), *(np.asarray(part.features, float) for part in partitions)])
    columns = values.reshape(len(labels), len(names)).T
    clicks = int(labels.sum())
    if min(clicks, len(labels) - clicks) < _MIN_ROWS:
        return dict.fromkeys(dataset.features)
    return {
        feature: max(_separation(labels, columns[index]) for index, name in enumerate(names) if name == feature)
        for feature in dataset.features
    }


def _separation(labels: np.ndarray, values: np.ndarray) -> float:
    missing = np.isnan(values)
    ends = (-np.inf, np.inf) if missing.any() else (0.0,)
    areas = (metrics.auc(labels, np.where(missing, end, values)) for end in ends)
    return max(max(area, 1 - area) for area in areas if area is not None)
