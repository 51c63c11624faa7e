"""The limits of a scoring request, applied to raw lines: values that the service would refuse are malformed.

Otherwise the model would be trained on such rows, and only the deployment that replays one as a golden row, or the
first caller, would fail. The limits are `spec.MAX_STRING` and `spec.MAX_STRINGS`. Does not read files: `tables.py`
does.
"""

from collections.abc import Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F

from workloads.data.tables import Lines
from workloads.spec import MAX_STRING, MAX_STRINGS, Feature, Spec


def mark(lines: Lines, features: Mapping[str, tuple[Feature, Column]]) -> Lines:
    """Mark lines with a value beyond the limits.

    features: by name, the feature and the column of its value in `lines`.
    """
    reasons = [reason for name, (feature, value) in features.items() for reason in _reasons(name, feature, value)]
    return lines.mark(F.lit(True), F.coalesce(*reasons)) if reasons else lines


def _reasons(name: str, feature: Feature, value: Column) -> list[Column]:
    too_long = F.lit(f"{name} has more than {MAX_STRING} characters, the most that a request may send")
    if feature.type == "string":
        return [F.when(F.length(value) > MAX_STRING, too_long)]
    if feature.type == "strings":
        rule = F.lit(f" values, a request may send at most {MAX_STRINGS}")
        count = F.concat(F.lit(f"{name} has "), F.size(value).cast("string"), rule)
        long_one = F.exists(value, lambda level: F.length(level) > MAX_STRING)
        return [F.when(F.size(value) > MAX_STRINGS, count), F.when(long_one, too_long)]
    return []


def too_many_combinations(dataset: Spec) -> Column | None:
    """Return whether a joined row gives a cross more levels than the service accepts.

    None if no cross has two features that are lists.
    """
    faults = []
    for cross in dataset.crosses:
        lists = [name for name in cross if dataset.features[name].type == "strings"]
        if len(lists) > 1:
            product = F.lit(1)
            for name in lists:
                product *= F.greatest(F.size(name), F.lit(1))
            faults.append(product > MAX_STRINGS)
    return F.greatest(*faults, F.lit(False)) if faults else None
