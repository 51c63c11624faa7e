"""The paired bootstrap: a challenger against a champion on the same rows."""

import numpy as np
import pytest

from workloads.evaluation import metrics, paired_bootstrap


def scored(rows: int, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the probabilities of a model; one of sharpness 1 knows the true probabilities."""
    random = np.random.default_rng(seed)
    signal = random.standard_normal(rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(-signal))).astype(float)
    return labels, 1 / (1 + np.exp(-(sharpness * signal + (1 - sharpness) * random.standard_normal(rows))))


def test_identical_models_have_a_difference_of_exactly_zero() -> None:
    labels, p = scored(2_000, seed=1)
    comparison = paired_bootstrap.paired(labels, p, p.copy())
    assert comparison["auc_change_interval"] == comparison["log_loss_change_interval"] == [0.0, 0.0]
    assert (comparison["auc_change"], comparison["log_loss_change"]) == (0.0, 0.0)
    assert comparison["auc"] == metrics.auc(labels, p)


def test_interval_covers_a_known_difference_and_excludes_zero() -> None:
    """The true difference is that of a million rows."""
    labels, p = scored(1_000_000, seed=2)
    _, worse = scored(1_000_000, seed=2, sharpness=0.6)
    auc = metrics.auc(labels, p) - metrics.auc(labels, worse)  # type: ignore[operator]
    loss = metrics.log_loss(labels, p) - metrics.log_loss(labels, worse)
    comparison = paired_bootstrap.paired(labels[:5_000], p[:5_000], worse[:5_000])
    for true, (low, high) in ((auc, comparison["auc_change_interval"]), (loss, comparison["log_loss_change_interval"])):
        assert low < true < high
        assert low * high > 0


def test_interval_covers_the_true_difference_about_as_often_as_stated() -> None:
    labels, p = scored(400_000, seed=3)
    _, worse = scored(400_000, seed=3, sharpness=0.6)
    true = metrics.auc(labels, p) - metrics.auc(labels, worse)  # type: ignore[operator]
    covered = 0
    for part in np.split(np.arange(40_000), 40):
        low, high = paired_bootstrap.paired(labels[part], p[part], worse[part])["auc_change_interval"]
        covered += low <= true <= high
    assert covered >= 34


def test_test_set_above_the_row_limit_has_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired_bootstrap, "ROWS", 1_000)
    labels, p = scored(5_000, seed=4)
    _, worse = scored(5_000, seed=4, sharpness=0.5)
    low, high = paired_bootstrap.paired(labels, p, worse)["auc_change_interval"]
    assert 0 < low < high


def test_weighted_auc_counts_ties_as_auc_does() -> None:
    labels, p = scored(3_000, seed=5)
    weighted = paired_bootstrap._weighted_auc(labels, np.round(p, 1))
    assert weighted(np.ones(3_000, int)) == pytest.approx(metrics.auc(labels, np.round(p, 1)))


def test_rows_without_a_click_have_no_auc_to_compare() -> None:
    comparison = paired_bootstrap.paired(np.zeros(50), np.full(50, 0.1), np.full(50, 0.2))
    assert (comparison["auc"], comparison["auc_change"], comparison["auc_change_interval"]) == (None, None, None)
    low, high = comparison["log_loss_change_interval"]
    assert low < 0
    assert high < 0
