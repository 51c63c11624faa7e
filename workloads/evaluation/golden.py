"""Rows with the probability that training computed for them: what every serving engine must give again.

Most are test rows as they came; in the others one value is taken away or replaced by a level that training never
saw, so that these paths are held too where the data does not walk them. Each probability is the saved and reloaded
pipeline's for exactly the values that the row shows.
"""

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from workloads.spec import Spec

ROWS = 100
_ALTERED = 20
_UNSEEN = "never seen in training"


def rows(test: DataFrame, dataset: Spec) -> list[dict[str, Any]]:
    features = list(dataset.features)
    # A request without any value is refused, and so would the golden row be.
    sent = reduce(or_, (F.col(name).isNotNull() for name in features))
    spread = test.filter(sent).orderBy(F.xxhash64("time", *features), "time").select(*features).limit(ROWS).collect()
    found = [row.asDict() for row in spread]
    for i, row in enumerate(found[ROWS - _ALTERED :]):
        _alter(row, i, dataset)
    return found


def lines(of: Sequence[Mapping[str, Any]], probabilities: np.ndarray) -> str:
    return "".join(
        json.dumps({"row": row, "probability": probability}, allow_nan=False) + "\n"
        for row, probability in zip(of, probabilities.tolist(), strict=True)
    )


def _alter(row: dict[str, Any], i: int, dataset: Spec) -> None:
    """Each feature in turn loses its value; every other round a categorical gets an unseen level instead."""
    names = list(dataset.features)
    unseen = i % 2 == 1
    if unseen:
        names = dataset.categoricals or names
    name = names[(i // 2) % len(names)]
    feature = dataset.features[name]
    if not unseen or not feature.categorical:
        if any(value is not None for other, value in row.items() if other != name):
            row[name] = None
    elif feature.type == "strings":
        row[name] = [*(row[name] or [])[:-1], _UNSEEN]  # no longer than it was: a request's lists have a limit
    else:
        row[name] = _UNSEEN
