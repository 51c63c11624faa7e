"""Metrics, compared with their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.evaluation import metrics

SCORED = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=1, max_size=40)


@given(SCORED)
def test_auc_is_the_probability_that_a_click_ranks_above_a_non_click(scored: list[tuple[bool, float]]) -> None:
    labels, p = np.array([float(s[0]) for s in scored]), np.array([s[1] for s in scored])
    clicks, others = p[labels == 1], p[labels == 0]
    if not len(clicks) or not len(others):
        assert metrics.auc(labels, p) is None
        return
    wins = [(c > o) + (c == o) / 2 for c in clicks for o in others]
    assert metrics.auc(labels, p) == pytest.approx(np.mean(wins))


@given(SCORED)
def test_log_loss_is_finite_and_minimal_for_the_click_rate_among_constants(scored: list[tuple[bool, float]]) -> None:
    labels, p = np.array([float(s[0]) for s in scored]), np.array([s[1] for s in scored])
    summary = metrics.summary(labels, p)
    assert np.isfinite(summary["log_loss"])
    for constant in (0.1, 0.5, 0.9):
        assert summary["base_log_loss"] <= metrics.log_loss(labels, np.full(len(p), constant)) + 1e-12


def test_calibration_bins_hold_every_row_once() -> None:
    random = np.random.default_rng(1)
    p = random.random(1_003)
    labels = (random.random(1_003) < p).astype(float)
    bins = metrics.calibration(labels, p)
    assert sum(part["rows"] for part in bins) == 1_003
    assert all(abs(part["mean_probability"] - part["rate"]) < 0.15 for part in bins)


def test_slices_hold_the_most_frequent_values() -> None:
    labels, p = np.array([0.0, 1.0, 1.0, 0.0, 1.0]), np.array([0.2, 0.8, 0.4, 0.6, 0.5])
    slices = metrics.slices(labels, p, {"side": np.array(["a", "a", "b", "b", "c"])}, most=2)
    assert {value: s["auc"] for value, s in slices["side"].items()} == {"a": 1.0, "b": 0.0}


@given(SCORED)
def test_average_precision_is_the_mean_precision_at_each_click(scored: list[tuple[bool, float]]) -> None:
    labels, p = np.array([float(s[0]) for s in scored]), np.array([s[1] for s in scored])
    if not labels.any():
        assert metrics.average_precision(labels, p) is None
        return
    at_each_click = [labels[p >= threshold].mean() for threshold in p[labels == 1]]
    assert metrics.average_precision(labels, p) == pytest.approx(np.mean(at_each_click))


@given(SCORED)
def test_area_under_the_roc_curve_equals_the_auc(scored: list[tuple[bool, float]]) -> None:
    labels, p = np.array([float(s[0]) for s in scored]), np.array([s[1] for s in scored])
    if 0 < labels.sum() < len(labels):
        others, clicks = metrics.roc(labels, p)
        assert (others[-1], clicks[-1]) == (1, 1)
        assert np.trapezoid(clicks, others) == pytest.approx(metrics.auc(labels, p))


def test_calibration_error_and_lift_match_hand_computed_values() -> None:
    labels, p = np.array([0.0, 0.0, 1.0, 1.0, 0.0]), np.array([0.1, 0.2, 0.9, 0.6, 0.4])
    bins = metrics.calibration(labels, p, bins=5)
    assert metrics.expected_calibration_error(bins) == pytest.approx((0.1 + 0.2 + 0.1 + 0.4 + 0.4) / 5)
    assert metrics.lift(labels, p, share=0.4) == pytest.approx(1 / 0.4)
    assert metrics.lift(np.zeros(5), p) is None


def test_rows_without_a_click_have_a_log_loss_but_no_auc() -> None:
    labels, probabilities = np.zeros(5), np.linspace(0.1, 0.5, 5)
    summary = metrics.summary(labels, probabilities)
    assert (summary["auc"], summary["base_rate"]) == (None, 0.0)
    assert summary["log_loss"] > summary["base_log_loss"]
    assert [len(axis) for axis in metrics.roc(labels, probabilities)] == [1, 1]
