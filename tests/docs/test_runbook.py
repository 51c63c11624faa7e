"""docs/runbook.md has one section for each alert that the program declares, and its queries read the alerts' tables."""

import re
from pathlib import Path

import pytest

from infra.config.settings import Settings
from infra.monitoring import queries
from infra.monitoring.log_workspace import TABLES
from testing.stack.infra_graph import Graph, graph

PAGE = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
PARTS = ("**Symptom.**", "**Likely causes.**", "**Look.**", "**Do.**", "**Do not act**")


@pytest.fixture(scope="module")
def program() -> Graph:
    emails = '["platform@example.com"]'
    return graph(personalization__production="true", alerts__emails=emails, budget__monthly="2500")


def test_alerts_of_the_program_and_sections_match(program: Graph) -> None:
    log_alerts = [rule.inputs["displayName"] for rule in program.of("monitor:ScheduledQueryRule")]
    named = [alert.inputs["ruleName"] for alert in program.of("monitor:MetricAlert")]
    named += [budget.inputs["budgetName"] for budget in program.of("consumption:Budget")]
    expected = {*log_alerts, *(name.partition("-pers-")[0] for name in named)}
    assert len(expected) > 3
    assert SECTIONS.keys() == expected


@pytest.mark.parametrize("alert", SECTIONS)
def test_section_has_all_parts_in_order(alert: str) -> None:
    positions = [SECTIONS[alert].find(part) for part in PARTS]
    assert -1 not in positions
    assert positions == sorted(positions)


def test_queries_read_the_same_tables_and_log_lines_as_the_alerts() -> None:
    (summaries,) = re.findall(r"SUMMARIES='([^']+)'", PAGE)
    assert " ".join(queries.REPORTING.split()).startswith(summaries)
    asked = re.findall(r"""ask (?:'|")(\S+)""", PAGE)
    assert len(asked) > 5
    assert {*asked} <= {"$SUMMARIES", *TABLES}


def test_settings_of_the_page_exist() -> None:
    settings = re.findall(r"`([a-z]+):([a-z_0-9]+)`", PAGE)
    assert len(settings) > 15
    for group, name in settings:
        assert name in type(Settings.model_fields[group].default).model_fields, f"{group}:{name}"
