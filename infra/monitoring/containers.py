"""Output of the cluster's containers, collected into Log Analytics by a data collection rule.

The cluster's monitoring add-on collects it (`aks/cluster.py`). The namespace filter of a rule does not apply to
`ContainerLogV2`, so the agents send the output of every container outside the system namespaces to Azure Monitor. There
the rule's transformation keeps the scoring service's summaries, one line per minute and replica, and drops the rest
before it is stored: no line per request and no output of the router or of other pods is stored or can be queried.
Dropped data beyond half of the incoming data is billed as processed. Only a ConfigMap in the cluster, which this
program does not write, could filter the data on the nodes.

Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/containers/container-insights-data-collection-filter.md
Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/containers/container-insights-transformations.md
Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/data-collection/data-collection-transformations.md
"""

from collections.abc import Sequence

import pulumi
from pulumi_azure_native import monitor

from infra.monitoring.queries import LOGGER

_STREAM = "Microsoft-ContainerLogV2"
# Source: microsoft/Docker-Provider scripts/onboarding/aks/onboarding-using-msi-auth/existingClusterOnboarding.json
_ASSOCIATION = "ContainerInsightsExtension"


def summaries_only(namespace: str) -> str:
    """Transformation of the stream, on one line. Its result has the table's columns and no others.

    Source: https://learn.microsoft.com/azure/azure-monitor/data-collection/data-collection-transformations-kql
    """
    return (
        f"source | where PodNamespace == '{namespace}'"
        " | extend line = parse_json(tostring(LogMessage))"
        f" | where tostring(line.logger) == '{LOGGER}'"
        " | project-away line"
    )


def collect_output(
    name: str,
    *,
    rule_name: str,
    resource_group_name: pulumi.Input[str],
    cluster_id: pulumi.Input[str],
    namespace: str,
    workspace_id: pulumi.Input[str],
    tables: Sequence[pulumi.Resource],
    parent: pulumi.Resource,
) -> None:
    """`tables` of the workspace must exist: a rule whose output table does not is refused."""
    rule = monitor.DataCollectionRule(
        name,
        data_collection_rule_name=rule_name,
        resource_group_name=resource_group_name,
        # Source: microsoft/Docker-Provider
        # scripts/onboarding/aks/onboarding-using-msi-auth/existingClusterOnboarding.json (kind, extension and names)
        kind="Linux",
        data_sources=monitor.DataCollectionRuleDataSourcesArgs(
            extensions=[
                monitor.ExtensionDataSourceArgs(
                    name="ContainerInsightsExtension",
                    extension_name="ContainerInsights",
                    streams=[_STREAM],
                    extension_settings={
                        "dataCollectionSettings": {
                            "interval": "1m",
                            "namespaceFilteringMode": "Include",
                            "namespaces": [namespace],
                            "enableContainerLogV2": True,
                        }
                    },
                )
            ]
        ),
        destinations=monitor.DataCollectionRuleDestinationsArgs(
            log_analytics=[monitor.LogAnalyticsDestinationArgs(name="workspace", workspace_resource_id=workspace_id)]
        ),
        data_flows=[
            monitor.DataFlowArgs(streams=[_STREAM], destinations=["workspace"], transform_kql=summaries_only(namespace))
        ],
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(tables)),
    )
    monitor.DataCollectionRuleAssociation(
        name,
        association_name=_ASSOCIATION,
        resource_uri=cluster_id,
        data_collection_rule_id=rule.id,
        opts=pulumi.ResourceOptions(parent=parent),
    )
