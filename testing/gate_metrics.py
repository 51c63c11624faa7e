"""Metrics of a model that passes the quality gate, and the gate's default thresholds."""

from infra.config.settings import QualitySettings

THRESHOLDS = QualitySettings().limits
GOOD_METRICS = {
    "clicks_test": 5000,
    "auc": 0.71,
    "log_loss": 0.61,
    "base_log_loss": 0.68,
    "calibration_gap": 0.01,
    "expected_calibration_error": 0.02,
    "probability_std": 0.18,
    "mean_probability": 0.56,
    "commonest_probability_share": 0.001,
    "feature_auc": {"age": 0.55, "genres": 0.71, "answer": None},
    "live": {
        "run_id": "7",
        "auc": 0.715,
        "log_loss": 0.608,
        "auc_change": -0.005,
        "auc_change_interval": [-0.012, 0.002],
        "log_loss_change": 0.002,
        "log_loss_change_interval": [-0.001, 0.005],
    },
    "drift": {"age": {"psi": 0.04, "unseen_rise": None}, "genres": {"psi": 0.01, "unseen_rise": 0.1}},
}
