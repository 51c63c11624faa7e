"""docs/reliability.md, written from what the cells report, by whichever worker they were tried."""

import os
import platform
from typing import Any

import pytest
from fault_matrix import CELL, FAULTS, STAGES, Outcome
from stack_fixtures import ROOT

Found = dict[tuple[str, str], Outcome]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--faults"):
        return
    found: Found = {}
    failed: set[tuple[str, str]] = set()
    for report in terminalreporter.stats.get("passed", []):
        for stage, fault, outcome in (value for name, value in report.user_properties if name == CELL):
            found[stage, fault] = Outcome(**outcome)
    for report in terminalreporter.stats.get("failed", []):
        stage, _, fault = report.nodeid.partition("[")[2].removesuffix("]").partition("-")
        failed.add((stage, fault))
    if found:
        (ROOT / "docs" / "reliability.md").write_text(page(found, failed))


def page(found: Found, failed: set[tuple[str, str]]) -> str:
    lines = [
        "# Reliability",
        "",
        "Each stage of `up` with each fault in it, on the sandbox, through the real engine: written by",
        "`pytest tests/faults --faults`. A cell says how `up` went on: `at once` if the run that met the fault",
        "succeeded, else the seconds that the next `up` took; `-` if the fault cannot be there. In every cell but",
        "those of `cloud dies`, where the endpoint dies with the cloud, a probe asked it twenty times a second. After",
        "each: one job, one model version for each model trained, one live deployment, no secret in log or state.",
        "",
        f"{len(found)} cells survived, {len(failed)} did not; {sum(each.asked for each in found.values()):,} requests, "
        f"{sum(each.lost for each in found.values())} lost. {platform.machine()}, {os.cpu_count()} cores.",
        "",
        f"| stage | {' | '.join(fault.name for fault in FAULTS)} |",
        "| --- |" + " --- |" * len(FAULTS),
    ]
    for stage in STAGES:
        cells = []
        for fault in FAULTS:
            cell = stage.name, fault.name
            if outcome := found.get(cell):
                cells.append("at once" if outcome.first else f"{outcome.seconds:.0f} s")
            else:
                cells.append("**not survived**" if cell in failed else "not tried" if fault.fits(stage) else "-")
        lines.append(f"| {stage.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
