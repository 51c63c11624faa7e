"""How good the probabilities are: numbers on labels and probabilities, nothing else.

Does not know where they come from (`train.py` passes those of the saved and reloaded pipeline) and sets no bar.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Chance that a click ranks above a non-click, ties counting half; None when either is absent."""
    clicks = int(labels.sum())
    if clicks in (0, len(labels)):
        return None
    _, place, ties = np.unique(probabilities, return_inverse=True, return_counts=True)
    rank = (np.cumsum(ties) - (ties - 1) / 2)[place]
    return float((rank[labels == 1].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(labels) - clicks)))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    p = np.clip(probabilities, 1e-15, 1 - 1e-15)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p)))


def summary(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    base_rate, mean = float(labels.mean()), float(probabilities.mean())
    return {
        "rows": len(labels),
        "clicks": int(labels.sum()),
        "auc": auc(labels, probabilities),
        "log_loss": log_loss(labels, probabilities),
        "base_rate": base_rate,
        "base_log_loss": log_loss(labels, np.full(len(labels), base_rate)),
        "mean_probability": mean,
        "calibration_gap": abs(mean - base_rate),
    }


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Mean probability and click rate of equally many rows each, from the least to the most probable."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), bins)
    return [
        {"mean_probability": float(probabilities[p].mean()), "rate": float(labels[p].mean()), "rows": len(p)}
        for p in parts
        if len(p)
    ]


def slices(
    labels: np.ndarray, probabilities: np.ndarray, by: Mapping[str, np.ndarray], most: int = 12
) -> dict[str, dict[str, Any]]:
    """The summary of each value of each column of `by`, of the `most` frequent values."""
    found: dict[str, dict[str, Any]] = {}
    for name, column in by.items():
        values, counts = np.unique(column, return_counts=True)
        largest = values[np.argsort(-counts, kind="stable")[:most]]
        found[name] = {str(v): summary(labels[column == v], probabilities[column == v]) for v in sorted(largest)}
    return found
