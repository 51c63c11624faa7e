"""The model card: one self-contained HTML file for a person who must decide whether to trust the model.

Shows the content of `metrics.json` and `lineage.json`, with plots. Has no scripts and loads nothing, so it can be
mailed and archived. Does not decide about the model: the release's gate does.
"""

import base64
import html as markup
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workloads.evaluation.metrics import roc
from workloads.spec import SIDES, Spec

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1d2430; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tbody tr { border-top: 1px solid #dde1e7; }
.synthetic { background: #b00020; color: #fff; font-weight: 700; padding: .7rem 1rem; margin: 1rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; margin-top: 1.5rem; }
.plots img { width: 100%; } .scroll { overflow-x: auto; }
pre { background: #f4f5f7; padding: 1rem; overflow-x: auto; font-size: 13px; }
"""

_MOST_DRIFTED = 10
_SUSPECT = 0.95
"""AUC of a single feature from which the card warns of label leakage."""


def html(
    dataset: Spec,
    metrics: Mapping[str, Any],
    lineage: Mapping[str, Any],
    importance: Mapping[str, float],
    labels: np.ndarray,
    probabilities: np.ndarray,
) -> str:
    synthetic = (
        "<p class=synthetic>SYNTHETIC: every row was generated. These figures show that the software works; they "
        "say nothing about real users.</p>"
        if metrics["synthetic"]
        else ""
    )
    terms = "Generated rows; no terms apply." if metrics["synthetic"] else dataset.terms
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Model card: {_text(dataset.title)}</title>
<style>{_STYLE}</style></head><body>
<h1>Click probability, {_text(dataset.title)}</h1>
<p>Run {_text(lineage["run_id"])}: LightGBM, {metrics["trees"]} trees. {_learned(metrics)}</p>
{synthetic}
<h2>Quality</h2>
{_quality(metrics)}
<div class=plots>{_plots(metrics, importance, labels, probabilities)}</div>
<h2>Comparison with the live model</h2>
{_live(metrics["live"])}
<h2>Feature drift</h2>
{_drift(metrics["drift"])}
<h2>By slice</h2>
{_slices(metrics)}
<h2>Context</h2>
{_context(dataset, metrics["context"], importance)}
<h2>Data</h2>
<p>{_text(terms)}</p>
{_data(lineage, metrics)}
<h2>Features</h2>
{_features(dataset, metrics["feature_auc"])}
<p>Share of the trees' gain by side of the features in a column.</p>
{_table(["side", "gain"], [[side, f"{share:.2%}"] for side, share in _gain(dataset, importance).items()])}
<h2>Lineage</h2>
<pre>{_text(json.dumps({k: v for k, v in lineage.items() if k != "data"}, indent=1))}</pre>
</body></html>
"""


def _learned(metrics: Mapping[str, Any]) -> str:
    judged, served, test = metrics["rows_judged"], metrics["rows_served"], metrics["rows_test"]
    text = (
        f"All figures are of a model that learned from {judged:,} rows, on the test set, the last rows by time "
        f"({test:,} rows, {metrics['clicks_test']:,} clicks), which it never saw, with the saved and reloaded pipeline."
    )
    if served == judged:
        return f"{text} It is the model that is served."
    return (
        f"{text} The served model has the same hyperparameters and learned from {served:,} rows, the test set included."
    )


def _text(value: Any) -> str:
    return markup.escape(str(value))


def _table(head: list[str], rows: list[list[Any]], numbers: bool = True) -> str:
    """Return an HTML table. The first column is text; the others are numbers or, without `numbers`, text."""
    kinds = ["", *[" class=n" if numbers else ""] * (len(head) - 1)]
    top = "".join(f"<th{kind}>{_text(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_text(value)}</td>" for kind, value in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _quality(metrics: Mapping[str, Any]) -> str:
    baseline = metrics["baseline"]
    losses = (metrics["log_loss"], baseline["log_loss"], metrics["base_log_loss"])
    rows = [
        ["AUC", _number(metrics["auc"]), _number(baseline["auc"]), "0.5000"],
        ["Log loss", *map(_number, losses)],
        ["Average precision (PR-AUC)", _number(metrics["average_precision"]), "", _number(metrics["base_rate"])],
        ["Mean probability", _number(metrics["mean_probability"]), "", _number(metrics["base_rate"])],
        ["Expected calibration error, tenths", _number(metrics["expected_calibration_error"]), "", "0.0000"],
        ["Lift of the most probable tenth", _number(metrics["lift"]), "", "1.0000"],
    ]
    return _table(["", "model", "logistic regression", "base rate alone"], rows)


def _live(live: Mapping[str, Any] | None) -> str:
    if live is None:
        return "<p>No model was live when this model was trained.</p>"
    if "skipped" in live:
        return f"<p>Not compared with run {_text(live['run_id'])}: {_text(live['skipped'])}.</p>"
    return f"<p>Run {_text(live['run_id'])} on the same rows.</p>" + _comparison("live model", live)


def _comparison(title: str, other: Mapping[str, Any]) -> str:
    rows = [
        [metric, _number(other[key]), _change(other[f"{key}_change"]), _interval(other[f"{key}_change_interval"])]
        for metric, key in (("AUC", "auc"), ("Log loss", "log_loss"))
    ]
    return _table(["", title, "change", "95 % interval of the change"], rows)


def _context(dataset: Spec, without: Mapping[str, Any] | None, importance: Mapping[str, float]) -> str:
    if not dataset.context:
        return "<p>The model has no context features.</p>"
    if without is None:
        return "<p>Every feature is a context feature: there is nothing to compare with.</p>"
    share = sum(gain for side, gain in _gain(dataset, importance).items() if "context" in side)
    return (
        f"<p>Context features: {_text(', '.join(dataset.context))}, with {share:.2%} of the trees' gain. For the "
        "comparison the same trees scored the same rows with these features missing, as if the caller did not send "
        "them. A model fitted without them might be better or worse.</p>" + _comparison("not sent", without)
    )


def _gain(dataset: Spec, importance: Mapping[str, float]) -> dict[str, float]:
    """Return the share of the gain by side, largest first; crosses of several sides have their own entry."""
    shares: dict[str, float] = {}
    total = sum(importance.values()) or 1.0
    for name, value in dataset.model_columns:
        sides = {dataset.features[feature].side for feature in dataset.encodings.get(name, (name,))}
        side = " and ".join(side for side in SIDES if side in sides)
        shares[side] = shares.get(side, 0.0) + importance.get(f"{name} {value}", 0.0) / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _change(value: float | None) -> str:
    return "not defined" if value is None else f"{value:+.4f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "not defined" if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _drift(drift: Mapping[str, Mapping[str, float | None]]) -> str:
    if not drift:
        return "<p>Not measured: no comparable live model has a profile of its training rows.</p>"
    most = sorted(drift.items(), key=lambda item: -(item[1]["psi"] or 0.0))[:_MOST_DRIFTED]
    rows = [
        [name, _number(change["psi"]), _share(change["unseen_share"]), _share(change["unseen_rise"])]
        for name, change in most
    ]
    return (
        "<p>Training rows against the live model's: population stability index (PSI; 0.25 or more is a shift), share "
        "of values that the live model does not know, and the increase of this share since its own training.</p>"
        + _table(["feature", "PSI", "unseen", "increase"], rows)
    )


def _slices(metrics: Mapping[str, Any]) -> str:
    shown = ("auc", "log_loss", "base_rate", "mean_probability")
    rows = [
        [f"{name}: {value}", f"{s['rows']:,}", *(_number(s[key]) for key in shown)]
        for name, values in metrics["slices"].items()
        for value, s in values.items()
    ]
    head = ["slice", "rows", "AUC", "log loss", "click rate", "mean probability"]
    return _table(head, rows) if rows else "<p>The dataset spec names no slices.</p>"


def _data(lineage: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    tables = [
        [f"{name}: {table['file']}", f"{table['rows']:,}", f"{table['rejected']:,}"]
        for name, table in lineage["data"]["tables"].items()
    ]
    return _table(["file", "rows read", "lines refused"], tables) + (
        f"<p>{metrics['rows_train']:,} training rows, {lineage['data']['orphans']:,} interactions whose user or item "
        f"is in no table. Digest of the joined table: <code>{_text(lineage['data']['digest'])}</code></p>"
    )


def _features(dataset: Spec, alone: Mapping[str, float | None]) -> str:
    rows = [[n, f.type, f.side, _number(alone[n])] for n, f in dataset.features.items()]
    suspects = [name for name, area in alone.items() if area is not None and area >= _SUSPECT]
    warning = (
        f"<p class=synthetic>Possible label leakage: {_text(', '.join(suspects))} alone predicts the label almost "
        "perfectly. Check that its values are known before the click.</p>"
        if suspects
        else ""
    )
    return warning + _table(["feature", "type", "side", "AUC alone"], rows, numbers=False)


def _plots(
    metrics: Mapping[str, Any], importance: Mapping[str, float], labels: np.ndarray, probabilities: np.ndarray
) -> str:
    def ranking(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#9aa3af", linewidth=1, linestyle="--")
        axes.plot(*roc(labels, probabilities), color="#1f5fbf")
        axes.set(xlabel="share of non-clicks", ylabel="share of clicks", xlim=(0, 1), ylim=(0, 1))

    def calibration(axes: Axes) -> None:
        bins = metrics["calibration"]
        axes.plot([0, 1], [0, 1], color="#9aa3af", linewidth=1, linestyle="--")
        axes.plot([b["mean_probability"] for b in bins], [b["rate"] for b in bins], marker="o", color="#1f5fbf")
        axes.set(xlabel="mean probability of a tenth", ylabel="click rate", xlim=(0, 1))
        axes.set_ylim(0, 1)

    def scores(axes: Axes) -> None:
        for label, name, colour in ((0, "no click", "#9aa3af"), (1, "click", "#1f5fbf")):
            axes.hist(probabilities[labels == label], bins=40, range=(0, 1), alpha=0.6, label=name, color=colour)
        axes.set(xlabel="probability", ylabel="rows")
        axes.legend(frameon=False)

    def gain(axes: Axes) -> None:
        top = sorted(importance.items(), key=lambda item: item[1])[-15:]
        total = sum(importance.values()) or 1.0
        axes.barh([name for name, _ in top], [value / total for _, value in top], color="#1f5fbf")
        axes.set(xlabel="share of the trees' gain")

    plots = {"ROC": ranking, "Calibration": calibration, "Predicted probabilities": scores, "Importance": gain}
    return "".join(_picture(title, draw) for title, draw in plots.items())


def _picture(title: str, draw: Callable[[Axes], None]) -> str:
    # `Figure` instead of pyplot: needs no display, and shares no state with a notebook's pyplot.
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(4.4, 3.8), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        draw(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{title}" src="data:image/png;base64,{data}">'
