"""Store of logs and traces: a Log Analytics workspace with the tables that rules read, and Application Insights on it.

Does not declare the sources that send data to it: `observability.py` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pulumi
from pulumi_azure_native import applicationinsights, operationalinsights

from infra.config.naming import Names

TABLES = ("ContainerLogV2", "DatabricksJobs", "StorageBlobLogs")
"""Tables that alert rules or a data collection rule name. Azure Monitor creates a table with its first row; a rule that
names it earlier is refused (data collection), or fails and is disabled after a week (alerts), so they are declared.

Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/platform/diagnostic-settings.md
Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/alerts/alerts-troubleshoot-log.md
Source: hashicorp/terraform-provider-azurerm#28709; mspnp/aks-baseline workload-team/acr-stamp.bicep
"""


@dataclass(frozen=True, kw_only=True)
class LogWorkspaceArgs:
    resource_group_name: pulumi.Input[str]
    workspace_name: str
    component_name: str
    retention_days: int = 30

    @classmethod
    def of(cls, resource_group_name: pulumi.Input[str], names: Names) -> Self:
        return cls(
            resource_group_name=resource_group_name,
            workspace_name=names.log_analytics,
            component_name=names.application_insights,
        )


class LogWorkspace(pulumi.ComponentResource):
    workspace_id: pulumi.Output[str]
    component_id: pulumi.Output[str]
    tables: Sequence[operationalinsights.Table]

    def __init__(self, name: str, args: LogWorkspaceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        # The type token is in the state of every stack, so it keeps the class's earlier name.
        super().__init__("personalization:operations:Monitoring", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        workspace = operationalinsights.Workspace(
            name,
            workspace_name=args.workspace_name,
            resource_group_name=args.resource_group_name,
            sku=operationalinsights.WorkspaceSkuArgs(name=operationalinsights.WorkspaceSkuNameEnum.PER_GB2018),
            retention_in_days=args.retention_days,
            features=operationalinsights.WorkspaceFeaturesArgs(disable_local_auth=True),
            opts=child,
        )
        component = applicationinsights.Component(
            name,
            resource_name_=args.component_name,
            resource_group_name=args.resource_group_name,
            # Source: azure-mgmt-applicationinsights==4.1.0
            # azure/mgmt/applicationinsights/v2020_02_02/models/_models_py3.py ("freeform", typically `web`)
            kind="web",
            application_type=applicationinsights.ApplicationType.WEB,
            ingestion_mode=applicationinsights.IngestionMode.LOG_ANALYTICS,
            workspace_resource_id=workspace.id,
            # With local authentication every holder of the key can write telemetry: MicrosoftDocs/azure-monitor-docs
            # articles/azure-monitor/app/azure-ad-authentication.md, "Disable local authentication".
            disable_local_auth=True,
            opts=pulumi.ResourceOptions(
                parent=self, additional_secret_outputs=["connection_string", "instrumentation_key"]
            ),
        )
        self.tables = [
            operationalinsights.Table(
                f"{name}-{table}",
                table_name=table,
                workspace_name=workspace.name,
                resource_group_name=args.resource_group_name,
                plan=operationalinsights.TablePlanEnum.ANALYTICS,
                # Azure's own tables cannot be deleted; Azure deletes them with the workspace.
                # Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/logs/create-custom-table.md
                opts=pulumi.ResourceOptions(parent=self, retain_on_delete=True),
            )
            for table in TABLES
        ]
        self.workspace_id = workspace.id
        self.component_id = component.id
        self.register_outputs({"workspace_id": self.workspace_id, "component_id": self.component_id})
