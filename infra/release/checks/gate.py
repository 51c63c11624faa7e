"""The quality gate: every rule that a model must pass to become live, with its value, its limit and its result.

A pure function of the training metrics (all on probabilities) and the stack's thresholds, so that a changed threshold
gives a new verdict without a new training. A figure that is missing or not a number breaks its rule. Without a live
model at the time of training, the rules that compare with it pass, and their messages give that reason.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NotRequired, TypedDict

from infra.config.settings.quality import STATE_NAMES

DriftFigure = Literal["psi", "unseen_rise"]
Interval = Literal["auc_change_interval", "log_loss_change_interval"]


class LiveComparison(TypedDict):
    """Comparison with the live model on the same rows; `skipped` is the reason why there is none."""

    run_id: str
    skipped: NotRequired[str]
    auc_change_interval: NotRequired[list[float] | None]
    log_loss_change_interval: NotRequired[list[float] | None]


class FeatureDrift(TypedDict, total=False):
    psi: float | None
    unseen_rise: float | None


class Metrics(TypedDict, total=False):
    """Figures of `metrics.json` that a release reads (docs/reference/artefact.md). Each may be missing or None."""

    clicks_test: int | None
    auc: float | None
    log_loss: float | None
    base_log_loss: float | None
    calibration_gap: float | None
    expected_calibration_error: float | None
    probability_std: float | None
    mean_probability: float | None
    commonest_probability_share: float | None
    feature_auc: dict[str, float | None]
    live: LiveComparison | None
    drift: dict[str, FeatureDrift] | None


class RuleResult(TypedDict):
    """One rule in the form of outputs and files."""

    name: str
    value: float | None
    limit: float
    passed: bool
    message: str


@dataclass(frozen=True)
class Rule:
    """Result of one rule."""

    name: str
    value: float | None
    """None if it was not measured, or the rule was not evaluated."""
    limit: float
    """The threshold `quality:<name>_min` or `quality:<name>_max`."""
    passed: bool
    message: str
    """The result in words; for a broken rule with its remedy."""


def evaluate_gate(metrics: Metrics, thresholds: Mapping[str, float]) -> list[Rule]:
    """Evaluate every rule. `thresholds`: `QualitySettings.limits`."""
    return [_evaluate(spec, metrics, thresholds[STATE_NAMES.get(spec.threshold, spec.threshold)]) for spec in _RULES]


def verdict(metrics: Metrics, thresholds: Mapping[str, float]) -> list[RuleResult]:
    """`evaluate_gate` in the form of outputs and files."""
    return [
        {"name": rule.name, "value": rule.value, "limit": rule.limit, "passed": rule.passed, "message": rule.message}
        for rule in evaluate_gate(metrics, thresholds)
    ]


@dataclass(frozen=True)
class RuleSpec:
    """Definition of one rule."""

    threshold: str
    """Name of the setting with its limit, in the namespace `quality:`."""
    figure: Callable[[Metrics], object]
    """The value, or a pair of the value and its feature."""
    holds: Callable[[float, float], bool]
    """Whether a value keeps to a limit."""
    broken: str
    """Message of a broken rule; a format string with `value`, `limit`, `metrics` and the `feature` of the value."""
    remedy: str
    not_applicable: Callable[[Metrics], str] | None = None
    """Reason why the rule is not evaluated, for example without a live model; empty if it is evaluated."""


def _evaluate(spec: RuleSpec, metrics: Metrics, limit: float) -> Rule:
    name, setting = spec.threshold.removesuffix("_min").removesuffix("_max"), f"quality:{spec.threshold}"
    if spec.not_applicable and (reason := spec.not_applicable(metrics)):
        return Rule(name, None, limit, True, f"not judged: {reason}")
    figure = spec.figure(metrics)
    value, feature = figure if isinstance(figure, tuple) else (figure, "")
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return Rule(name, None, limit, False, f"{name} could not be measured (it is {value!r}); {spec.remedy}")
    if spec.holds(value, limit):
        return Rule(name, value, limit, True, f"{value:.4g} keeps to {setting} {limit:g}")
    broken = spec.broken.format(value=value, limit=limit, metrics=metrics, feature=feature)
    return Rule(name, value, limit, False, f"{broken} ({setting}); {spec.remedy}")


def _spread(metrics: Metrics) -> float | None:
    deviation, mean = metrics.get("probability_std"), metrics.get("mean_probability")
    return deviation / mean if deviation is not None and mean else None


def _gain(metrics: Metrics) -> float | None:
    loss, base = metrics.get("log_loss"), metrics.get("base_log_loss")
    return None if loss is None or base is None else base - loss


def _certain_loss(interval_name: Interval, end: int, sign: int, metrics: Metrics) -> float | None:
    """Degradation against the live model at the optimistic bound of the interval; negative if it may be better.

    end: index of that bound in the interval. sign: 1 for a figure that is better when smaller, otherwise -1.
    """
    live = metrics.get("live")
    interval = live.get(interval_name) if live else None
    return sign * interval[end] + 0.0 if interval else None  # no minus zero


def _largest(figure: DriftFigure, metrics: Metrics) -> tuple[float, str]:
    """The largest value of `figure` over all features, and its feature."""
    figures = (metrics.get("drift") or {}).items()
    return max((value, feature) for feature, values in figures if (value := values.get(figure)) is not None)


def _strongest(metrics: Metrics) -> tuple[float, str]:
    return max((auc, feature) for feature, auc in metrics["feature_auc"].items() if auc is not None)


def _no_feature_auc(metrics: Metrics) -> str:
    if "feature_auc" not in metrics:
        return "an earlier workload trained it, and did not measure its features one by one"
    measured = any(value is not None for value in metrics["feature_auc"].values())
    return "" if measured else "too few clicks, or other rows, to measure the features one by one"


def _no_live(metrics: Metrics) -> str:
    live = metrics.get("live")
    if not live:
        return "no model was live when it was trained"
    return f"run {live['run_id']} is live, and {live['skipped']}" if "skipped" in live else ""


def _no_drift(figure: DriftFigure, metrics: Metrics) -> str:
    measured = any(values.get(figure) is not None for values in (metrics.get("drift") or {}).values())
    return "" if measured else "no earlier rows to compare with"


_RULES = (
    RuleSpec(
        "test_clicks_min",
        lambda metrics: metrics.get("clicks_test"),
        operator.ge,
        "only {value:.0f} clicks in the test set, too few to judge; at least {limit:.0f} are needed",
        "train on more rows",
    ),
    RuleSpec(
        "auc_min",
        lambda metrics: metrics.get("auc"),
        operator.ge,
        "AUC {value:.4f} is below the floor {limit:.4f}",
        "the model card shows which slices and days are weak",
    ),
    RuleSpec(
        "log_loss_gain_min",
        _gain,
        operator.gt,
        "log loss {metrics[log_loss]:.4f} is not below the base rate's {metrics[base_log_loss]:.4f} by more than "
        "{limit:.4f}",
        "the model predicts no better than the constant click rate: look for features that are missing or empty",
    ),
    RuleSpec(
        "calibration_gap_max",
        lambda metrics: metrics.get("calibration_gap"),
        operator.le,
        "mean probability is {value:.4f} away from the click rate, at most {limit:.4f} is allowed",
        "the click rate may have moved since the training rows: train on later ones",
    ),
    RuleSpec(
        "calibration_error_max",
        lambda metrics: metrics.get("expected_calibration_error"),
        operator.le,
        "probabilities are {value:.4f} away from the click rates of their tenths, at most {limit:.4f} is allowed",
        "the calibration plot of the model card shows where",
    ),
    RuleSpec(
        "probability_spread_min",
        _spread,
        operator.ge,
        "the probabilities have collapsed: they differ by {value:.2%} of their mean, at least {limit:.2%} is required",
        "look for features that are missing or empty",
    ),
    RuleSpec(
        "mode_share_max",
        lambda metrics: metrics.get("commonest_probability_share"),
        operator.le,
        "the probabilities have collapsed: {value:.1%} of the rows have the same one, at most {limit:.1%} is allowed",
        "look for features that are missing or empty",
    ),
    RuleSpec(
        "feature_auc_max",
        _strongest,
        operator.le,
        "feature {feature} alone separates clicks from other rows with an AUC of {value:.4f}, at most {limit:.4f} is "
        "allowed: it may be the label, or be known only after the click",
        "leave the feature out of the dataset spec, or raise the limit if it is known before the click",
        _no_feature_auc,
    ),
    RuleSpec(
        "auc_drop_max",
        partial(_certain_loss, "auc_change_interval", 1, -1),
        operator.le,
        "AUC is {value:.4f} or more below that of the live model, run {metrics[live][run_id]}; {limit:.4f} is allowed",
        "compare the two model cards, slice by slice",
        _no_live,
    ),
    RuleSpec(
        "log_loss_rise_max",
        partial(_certain_loss, "log_loss_change_interval", 0, 1),
        operator.le,
        "log loss is {value:.4f} or more above that of the live model, run {metrics[live][run_id]}; {limit:.4f} is "
        "allowed",
        "compare the two model cards, slice by slice",
        _no_live,
    ),
    RuleSpec(
        "psi_max",
        partial(_largest, "psi"),
        operator.le,
        "feature {feature} has a PSI of {value:.3f} against the training rows of the live model, at most "
        "{limit:.3f} is allowed",
        "check that its source still means and measures the same, or raise the limit if the change is intended",
        partial(_no_drift, "psi"),
    ),
    RuleSpec(
        "unseen_rise_max",
        partial(_largest, "unseen_rise"),
        operator.le,
        "{value:.1%} more of feature {feature} than before are values that the live model does not know, at "
        "most {limit:.1%} is allowed",
        "check whether its source has changed its ids, or raise the limit if the change is intended",
        partial(_no_drift, "unseen_rise"),
    ),
)
