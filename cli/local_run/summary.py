"""The table at the end of a local run."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cli.local_run.command import LocalRunSummary


def show(summary: LocalRunSummary, console: Console) -> None:
    """Print the summary as a table."""
    outputs, metrics = summary.outputs, summary.outputs["metrics"]
    table = Table(box=box.SIMPLE, show_header=False, title="Local run", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("stages", "\n".join(f"{seconds:6.1f} s  {title}" for title, seconds in summary.stages))
    table.add_row("endpoint", outputs["scoring_uri"])
    table.add_row("model", f"{outputs['model_name']}:{outputs['model_version']} (run {outputs['training_run_id']})")
    if metrics.get("synthetic"):
        table.add_row("data", "SYNTHETIC rows: the figures below do not predict those of real clicks")
    table.add_row(
        "quality",
        f"AUC {metrics['auc']:.4f}, log loss {metrics['log_loss']:.4f} (base rate {metrics['base_rate']:.4f} alone: "
        f"{metrics['base_log_loss']:.4f}), calibration gap {metrics['calibration_gap']:.4f}, "
        f"on the last {metrics['rows_test']:,.0f} rows by time",
    )
    table.add_row("compared", _compared(metrics))
    table.add_row("gate", f"passed, {len(metrics['gate'])} rules")
    table.add_row("three rows", "\n".join(f"{line['served']:.6f}  {_short(line['row'])}" for line in summary.scored))
    if summary.ranking:
        table.add_row(
            f"top {len(summary.ranking)} for user {summary.user}",
            "\n".join(f"{item['probability']:.4f}  {item['title']} ({item['id']})" for item in summary.ranking),
        )
    count = len(summary.latencies)
    table.add_row(
        "latency",
        f"p50 {summary.latencies[count // 2]:.2f} ms, p99 {summary.latencies[count * 99 // 100]:.2f} ms "
        f"({count} single rows, one after the other)",
    )
    table.add_row("model card", "personalization dashboard  (in the lake it can be read only with a token)")
    table.add_row("tracking", summary.tracking)
    table.add_row(
        "next",
        "personalization dashboard  (shows the stack in a browser)\npersonalization score\n"
        "personalization rank --user <id>\nmake local-down  (destroys the stack and stops the sandbox)",
    )
    console.print(table)


def _compared(metrics: Mapping[str, Any]) -> str:
    baseline, live = metrics["baseline"], metrics.get("live")  # the engine drops null values
    lines = [
        f"logistic regression on the same features: AUC {baseline['auc']:.4f}, log loss {baseline['log_loss']:.4f}"
    ]
    if live and "skipped" not in live:
        low, high = live["auc_change_interval"]
        lines.append(
            f"previous live model (run {live['run_id']}): AUC {live['auc']:.4f}, change {low:+.4f} to {high:+.4f}"
        )
    return "\n".join(lines)


def _short(row: dict[str, object]) -> str:
    text = ", ".join(f"{name}={value}" for name, value in row.items() if value is not None)
    return text if len(text) <= 100 else text[:99] + "…"
