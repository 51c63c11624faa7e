"""One workbook: what was asked and answered, how fast, by how many replicas, with how old a model, and the training."""

import json

import pulumi
from pulumi_azure_native import applicationinsights

from infra.monitoring import queries

_CHARTS = (
    ("Requests a minute", queries.REQUESTS, "1m"),
    ("Share answered 5xx", queries.ERROR_SHARE, "5m"),
    ("p99 of the slowest replica, ms", queries.P99_MS, "5m"),
    ("Replicas that serve", queries.REPLICAS, "5m"),
    ("Share of requests without features", queries.WITHOUT_FEATURES_SHARE, "5m"),
    ("Age of the model, hours", queries.MODEL_AGE_HOURS, "1h"),
    ("Training runs that succeeded", queries.RUNS_SUCCEEDED, "1d"),
    ("Training runs that failed", queries.RUNS_FAILED, "1d"),
)


def workbook_document(workspace_id: str) -> str:
    """The workbook as Azure's portal reads it: https://learn.microsoft.com/azure/azure-monitor/visualize/workbooks-overview"""
    items = [
        {
            "type": 3,
            "name": title,
            "customWidth": "50",
            "content": {
                "version": "KqlItem/1.0",
                "title": title,
                "query": queries.over_time(query, step),
                "queryType": 0,
                "resourceType": "microsoft.operationalinsights/workspaces",
                "crossComponentResources": [workspace_id],
                "timeContext": {"durationMs": 86_400_000 * (14 if step == "1d" else 1)},
                "size": 0,
                "visualization": "timechart",
            },
        }
        for title, query, step in _CHARTS
    ]
    document = {"version": "Notebook/1.0", "items": items, "fallbackResourceIds": [workspace_id]}
    return json.dumps(document, sort_keys=True)


def declare(
    name: str,
    *,
    workbook_name: str,
    title: str,
    resource_group_name: pulumi.Input[str],
    workspace_id: pulumi.Output[str],
    parent: pulumi.Resource,
) -> None:
    applicationinsights.Workbook(
        name,
        resource_name_=workbook_name,
        resource_group_name=resource_group_name,
        kind="shared",
        category="workbook",
        display_name=title,
        version="Notebook/1.0",
        source_id=workspace_id,
        serialized_data=workspace_id.apply(workbook_document),
        opts=pulumi.ResourceOptions(parent=parent),
    )
