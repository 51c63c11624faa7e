"""Output of the cluster's containers, collected into Log Analytics by a data collection rule.

The cluster's monitoring add-on does the collecting (`kubernetes.py`). Only namespace `azureml` is collected, where the
scoring service writes one summary a minute: no log line per request, and no feature value, leaves the cluster.
"""

import pulumi
from pulumi_azure_native import monitor

_STREAM = "Microsoft-ContainerLogV2"


def collect_output(
    name: str,
    *,
    rule_name: str,
    resource_group_name: pulumi.Input[str],
    cluster_id: pulumi.Input[str],
    namespace: str,
    workspace_id: pulumi.Input[str],
    parent: pulumi.Resource,
) -> None:
    rule = monitor.DataCollectionRule(
        name,
        data_collection_rule_name=rule_name,
        resource_group_name=resource_group_name,
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
        data_flows=[monitor.DataFlowArgs(streams=[_STREAM], destinations=["workspace"])],
        opts=pulumi.ResourceOptions(parent=parent),
    )
    monitor.DataCollectionRuleAssociation(
        name,
        association_name="container-output",
        resource_uri=cluster_id,
        data_collection_rule_id=rule.id,
        opts=pulumi.ResourceOptions(parent=parent),
    )
