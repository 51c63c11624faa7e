"""The quality gate."""

import math
from typing import Any

import pytest

from infra.release.gate import refusals
from infra.settings import QualitySettings

FLOORS = QualitySettings().model_dump()
GOOD = {"clicks_test": 5000, "auc": 0.71, "log_loss": 0.61, "base_log_loss": 0.68, "calibration_gap": 0.01}


def test_a_good_model_passes() -> None:
    assert refusals(GOOD, FLOORS) == []


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"clicks_test": 21}, "only 21 clicks"),
        ({"auc": 0.6}, "AUC 0.6000 is below"),
        ({"log_loss": 0.69}, "not below the base rate's 0.6800"),
        ({"log_loss": 0.68}, "not below the base rate's 0.6800"),
        ({"calibration_gap": 0.2}, "0.2000 away from the click rate"),
        ({"auc": None}, "auc could not be measured"),
        ({"auc": math.nan}, "auc could not be measured"),
    ],
)
def test_each_bad_figure_is_a_reason(worse: dict[str, Any], reason: str) -> None:
    (only,) = refusals({**GOOD, **worse}, FLOORS)
    assert reason in only


def test_a_figure_that_was_not_measured_is_a_reason() -> None:
    assert len(refusals({}, FLOORS)) == 5
