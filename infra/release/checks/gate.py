"""The quality gate: every rule that a model must keep to be served, with its value, its limit and whether it passed.

A pure function of what training measured (all on probabilities) and the stack's floors, so that the verdict can be
given anew when a floor changes. A figure that is missing or not a number is a refusal; where nothing served when the
model was trained, the rules of comparison pass and say so.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    name: str
    value: float | None
    """None where it was not measured, or is not judged."""
    limit: float
    """The floor `quality:<name>_min` or `quality:<name>_max`."""
    passed: bool
    says: str
    """To people; of a rule that is broken, what could be done."""


def judge(metrics: Metrics, floors: Mapping[str, float]) -> list[Rule]:
    return [_judged(demand, metrics, floors[demand.floor]) for demand in _DEMANDS]


def verdict(metrics: Metrics, floors: Mapping[str, float]) -> list[dict[str, Any]]:
    """`judge` as outputs and files hold it."""
    return [asdict(rule) for rule in judge(metrics, floors)]


_SETTINGS = {"commonest_probability_max": "mode_share_max"}
"""Settings of `quality:` whose limit has another name in the state, by that name (`QualitySettings.limits`)."""


@dataclass(frozen=True)
class _Demand:
    floor: str
    figure: Callable[[Metrics], Any]
    holds: Callable[[float, float], bool]
    broken: str
    """With `value`, `limit`, `metrics` and the `feature` of the value."""
    remedy: str
    compares: Callable[[Metrics], str] | None = None
    """Why the rule is not judged, such as for want of something to compare with; empty if it is."""


def _judged(demand: _Demand, metrics: Metrics, limit: float) -> Rule:
    key = _SETTINGS.get(demand.floor, demand.floor)
    name, setting = key.removesuffix("_min").removesuffix("_max"), f"quality:{key}"
    if demand.compares and (absent := demand.compares(metrics)):
        return Rule(name, None, limit, True, f"not judged: {absent}")
    found = demand.figure(metrics)
    value, feature = found if isinstance(found, tuple) else (found, "")
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return Rule(name, None, limit, False, f"{name} could not be measured (it is {value!r}); {demand.remedy}")
    if demand.holds(value, limit):
        return Rule(name, value, limit, True, f"{value:.4g} keeps to {setting} {limit:g}")
    broken = demand.broken.format(value=value, limit=limit, metrics=metrics, feature=feature)
    return Rule(name, value, limit, False, f"{broken} ({setting}); {demand.remedy}")


def _share(metrics: Metrics, of: str, whole: str) -> float | None:
    return metrics[of] / metrics[whole] if metrics.get(of) is not None and metrics.get(whole) else None


def _gain(metrics: Metrics) -> float | None:
    loss, base = metrics.get("log_loss"), metrics.get("base_log_loss")
    return None if loss is None or base is None else base - loss


def _sure_loss(figure: str, end: int, sign: int, metrics: Metrics) -> float | None:
    """By how much it is worse than what serves now at the interval's kinder end; below zero, it may be better."""
    interval = metrics["live"].get(f"{figure}_change_interval")
    return sign * interval[end] + 0.0 if interval else None  # no minus zero


def _most(figure: str, metrics: Metrics) -> tuple[float, str]:
    """The greatest over the features, and which feature it is of."""
    return max((of[figure], name) for name, of in metrics["drift"].items() if of.get(figure) is not None)


def _strongest(metrics: Metrics) -> tuple[float, str]:
    return max((value, name) for name, value in metrics["feature_auc"].items() if value is not None)


def _no_feature_auc(metrics: Metrics) -> str:
    if "feature_auc" not in metrics:
        return "an earlier workload trained it, and did not measure its features one by one"
    measured = any(value is not None for value in metrics["feature_auc"].values())
    return "" if measured else "too few clicks, or other rows, to measure the features one by one"


def _no_live(metrics: Metrics) -> str:
    live = metrics.get("live")
    if not live:
        return "nothing served when it was trained"
    return f"run {live['run_id']} serves, and {live['skipped']}" if "skipped" in live else ""


