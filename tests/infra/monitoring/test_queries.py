"""Evaluation of alert rules: the KQL text of each rule runs on rows that should fire it and on rows that should not.

`duckdb-kql` executes KQL with the grammar of Kusto. Rows of `ContainerLogV2` hold the lines that the scoring service
itself writes; rows of Azure's logs have the documented columns, and the values of logged events that were published.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from typing import Any

import duckdb_kql
import pytest

from infra.components.inference import NAMESPACE
from infra.config.settings import AlertSettings
from infra.monitoring import dashboard, queries
from infra.monitoring.alerts import LogAlert, log_alerts
from infra.monitoring.containers import summaries_only
from infra.release.training_stage.job import JobSpec, job_settings
from scoring.logs import JsonFormatter
from scoring.summary import Summary
from testing.arm.kusto_tables import columns

LIMITS = AlertSettings()
JOB, OTHER_JOB = "708062954842468", "7"
REPLICAS_MIN, REPLICAS_MAX = 2, 4
ALERTS = {alert.subject: alert for alert in log_alerts(LIMITS, REPLICAS_MIN, REPLICAS_MAX, releases=True)}

Row = dict[str, Any]
_RUN_IDS = count(236466838801020)
_KINDS = {"string": "VARCHAR", "dynamic": "JSON", "real": "DOUBLE", "long": "BIGINT", "int": "INTEGER"}


@cache
def translated(query: str) -> str:
    """The query as SQL, kept because the translation takes longer than the query."""
    return duckdb_kql.to_sql(query, schema={table: list(found) for table, found in columns().items()})


class Workspace:
    """A Log Analytics workspace with the documented tables."""

    def __init__(self) -> None:
        self.connection = duckdb_kql.connect()
        for table, found in columns().items():
            declared = ", ".join(f'"{name}" {_KINDS.get(kind, "TIMESTAMP")}' for name, kind in found.items())
            self.connection.execute(f'CREATE TABLE "{table}" ({declared})')

    @staticmethod
    @cache
    def shared() -> "Workspace":
        return Workspace()

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Workspace":
        """The one workspace of this file, emptied first."""
        workspace = cls.shared()
        for table in columns():
            workspace.connection.execute(f'DELETE FROM "{table}"')
        workspace.insert(rows)
        return workspace

    def insert(self, rows: Sequence[Row]) -> None:
        for row in rows:
            row = {"TimeGenerated": datetime.now(UTC).replace(tzinfo=None), **row}
            names = [name for name in row if name != "Type"]
            unknown = set(names) - set(columns()[row["Type"]])
            assert not unknown, f"{row['Type']} has no column {unknown}"
            marks = ", ".join("?" * len(names))
            quoted = ", ".join(f'"{name}"' for name in names)
            self.connection.execute(
                f'INSERT INTO "{row["Type"]}" ({quoted}) VALUES ({marks})', [row[name] for name in names]
            )

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.connection.execute(translated(query)).fetchall()
        return found


def query_of(alert: LogAlert) -> str:
    return alert.query if isinstance(alert.query, str) else alert.query(JOB)


def fires(alert: LogAlert, rows: Sequence[Row]) -> bool:
    """Evaluate the rule on the rows of one window, as Azure Monitor does: the highest `value` against the threshold."""
    values = [value for (value,) in Workspace.of(rows).ask(query_of(alert)) if value is not None]
    compare: dict[str, Callable[[float, float], bool]] = {
        "GreaterThan": lambda value, limit: value > limit,
        "GreaterThanOrEqual": lambda value, limit: value >= limit,
        "LessThan": lambda value, limit: value < limit,
    }
    return any(compare[alert.operator](value, alert.threshold) for value in values)


def line(logger: str, message: str, **fields: Any) -> str:
    """A line of the scoring service, from its formatter."""
    record = logging.LogRecord(logger, logging.INFO, __file__, 1, message, None, None)
    record.fields = fields
    return JsonFormatter().format(record)


def pod(name: str, text: str, namespace: str = NAMESPACE) -> Row:
    """A line of output. `LogMessage` is dynamic: an object where the line is JSON, else a text."""
    return {
        "Type": "ContainerLogV2",
        "PodName": name,
        "PodNamespace": namespace,
        "ContainerName": "inference-server",
        "LogSource": "stderr",
        "LogMessage": text if text.startswith("{") else json.dumps(text),
    }


def replica(
    name: str, *, answers: int = 100, errors: int = 0, seconds: float = 0.01, empty: int = 0, age: float | None = 1.0
) -> Row:
    """The summary of one minute, written by the service's own class."""
    trained = None if age is None else datetime.now(UTC) - timedelta(hours=age)
    summary = Summary("clicks:3", trained)
    for number in range(answers):
        summary.observe(503 if number < errors else 200, seconds)
    summary.without_features = empty
    return pod(name, line("scoring.summary", "summary", **summary.take()))


