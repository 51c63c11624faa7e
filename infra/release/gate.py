"""The quality gate: which of a model's figures are not good enough to serve, in words.

A pure function of the metrics that training measured on held-out rows (all on probabilities) and the stack's floors.
"""

from collections.abc import Mapping
from typing import Any


def refusals(metrics: Mapping[str, Any], floors: Mapping[str, float]) -> list[str]:
    """Reasons against this model, empty if there are none; a figure that is missing or not a number is a reason."""
    reasons = []

    def figure(name: str) -> float | None:
        value = metrics.get(name)
        if not isinstance(value, int | float) or value != value:
            reasons.append(f"{name} could not be measured on the held-out part (it is {value!r})")
            return None
        return float(value)

    clicks = figure("clicks_test")
    if clicks is not None and clicks < floors["test_clicks_min"]:
        reasons.append(
            f"only {clicks:.0f} clicks in the held-out part, too few to judge; at least "
            f"{floors['test_clicks_min']:.0f} are needed (quality:test_clicks_min)"
        )
    auc = figure("auc")
    if auc is not None and auc < floors["auc_min"]:
        reasons.append(f"AUC {auc:.4f} is below the floor {floors['auc_min']:.4f} (quality:auc_min)")
    loss, base = figure("log_loss"), figure("base_log_loss")
    if loss is not None and base is not None and not base - loss > floors["log_loss_gain_min"]:
        reasons.append(
            f"log loss {loss:.4f} is not below the base rate's {base:.4f} by more than "
            f"{floors['log_loss_gain_min']:.4f} (quality:log_loss_gain_min)"
        )
    gap = figure("calibration_gap")
    if gap is not None and gap > floors["calibration_gap_max"]:
        reasons.append(
            f"mean probability is {gap:.4f} away from the click rate, at most {floors['calibration_gap_max']:.4f} "
            "is allowed (quality:calibration_gap_max)"
        )
    return reasons
