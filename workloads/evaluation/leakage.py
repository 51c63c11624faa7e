"""How well each feature alone separates clicks from other rows. One that does so nearly perfectly holds the label.

The area under the ROC curve of one feature, on rows that the model was not fitted on where there are any. Training
rows are cross-fitted, so the encoding of a row does not hold its own label. Takes a sample and sets no limit: the
model card warns, the release's gate refuses.
"""

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from workloads.evaluation import metrics
from workloads.spec import Spec
from workloads.training import fit, spark_ml_io

ROWS = 20_000
_FEWEST = 10
"""Clicks, and other rows: with fewer, chance alone separates them."""


def feature_auc(laid_out: DataFrame, rows_train: int, rows_validation: int, dataset: Spec) -> dict[str, float | None]:
    """AUC by feature, from 0.5 to 1, whichever way it points; None where there are too few rows of a kind.

    `laid_out` holds (label, validation, features). Of a categorical, the smoothed click rate and the count of its
    level are tried; of a number, its value, with a missing one below and above all others.
    """
    rows = laid_out.filter("validation") if rows_validation else laid_out
    share = ROWS / max(1, rows_validation or rows_train)
    parts = (
        rows.filter(fit.drawn(share))
        .groupBy(F.spark_partition_id())
        # A few long arrays reach Python far quicker than many small rows.
        .agg(
            F.collect_list("label").alias("labels"),
            F.flatten(F.collect_list(spark_ml_io.vector_to_array("features"))).alias("features"),
        )
        .collect()
    )
    names = [name for name, _ in dataset.model_columns]
    labels = np.concatenate([np.empty(0), *(np.asarray(part.labels, float) for part in parts)])
    values = np.concatenate([np.empty(0), *(np.asarray(part.features, float) for part in parts)])
    columns = values.reshape(len(labels), len(names)).T
    clicks = int(labels.sum())
    if min(clicks, len(labels) - clicks) < _FEWEST:
        return dict.fromkeys(dataset.features)
    return {
        feature: max(_separation(labels, columns[place]) for place, name in enumerate(names) if name == feature)
        for feature in dataset.features
    }


def _separation(labels: np.ndarray, values: np.ndarray) -> float:
    missing = np.isnan(values)
    ends = (-np.inf, np.inf) if missing.any() else (0.0,)
    areas = (metrics.auc(labels, np.where(missing, end, values)) for end in ends)
    return max(max(area, 1 - area) for area in areas if area is not None)
