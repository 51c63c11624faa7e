"""Masking: hour and weekday are removed from one learning row in twenty.

A scoring request may omit them. LightGBM treats a missing number as 0 if it saw none in training, so a request without
an hour would be scored as midnight; and training computes both for every row. Test rows are not masked.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from workloads.features import sampling
from workloads.spec import Spec

_ONE_IN = 20


def mask_time_features(learning: DataFrame, dataset: Spec) -> DataFrame:
    """Return training and validation rows with all time features set to null in one row of `_ONE_IN`."""
    if not dataset.of_time:
        return learning
    unmasked = sampling.hash_bucket(dataset, seed=dataset.model.seed + 2, buckets=_ONE_IN) > 0
    return learning.withColumns({name: F.when(unmasked, F.col(name)) for name in dataset.of_time})
