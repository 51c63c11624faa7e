"""The quality gate."""

import json
import math
from typing import Any

import pytest

from infra.config.settings import QualitySettings
from infra.release.checks.gate import evaluate_gate, verdict
from testing.gate_metrics import GOOD_METRICS, THRESHOLDS

LIVE: dict[str, Any] = GOOD_METRICS["live"]  # type: ignore[assignment]
ABSOLUTE = {name: value for name, value in GOOD_METRICS.items() if name not in ("live", "drift")}


def broken(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    return [(rule.name, rule.message) for rule in evaluate_gate(metrics, THRESHOLDS) if not rule.passed]


def test_good_model_passes_every_rule_with_its_value_and_limit() -> None:
    rules = evaluate_gate(GOOD_METRICS, THRESHOLDS)
    assert all(rule.passed and isinstance(rule.value, float | int) for rule in rules)
    assert len(rules) == len(THRESHOLDS)
    assert {rule.name for rule in rules} == {name[: -len("_min")] for name in QualitySettings.model_fields}


@pytest.mark.parametrize(
    ("worse", "rule", "reason"),
    [
        ({"clicks_test": 21}, "test_clicks", "only 21 clicks in the test set, too few to judge"),
        ({"auc": 0.6}, "auc", "AUC 0.6000 is below the floor 0.6500 (quality:auc_min)"),
        (
            {"feature_auc": {"age": 0.55, "answer": 0.9991}},
            "feature_auc",
            "feature answer alone separates clicks from other rows with an AUC of 0.9991, at most 0.9800 is allowed",
        ),
        ({"log_loss": 0.69}, "log_loss_gain", "not below the base rate's 0.6800"),
        ({"log_loss": 0.68}, "log_loss_gain", "not below the base rate's 0.6800"),
        ({"calibration_gap": 0.2}, "calibration_gap", "0.2000 away from the click rate"),
        ({"expected_calibration_error": 0.15}, "calibration_error", "0.1500 away from the click rates of their tenths"),
        ({"probability_std": 0.002}, "probability_spread", "have collapsed: they differ by 0.36% of their mean"),
        ({"commonest_probability_share": 0.9}, "mode_share", "have collapsed: 90.0% of the rows"),
        ({"auc": None}, "auc", "auc could not be measured"),
        ({"auc": math.nan}, "auc", "auc could not be measured"),
        (
            {"live": LIVE | {"auc_change_interval": [-0.03, -0.01]}},
            "auc_drop",
            "AUC is 0.0100 or more below that of the live model, run 7",
        ),
        (
            {"live": LIVE | {"log_loss_change_interval": [0.01, 0.03]}},
            "log_loss_rise",
            "log loss is 0.0100 or more above",
        ),
        ({"live": LIVE | {"auc_change_interval": None}}, "auc_drop", "could not be measured"),
        ({"drift": {"age": {"psi": 0.4, "unseen_rise": 0.0}}}, "psi", "feature age has a PSI of 0.400"),
        (
            {"drift": {"C1": {"psi": 0.1, "unseen_rise": 0.6}}},
            "unseen_rise",
            "60.0% more of feature C1 than before are",
        ),
    ],
)
def test_each_bad_figure_breaks_its_rule(worse: dict[str, Any], rule: str, reason: str) -> None:
    ((name, says),) = broken({**GOOD_METRICS, **worse})
    assert name == rule
    assert reason in says


def test_model_that_may_be_as_good_as_the_live_one_passes() -> None:
    """A drop is refused only if the whole confidence interval shows it."""
    worse = {"auc_change": -0.02, "auc_change_interval": [-0.05, 0.01]}
    assert broken({**GOOD_METRICS, "live": LIVE | worse}) == []


@pytest.mark.parametrize(
    "alone",
    [
        {},
        {"live": None, "drift": {}},
        {"live": {"run_id": "7", "skipped": "its artefact is no longer in the lake"}, "drift": {}},
    ],
)
def test_rules_without_a_comparison_pass_with_the_reason(alone: dict[str, Any]) -> None:
    compared = {rule.name: rule for rule in evaluate_gate({**ABSOLUTE, **alone}, THRESHOLDS) if rule.value is None}
    assert set(compared) == {"auc_drop", "log_loss_rise", "psi", "unseen_rise"}
    assert all(rule.passed and rule.message.startswith("not judged: ") for rule in compared.values())


@pytest.mark.parametrize("alone", [{"feature_auc": {"age": None}}, {}])
def test_feature_auc_rule_is_skipped_without_measurements(alone: dict[str, Any]) -> None:
    """Models from before this measure, and rows with very few clicks."""
    measured = {name: value for name, value in GOOD_METRICS.items() if name != "feature_auc"}
    (rule,) = (rule for rule in evaluate_gate(measured | alone, THRESHOLDS) if rule.name == "feature_auc")
    assert rule.passed
    assert rule.message.startswith("not judged: ")


def test_missing_metrics_refuse_the_model() -> None:
    assert len(broken({})) == 7


def test_changed_threshold_changes_the_verdict_of_the_same_run() -> None:
    strict = THRESHOLDS | {"auc_min": 0.75}
    assert [rule["name"] for rule in verdict(GOOD_METRICS, strict) if not rule["passed"]] == ["auc"]
    assert json.loads(json.dumps(verdict(GOOD_METRICS, strict), allow_nan=False)) == verdict(GOOD_METRICS, strict)
