"""One workbook: requests, errors, latency, replicas, age of the live model, training runs and refused models."""

import json
from collections.abc import Sequence

import pulumi
from pulumi_azure_native import applicationinsights

from infra.monitoring import queries

Chart = tuple[str, str, str]
"""Title, query and the step of its time axis."""

_SERVING: Sequence[Chart] = (
    ("Requests a minute", queries.REQUESTS, "1m"),
    ("Share answered 5xx", queries.ERROR_SHARE, "5m"),
    ("p99 of the slowest replica, ms", queries.P99_MS, "5m"),
    ("Replicas that run", queries.REPORTING, "5m"),
    ("Replicas that serve", queries.REPLICAS, "5m"),
    ("Share of requests without features", queries.WITHOUT_FEATURES_SHARE, "5m"),
    ("Age of the model, hours", queries.MODEL_AGE_HOURS, "1h"),
)


def charts(training_job_id: str | None) -> list[Chart]:
    """Charts of the workbook. `training_job_id` is None if the stack releases no models."""
    if training_job_id is None:
        return list(_SERVING)
    return [
        *_SERVING,
        ("Training runs that succeeded", queries.runs_succeeded(training_job_id), "1d"),
        ("Training runs that failed", queries.runs_failed(training_job_id), "1d"),
        ("Models refused by the gate", queries.MODELS_REFUSED, "1d"),
    ]


def workbook_document(workspace_id: str, training_job_id: str | None) -> str:
    """The workbook in the format of Azure's portal: https://learn.microsoft.com/azure/azure-monitor/visualize/workbooks-overview"""
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
        for title, query, step in charts(training_job_id)
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
    training_job_id: pulumi.Output[str] | None,
    parent: pulumi.Resource,
) -> None:
    applicationinsights.Workbook(
        name,
        resource_name_=workbook_name,
        resource_group_name=resource_group_name,
        # Source: azure-mgmt-applicationinsights==4.1.0
        # azure/mgmt/applicationinsights/v2023_06_01/models/_models_py3.py ("Only valid value is shared")
        kind="shared",
        # Source: hashicorp/terraform-provider-azurerm
        # internal/services/applicationinsights/application_insights_workbook_resource.go (the default)
        category="workbook",
        display_name=title,
        # Source: azure-mgmt-applicationinsights==4.1.0
        # azure/mgmt/applicationinsights/v2023_06_01/models/_models_py3.py (`version`: "like 'Notebook/1.0'")
        version="Notebook/1.0",
        source_id=workspace_id,
        serialized_data=pulumi.Output.all(workspace_id, training_job_id).apply(lambda ids: workbook_document(*ids)),
        opts=pulumi.ResourceOptions(parent=parent),
    )
