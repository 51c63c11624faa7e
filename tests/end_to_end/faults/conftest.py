"""Write docs/reliability.md from the results of the cells, which any worker may have run.

Cells that a run leaves out keep the result of an earlier run from pytest's cache (`--cache-clear` deletes it), so that
the matrix can be run in parts.
"""

import os
import platform
from typing import Any

import pytest

from testing.stack.fault_matrix import CELL, FAULTS, STAGES, Outcome
from testing.stack.local_run import ROOT

_CACHE = "faults/tried"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--faults"):
        return
    tried: dict[str, dict[str, Any] | None] = config.cache.get(_CACHE, {}) if config.cache else {}
    for report in terminalreporter.stats.get("passed", []):
        for stage, fault, outcome in (value for name, value in report.user_properties if name == CELL):
            tried[f"{stage}-{fault}"] = outcome
    for report in terminalreporter.stats.get("failed", []):
        tried[report.nodeid.partition("[")[2].removesuffix("]")] = None
    if config.cache:
        config.cache.set(_CACHE, tried)
    if tried:
        (ROOT / "docs" / "reliability.md").write_text(page(tried))


def page(tried: dict[str, dict[str, Any] | None]) -> str:
    """The page for the outcomes in `tried`, by `<stage>-<fault>`; None for a cell that failed."""
    survived = [Outcome(**outcome) for outcome in tried.values() if outcome]
    lines = [
        "# Reliability",
        "",
        "Each stage of `up` with each fault in it, on the sandbox, through the real engine: written by",
        "`pytest tests/end_to_end/faults --faults`. A cell says how `up` went on: `at once` if the run that met the",
        "fault succeeded, else the seconds that the next `up` took; `-` if the fault cannot be there. In every cell",
        "but those of `cloud dies`, where the endpoint dies with the cloud, a probe asked it twenty times a second.",
        "After each: one job, cluster and policy, one model version for each model trained, one live deployment, no",
        "secret in log or state.",
        "",
        f"{len(survived)} cells survived, {len(tried) - len(survived)} did not; of "
        f"{sum(outcome.asked for outcome in survived):,} requests {sum(outcome.lost for outcome in survived)} were "
        f"lost. {platform.machine()}, {os.cpu_count()} cores.",
        "",
        f"| stage | {' | '.join(fault.name for fault in FAULTS)} |",
        "| --- |" + " --- |" * len(FAULTS),
    ]
    for stage in STAGES:
        cells = [_cell(tried, f"{stage.name}-{fault.name}") if fault.fits(stage) else "-" for fault in FAULTS]
        lines.append(f"| {stage.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(tried: dict[str, dict[str, Any] | None], name: str) -> str:
    if name not in tried:
        return "not tried"
    outcome = tried[name]
    if outcome is None:
        return "**not survived**"
    return "at once" if outcome["first"] else f"{outcome['seconds']:.0f} s"
