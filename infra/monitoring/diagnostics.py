"""Diagnostic settings: one table of the logs and metrics that each resource sends to the Log Analytics workspace.

Kubernetes sends only some categories: its whole audit log costs more than the cluster. A collection rule sends the
output of containers (`containers.py`), and Databricks' log has the training runs. The online endpoint has no
setting: Azure records the type's categories and metrics only for managed endpoints, not for one on Kubernetes.

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
        """Source of the blob service, which has the logs; the account itself has only metrics."""
        blobs = pulumi.Output.format("{0}/blobServices/default", account_id)
        return cls(blobs, group=None, categories=_BLOB_LOGS, metrics="Transaction")


def send_all(
    name: str, sources: Mapping[str, Source], workspace_id: pulumi.Input[str], parent: pulumi.Resource
) -> None:
    for resource, source in sources.items():
        logs = [monitor.DiagnosticsLogSettingsArgs(category=category, enabled=True) for category in source.categories]
        if source.group:
            logs.append(monitor.DiagnosticsLogSettingsArgs(category_group=source.group, enabled=True))
        monitor.DiagnosticSetting(
            f"{name}-{resource}",
            name="log-analytics",
            resource_uri=source.resource_id,
            workspace_id=workspace_id,
            logs=logs,
            metrics=[monitor.DiagnosticsMetricSettingsArgs(category=source.metrics, enabled=True)]
            if source.metrics
            else None,
            # Azure fills in a destination type if none is set.
            # No source: `az monitor diagnostic-settings show` of a setting that was written without one.
            opts=pulumi.ResourceOptions(parent=parent, ignore_changes=["logAnalyticsDestinationType"]),
        )