def _no_drift(figure: str, metrics: Metrics) -> str:
    drifted = any(of.get(figure) is not None for of in (metrics.get("drift") or {}).values())
    return "" if drifted else "no rows that it was measured on before"


_DEMANDS = (
    _Demand(
        "test_clicks_min",
        lambda metrics: metrics.get("clicks_test"),
        operator.ge,
        "only {value:.0f} clicks in the held-out part, too few to judge; at least {limit:.0f} are needed",
        "train on more rows",
    ),
    _Demand(
        "auc_min",
        lambda metrics: metrics.get("auc"),
        operator.ge,
        "AUC {value:.4f} is below the floor {limit:.4f}",
        "the model card shows which slices and days are weak",
    ),
    _Demand(
        "log_loss_gain_min",
        _gain,
        operator.gt,
        "log loss {metrics[log_loss]:.4f} is not below the base rate's {metrics[base_log_loss]:.4f} by more than "
        "{limit:.4f}",
        "the model says no more than the click rate does: look for features that are missing or empty",
    ),
    _Demand(
        "calibration_gap_max",
        lambda metrics: metrics.get("calibration_gap"),
        operator.le,
        "mean probability is {value:.4f} away from the click rate, at most {limit:.4f} is allowed",
        "the click rate may have moved since the training rows: train on later ones",
    ),
    _Demand(
        "calibration_error_max",
        lambda metrics: metrics.get("expected_calibration_error"),
        operator.le,
        "probabilities are {value:.4f} away from the click rates of their tenths, at most {limit:.4f} is allowed",
        "the calibration plot of the model card shows where",
    ),
    _Demand(
        "probability_spread_min",
        partial(_share, of="probability_std", whole="mean_probability"),
        operator.ge,
        "the probabilities have collapsed: they differ by {value:.2%} of their mean, at least {limit:.2%} is wanted",
        "look for features that are missing or empty",
    ),
    _Demand(
        "commonest_probability_max",
        lambda metrics: metrics.get("commonest_probability_share"),
        operator.le,
        "the probabilities have collapsed: {value:.1%} of the rows were given the same one, at most {limit:.1%} may",
        "look for features that are missing or empty",
    ),
    _Demand(
        "feature_auc_max",
        _strongest,
        operator.le,
        "feature {feature} alone separates clicks from other rows with an AUC of {value:.4f}, at most {limit:.4f} is "
        "allowed: it may be the label, or be known only after the click",
        "leave the feature out of the dataset spec, or raise the limit if it is known before the click",
        _no_feature_auc,
    ),
    _Demand(
        "auc_drop_max",
        partial(_sure_loss, "auc", 1, -1),
        operator.le,
        "AUC is {value:.4f} or more below that of run {metrics[live][run_id]}, which serves; {limit:.4f} is allowed",
        "compare the two model cards, slice by slice",
        _no_live,
    ),
    _Demand(
        "log_loss_rise_max",
        partial(_sure_loss, "log_loss", 0, 1),
        operator.le,
        "log loss is {value:.4f} or more above that of run {metrics[live][run_id]}, which serves; {limit:.4f} is "
        "allowed",
        "compare the two model cards, slice by slice",
        _no_live,
    ),
    _Demand(
        "psi_max",
        partial(_most, "psi"),
        operator.le,
        "feature {feature} has drifted by a PSI of {value:.3f} since the model that serves was trained, at most "
        "{limit:.3f} is allowed",
        "see whether its source still means and measures the same, and raise the limit if the change is wanted",
        partial(_no_drift, "psi"),
    ),
    _Demand(
        "unseen_rise_max",
        partial(_most, "unseen_rise"),
        operator.le,
        "{value:.1%} more of feature {feature} than before are values that the model which serves does not know, at "
        "most {limit:.1%} is allowed",
        "see whether its source has changed its ids, and raise the limit if the change is wanted",
        partial(_no_drift, "unseen_rise"),
    ),
)
