"""Diagnostic settings: which logs and metrics of which resource go to the Log Analytics workspace, as one table.

Kubernetes sends chosen categories alone: its whole audit log costs more than the cluster. Container output comes by a
collection rule (`containers.py`), training runs by Databricks' own log. The online endpoint has no setting: the type's
categories and metrics are recorded for managed endpoints, and monitoring one on Kubernetes is left to its owner.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-endpoints-online.md
Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/reference/logs-index.md
Source: Azure/azure-policy built-in-policies/policySetDefinitions/Monitoring (`AzureMonitor_DiagSettings_*`: the groups)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_azure_native import monitor

ALL_LOGS = "allLogs"
_BLOB_LOGS = ("StorageRead", "StorageWrite", "StorageDelete")
_CLUSTER_LOGS = ("kube-audit-admin", "guard", "cluster-autoscaler", "cloud-controller-manager")


@dataclass(frozen=True)
class Source:
    resource_id: pulumi.Input[str]
    group: str | None = ALL_LOGS
    """Category group of the logs."""
    categories: tuple[str, ...] = ()
    metrics: str | None = "AllMetrics"

    @classmethod
    def cluster(cls, resource_id: pulumi.Input[str]) -> "Source":
        return cls(resource_id, group=None, categories=_CLUSTER_LOGS)

    @classmethod
    def blobs(cls, account_id: pulumi.Input[str]) -> "Source":
        """Storage logs belong to its services; of the account itself there are metrics alone."""
        blobs = pulumi.Output.format("{0}/blobServices/default", account_id)
        return cls(blobs, group=None, categories=_BLOB_LOGS, metrics="Transaction")


def send_all(
    name: str, sources: Mapping[str, Source], workspace_id: pulumi.Input[str], parent: pulumi.Resource
) -> None:
    for what, source in sources.items():
        logs = [monitor.DiagnosticsLogSettingsArgs(category=category, enabled=True) for category in source.categories]
        if source.group:
            logs.append(monitor.DiagnosticsLogSettingsArgs(category_group=source.group, enabled=True))
        monitor.DiagnosticSetting(
            f"{name}-{what}",
            name="log-analytics",
            resource_uri=source.resource_id,
            workspace_id=workspace_id,
            logs=logs,
            metrics=[monitor.DiagnosticsMetricSettingsArgs(category=source.metrics, enabled=True)]
            if source.metrics
            else None,
            # Azure fills a destination type in where none is given.
            # No source: `az monitor diagnostic-settings show` of a setting that was written without one.
            opts=pulumi.ResourceOptions(parent=parent, ignore_changes=["logAnalyticsDestinationType"]),
        )
