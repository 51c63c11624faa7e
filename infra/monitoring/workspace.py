"""Where logs and traces go: a Log Analytics workspace and an Application Insights component over it.

Does not declare what is sent here: `watch.py` does.
"""

from dataclasses import dataclass

import pulumi
from pulumi_azure_native import applicationinsights, operationalinsights


@dataclass(frozen=True)
class MonitoringArgs:
    resource_group_name: pulumi.Input[str]
    workspace_name: str
    component_name: str
    retention_days: int = 30


class Monitoring(pulumi.ComponentResource):
    workspace_id: pulumi.Output[str]
    component_id: pulumi.Output[str]

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
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
            kind="web",
            application_type=applicationinsights.ApplicationType.WEB,
            ingestion_mode=applicationinsights.IngestionMode.LOG_ANALYTICS,
            workspace_resource_id=workspace.id,
            # Without it, whoever has the key writes telemetry: MicrosoftDocs/azure-monitor-docs
            # articles/azure-monitor/app/azure-ad-authentication.md, "Disable local authentication".
            disable_local_auth=True,
            opts=pulumi.ResourceOptions(
                parent=self, additional_secret_outputs=["connection_string", "instrumentation_key"]
            ),
        )
        self.workspace_id = workspace.id
        self.component_id = component.id
        self.register_outputs({"workspace_id": self.workspace_id, "component_id": self.component_id})
