"""Every query of alerts, dashboard and collection rule, parsed and type-checked by Microsoft's parser of KQL.

It is the language service of Microsoft's Kusto editors (npm `@kusto/language-service-next`), given the documented
columns of the tables. Skipped without Node.js; `test_queries.py` runs the same queries without it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.components.inference import NAMESPACE
from infra.config.settings import AlertSettings
from infra.monitoring import dashboard, queries
from infra.monitoring.alerts import log_alerts
from infra.monitoring.containers import summaries_only
from infra.monitoring.log_workspace import TABLES
from testing.arm.kusto_tables import columns

PACKAGE, VERSION = "@kusto/language-service-next", "12.4.1"
SCRIPT = Path(__file__).parents[3] / "testing" / "arm" / "kusto_diagnostics.js"
JOB = "708062954842468"


@dataclass(frozen=True)
class Checked:
    faults: list[str]
    columns: dict[str, str]


Checker = Callable[[list[str]], list[Checked]]


@pytest.fixture(scope="module")
def check() -> Checker:
    """Installed once into the user's cache: 31 MB, one package."""
    if not (node := shutil.which("node")) or not (npm := shutil.which("npm")):
        pytest.skip("node and npm are not installed, so Kusto's own parser cannot run")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personalization-azure"
    library = cache / f"kusto-{VERSION}" / "node_modules" / PACKAGE
    if not library.exists():
        library.parents[2].mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(library.parents[2])]
        installed = subprocess.run([*command, f"{PACKAGE}@{VERSION}"], capture_output=True, text=True, timeout=300)
        if installed.returncode:
            pytest.skip(f"{PACKAGE} could not be installed: {installed.stderr.strip()[-300:]}")

    def checked(texts: list[str]) -> list[Checked]:
        tables = {**columns(), "source": columns()["ContainerLogV2"]}
        question = json.dumps({"library": str(library), "tables": tables, "queries": texts})
        run = subprocess.run([node, str(SCRIPT)], input=question, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return [Checked(found["faults"], dict(found["columns"])) for found in json.loads(run.stdout)]

    return checked


def test_queries_of_alert_rules_have_no_fault_and_measure_a_number(check: Checker) -> None:
    alerts = log_alerts(AlertSettings(), 2, 4, releases=True)
    texts = [alert.query if isinstance(alert.query, str) else alert.query(JOB) for alert in alerts]
    for alert, checked in zip(alerts, check(texts), strict=True):
        assert checked.faults == [], alert.subject
        assert checked.columns in ({"value": "long"}, {"value": "real"}), alert.subject


def test_queries_of_the_dashboard_have_no_fault_and_a_time_axis(check: Checker) -> None:
    charts = dashboard.charts(JOB)
    for (title, *_), checked in zip(charts, check([queries.over_time(q, step) for _, q, step in charts]), strict=True):
        assert checked.faults == [], title
        assert checked.columns["TimeGenerated"] == "datetime", title


def test_transformation_has_no_fault_and_returns_the_columns_of_its_table(check: Checker) -> None:
    (checked,) = check([summaries_only(NAMESPACE)])
    assert checked.faults == []
    assert checked.columns == columns()["ContainerLogV2"]


def test_declared_tables_are_those_that_rules_read() -> None:
    alerts = log_alerts(AlertSettings(), 2, 4, releases=True)
    texts = [alert.query if isinstance(alert.query, str) else alert.query(JOB) for alert in alerts]
    assert {text.split("\n")[0] for text in texts} == set(TABLES) == columns().keys()


def test_checker_finds_unknown_names_wrong_types_and_wrong_syntax(check: Checker) -> None:
    found = check(
        [
            "ContainerLogV2 | where PodNamspace == 'a'",
            "ContainerLogV2 | where PodName > 3",
            "ContainerLogV2 | sumarize value = count()",
            "ContainerLogs | count",
        ]
    )
    expected = ["KS142", "KS106", "KS176", "KS204"]
    assert [checked.faults[0].split()[0] for checked in found] == expected