def task(key: str, action: str, job: str = JOB, parent: int | None = None) -> Row:
    """The end of a task, as Databricks logs it.

    Source: https://learn.microsoft.com/azure/databricks/admin/account-settings/audit-logs (job events)
    """
    run_id = str(next(_RUN_IDS))
    params = {
        "runCreatorUserName": "00000000-0000-0000-0000-000000000030",
        "clusterId": "0515-155604-z497szkq",
        "idInJob": run_id,
        "jobClusterType": "new",
        "jobId": job,
        "jobTerminalState": "Succeeded" if action == "runSucceeded" else "Failed",
        "taskKey": key,
        "jobTriggerType": "cron",
        "jobTaskType": "pythonWheel",
        "runId": run_id,
    }
    if parent is not None:
        params["multitaskParentRunId"] = str(parent)
    return {
        "Type": "DatabricksJobs",
        "ActionName": action,
        "OperationName": f"Microsoft.Databricks/jobs/{action}",
        "ServiceName": "jobs",
        "Category": "jobs",
        "Identity": '{"email":"System-User","subjectName":null}',
        "RequestParams": json.dumps(params),
        "Response": '{"statusCode":200}',
    }


def blob(name: str, operation: str = "PutBlob", status: str = "Success") -> Row:
    return {
        "Type": "StorageBlobLogs",
        "AccountName": "lake",
        "Category": "StorageWrite",
        "OperationName": operation,
        "StatusText": status,
        "Uri": f"https://lake.blob.core.windows.net:443/models/42/{name}",
        "ObjectKey": f'"/lake/models/42/{name}"',
    }


_BROKEN = replica("clicks-0", errors=50)
AS_TEXT = {**_BROKEN, "LogMessage": json.dumps(_BROKEN["LogMessage"])}
"""A JSON line that arrived as text, not as an object."""
HEALTHY = [replica(f"clicks-{number}") for number in range(REPLICAS_MIN)]
TRAINED = [task("prepare", "runSucceeded", parent=1), task("train", "runSucceeded", parent=1)]
QUIET: Sequence[Row] = [
    *HEALTHY,
    *TRAINED,
    blob("verdict.json"),
    blob("refused.json", operation="GetBlob"),
    pod("azureml-fe-1", "GET /score 503"),
    pod("clicks-0", line("scoring.server", "started", requests=9, errors=9)),
    pod("shop-1", line("scoring.summary", "summary", requests=9, errors=9), namespace="shop"),
    task("train", "runFailed", job=OTHER_JOB),
]

