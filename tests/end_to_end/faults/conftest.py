"""docs/reliability.md, written from what the cells report, by whichever worker they were tried.

Cells that a run leaves out keep what pytest's cache has of an earlier one (`--cache-clear` forgets it), so that the
matrix can be tried in parts.
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
    """`tried`: by `<stage>-<fault>`, the outcome of a cell; None where it did not survive."""
    found = [Outcome(**outcome) for outcome in tried.values() if outcome]
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
        f"{len(found)} cells survived, {len(tried) - len(found)} did not; of {sum(each.asked for each in found):,} "
        f"requests {sum(each.lost for each in found)} were lost. {platform.machine()}, {os.cpu_count()} cores.",
        "",
        f"| stage | {' | '.join(fault.name for fault in FAULTS)} |",
        "| --- |" + " --- |" * len(FAULTS),
    ]
    for stage in STAGES:
        cells = [_said(tried, f"{stage.name}-{fault.name}") if fault.fits(stage) else "-" for fault in FAULTS]
        lines.append(f"| {stage.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _said(tried: dict[str, dict[str, Any] | None], cell: str) -> str:
    if cell not in tried:
        return "not tried"
    outcome = tried[cell]
    if outcome is None:
        return "**not survived**"
    return "at once" if outcome["first"] else f"{outcome['seconds']:.0f} s"
