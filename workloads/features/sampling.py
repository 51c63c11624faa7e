"""Deterministic sampling: a row is chosen by a hash of its content.

The choice does not depend on Spark's partitions, and copies of a row are chosen together. Does not split rows by time:
`workloads/data/split.py` does.
"""

from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

from workloads.spec import Spec

_RESOLUTION = 1_000_000
"""Shares are rounded to millionths."""


def hash_bucket(dataset: Spec, *, seed: int, buckets: int, columns: Sequence[str] = ()) -> Column:
    """Return the bucket of a row, an integer from 0 to `buckets` - 1.

    columns: columns that are hashed; by default the time and all features.
    """
    return F.pmod(F.xxhash64(*(columns or ("time", *dataset.features)), F.lit(seed)), F.lit(buckets))


def rows_in_sample(dataset: Spec, *, seed: int, share: float, columns: Sequence[str] = ()) -> Column:
    """Return whether a row of the prepared table is in a sample of about `share` of all rows; above 1 all rows are."""
    return hash_bucket(dataset, seed=seed, buckets=_RESOLUTION, columns=columns) < _limit(share)


def in_sample(share: float) -> Column:
    """Return whether an encoded row, with a vector `features`, is in a sample of about `share` of all rows."""
    return F.pmod(F.xxhash64("features"), F.lit(_RESOLUTION)) < _limit(share)


def _limit(share: float) -> int:
    return round(_RESOLUTION * min(1.0, share))