FIRING: dict[str, list[Sequence[Row]]] = {
    "errors": [[replica("clicks-0", answers=200, errors=3), replica("clicks-1", answers=10)], [AS_TEXT]],
    "latency": [[replica("clicks-0"), replica("clicks-1", seconds=LIMITS.p99_ms / 1000 + 0.01)]],
    "replicas": [[replica(f"clicks-{number}") for number in range(REPLICAS_MAX)]],
    "features": [[replica("clicks-0", empty=100)]],
    "model-age": [[replica("clicks-0"), replica("clicks-1", age=LIMITS.model_age_days * 24 + 1)]],
    "silent": [[], [replica("clicks-0")] * REPLICAS_MIN, [pod("azureml-fe-1", "no replica"), replica("clicks-0")]],
    "training-failed": [[task("prepare", "runFailed", parent=1)], [task("train", "runFailed", parent=1)]],
    "training-late": [
        [],
        [task("prepare", "runSucceeded", parent=1), task("train", "runFailed", parent=1)],
        [task("train", "runSucceeded", job=OTHER_JOB, parent=1)],
    ],
    "model-refused": [[blob("verdict.json"), blob("refused.json")]],
}
SILENT: dict[str, list[Sequence[Row]]] = {
    "errors": [[], [replica("clicks-0", answers=0)], [replica("clicks-0", answers=400, errors=1)]],
    "latency": [[], [replica("clicks-0", answers=0)]],
    "replicas": [
        [*(replica(f"clicks-{n}") for n in range(REPLICAS_MAX - 1)), replica("clicks-9", answers=0)],
        [replica("clicks-0")] * REPLICAS_MAX,
    ],
    "features": [[], [replica("clicks-0", answers=0)]],
    "model-age": [[], [replica("clicks-0", age=None)]],
    "silent": [[replica(f"clicks-{number}", answers=0) for number in range(REPLICAS_MIN)]],
    "training-failed": [[]],
    "training-late": [TRAINED],
    "model-refused": [[], [blob("refused.json", status="AuthorizationFailure")]],
}
EXAMPLES = [(subject, True, rows) for subject, cases in FIRING.items() for rows in cases] + [
    (subject, False, rows) for subject, cases in SILENT.items() for rows in cases
]


def test_every_rule_has_rows_that_fire_it_and_rows_that_do_not() -> None:
    assert FIRING.keys() == SILENT.keys() == ALERTS.keys()


@pytest.mark.parametrize(("subject", "expected", "rows"), EXAMPLES)
def test_alert_rule_fires_on_rows_of_its_failure_and_on_no_others(
    subject: str, expected: bool, rows: Sequence[Row]
) -> None:
    assert fires(ALERTS[subject], rows) is expected


@pytest.mark.parametrize("subject", sorted(ALERTS))
def test_normal_day_fires_no_alert(subject: str) -> None:
    assert not fires(ALERTS[subject], QUIET)


def test_training_succeeds_with_the_last_task_of_the_job() -> None:
    texts = {name: "" for name, kind in JobSpec.__annotations__.items() if kind in (str, "str")}
    numbers: dict[str, Any] = {"workers": 2, "timeout_minutes": 9, "spot": False, "schedule_enabled": True, "tags": {}}
    tasks = job_settings(JobSpec(**texts, **numbers))["tasks"]
    earlier = {dependency["task_key"] for found in tasks for dependency in found.get("depends_on", ())}
    assert [found["task_key"] for found in tasks if found["task_key"] not in earlier] == [queries.FINAL_TASK]


def test_only_summaries_of_the_service_are_stored_and_with_the_tables_columns() -> None:
    kept = [*HEALTHY, replica("clicks-9", answers=0)]
    dropped = [row for row in QUIET if row["Type"] == "ContainerLogV2" and row not in HEALTHY]
    assert len(dropped) == 3
    workspace = Workspace.of([*kept, *dropped])
    incoming = summaries_only(NAMESPACE).replace("source", "ContainerLogV2", 1)
    stored = workspace.connection.sql(translated(incoming))
    assert set(stored.columns) == set(columns()["ContainerLogV2"])
    names = stored.columns.index("PodName")
    assert sorted(row[names] for row in stored.fetchall()) == sorted(row["PodName"] for row in kept)


def charted() -> Iterator[tuple[str, str]]:
    for title, query, step in dashboard.charts(JOB):
        yield title, queries.over_time(query, step)


@pytest.mark.parametrize(("title", "query"), list(charted()))
def test_chart_shows_its_figure_over_time(title: str, query: str) -> None:
    workspace = Workspace.of([*HEALTHY, *TRAINED, task("train", "runFailed"), blob("refused.json")])
    points = workspace.ask(query)
    assert len(points) == 1
    when, value = points[0]
    assert isinstance(when, datetime)
    assert value is not None
