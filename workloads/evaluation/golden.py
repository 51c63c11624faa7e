"""Golden rows: rows with the probability that training computed, which every serving engine must reproduce.

Most are unchanged test rows. In the others one value is removed or replaced by an unseen level, so that these cases
are tested even if the data does not contain them. Each probability is that of the saved and reloaded pipeline for
exactly the values of the row. Does not score the rows: `evaluation.py` does.
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
    """Choose up to `ROWS` test rows by a hash of their content, and alter the last `_ALTERED` of them."""
    features = list(dataset.features)
    # The service refuses a request without any value.
    has_value = reduce(or_, (F.col(name).isNotNull() for name in features))
    shuffled = test.filter(has_value).orderBy(F.xxhash64("time", *features), "time").select(*features)
    golden = [row.asDict() for row in shuffled.limit(ROWS).collect()]
    for i, row in enumerate(golden[ROWS - _ALTERED :]):
        _alter(row, i, dataset)
    return golden


def lines(golden: Sequence[Mapping[str, Any]], probabilities: np.ndarray) -> str:
    """Return `golden.jsonl`: one JSON object per row."""
    return "".join(
        json.dumps({"row": row, "probability": probability}, allow_nan=False) + "\n"
        for row, probability in zip(golden, probabilities.tolist(), strict=True)
    )


def _alter(row: dict[str, Any], i: int, dataset: Spec) -> None:
    """Remove the value of one feature, or for odd `i` replace a categorical's level by an unseen one, in turn."""
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
        row[name] = [*(row[name] or [])[:-1], _UNSEEN]  # same length, because a request's lists have a limit
    else:
        row[name] = _UNSEEN
