"""Log Analytics queries shared by the alert rules and the dashboard. Each returns a table with one column `value`.

The scoring service writes one summary per minute and replica (`scoring/summary.py`), Databricks its own audit log, and
the lake a log of its requests. The scale of a chart's time axis is added by `over_time`.

A query starts with a table and uses neither `union` nor `search`: Azure Monitor supports them in alert rules across
workspaces only. So a table must exist before a rule reads it, which `log_workspace.py` sees to.
Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/alerts/alerts-log-query.md
"""

LOGGER = "scoring.summary"
"""Field `logger` of a summary line."""

# `LogMessage` is dynamic: the line arrives as an object or, from older agents, as text. This reads both.
# Source: MicrosoftDocs/azure-reference-other azure-monitor-ref/tables/includes/containerlogv2-include.md
_SUMMARIES = f"""ContainerLogV2
| where PodNamespace == "azureml"
| extend line = parse_json(tostring(LogMessage))
| where tostring(line.logger) == "{LOGGER}"
"""
_ANSWERED = _SUMMARIES + "| where toint(line.requests) > 0\n"

ERROR_SHARE = _ANSWERED + "| summarize value = todouble(sum(toint(line.errors))) / sum(toint(line.requests))"
WITHOUT_FEATURES_SHARE = (
    _ANSWERED + "| summarize value = todouble(sum(toint(line.without_features))) / sum(toint(line.requests))"
)
P99_MS = _ANSWERED + "| summarize value = max(todouble(line.p99_ms))"
REPLICAS = _ANSWERED + "| summarize value = dcount(PodName)"
REQUESTS = _ANSWERED + "| summarize value = sum(toint(line.requests))"
MODEL_AGE_HOURS = _ANSWERED + "| summarize value = max(todouble(line.model_age_hours))"
REPORTING = _SUMMARIES + "| summarize value = dcount(PodName)"
"""Replicas that run, whether or not they answered anything: an idle replica writes its line too."""

# The artefact's marker of a refused model (`cloud/artefact.py`) is uploaded in one request.
# Source: MicrosoftDocs/azure-reference-other azure-monitor-ref/tables/includes/storagebloblogs-include.md
MODELS_REFUSED = """StorageBlobLogs
| where OperationName == "PutBlob" and StatusText == "Success" and Uri has "refused.json"
| summarize value = count()"""

FINAL_TASK = "train"
"""A run of the training job succeeds with this task, the last one (`release/training_stage/job.py`)."""


def runs_failed(job_id: str) -> str:
    """Failed runs of one job. Databricks logs the end of every task, with the run it belongs to as its parent."""
    return (
        _ended(job_id, "runFailed")
        + "| extend parent = tostring(run.multitaskParentRunId)\n"
        + "| summarize value = dcount(iff(isempty(parent), tostring(run.runId), parent))"
    )


def runs_succeeded(job_id: str) -> str:
    return (
        _ended(job_id, "runSucceeded")
        + f'| where tostring(run.taskKey) == "{FINAL_TASK}"\n'
        + "| summarize value = dcount(tostring(run.runId))"
    )


def _ended(job_id: str, action: str) -> str:
    """Ends of tasks of one job. A workspace may run other jobs.

    Source: https://learn.microsoft.com/azure/databricks/admin/account-settings/audit-logs (job events)
    """
    return f"""DatabricksJobs
| where ActionName == "{action}"
| extend run = parse_json(RequestParams)
| where tostring(run.jobId) == "{job_id}"
"""


def over_time(query: str, step: str) -> str:
    """The same figure for each `step`, such as `1m`."""
    return f"{query} by bin(TimeGenerated, {step})"
