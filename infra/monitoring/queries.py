"""Log Analytics queries over what the scoring service and Databricks write, shared by alerts and the dashboard.

Each ends in a table with a column `value`. The scoring service writes one summary a minute and replica
(`scoring/summary.py`); a replica counts as serving where it answered something.
"""

_SUMMARIES = """ContainerLogV2
| where PodNamespace == "azureml"
| extend line = parse_json(tostring(LogMessage))
| where line.message == "summary" and toint(line.requests) > 0
"""

ERROR_SHARE = _SUMMARIES + "| summarize value = todouble(sum(toint(line.errors))) / sum(toint(line.requests))"
WITHOUT_FEATURES_SHARE = (
    _SUMMARIES + "| summarize value = todouble(sum(toint(line.without_features))) / sum(toint(line.requests))"
)
P99_MS = _SUMMARIES + "| summarize value = max(todouble(line.p99_ms))"
REPLICAS = _SUMMARIES + "| summarize value = dcount(PodName)"
REQUESTS = _SUMMARIES + "| summarize value = sum(toint(line.requests))"
MODEL_AGE_HOURS = _SUMMARIES + "| summarize value = max(todouble(line.model_age_hours))"

RUNS_FAILED = """DatabricksJobs
| where ActionName == "runFailed"
| summarize value = count()"""
RUNS_SUCCEEDED = """DatabricksJobs
| where ActionName == "runSucceeded"
| summarize value = count()"""


def over_time(query: str, step: str) -> str:
    """The same figure for each `step`, such as `1m`."""
    return f"{query} by bin(TimeGenerated, {step})"
