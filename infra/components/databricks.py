"""The Databricks workspace for training, and the access connector that gives it access to the lake.

Does not create clusters, jobs or Unity Catalog objects, which belong to the workspace's data plane (`release/`).
Does not create the managed resource group: Databricks creates it, and its name must be free.
"""

from dataclasses import dataclass
from typing import Self

import pulumi
from pulumi_azure_native import databricks, managedidentity

from infra.components.identities import Identities
from infra.components.network import Network
from infra.config.addresses import DATABRICKS_CONTAINERS, DATABRICKS_HOSTS
from infra.config.naming import Names
from infra.config.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DatabricksArgs:
    resource_group_name: pulumi.Input[str]
    workspace_name: str
    connector_name: str
    managed_resource_group_id: str
    connector_identity: managedidentity.UserAssignedIdentity
    zone_redundant: bool
    network_id: pulumi.Input[str] | None = None
    """Network with the two subnets for clusters; None for a network that Databricks creates."""
    protect: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        resource_group_name: pulumi.Input[str],
        subscription_id: str,
        names: Names,
        identities: Identities,
        network: Network | None,
    ) -> Self:
        managed_group = f"/subscriptions/{subscription_id}/resourceGroups/{names.databricks_managed_group}"
        return cls(
            resource_group_name=resource_group_name,
            workspace_name=names.databricks_workspace,
            connector_name=names.access_connector,
            managed_resource_group_id=managed_group,
            connector_identity=identities.databricks,
            zone_redundant=settings.zone_redundant,
            network_id=network.network_id if network else None,
            protect=settings.production,
        )


class Databricks(pulumi.ComponentResource):
    connector_id: pulumi.Output[str]
    connector_identity_id: pulumi.Output[str]
    workspace_id: pulumi.Output[str]
    workspace_url: pulumi.Output[str]
    """Host name without a scheme, as Azure reports it."""
    workspace_uid: pulumi.Output[str]
    """Number of the workspace; a workspace that is created again under this name has another one.

    Source: azure-mgmt-databricks==3.0.0 azure/mgmt/databricks/models/_models.py (WorkspaceProperties.workspace_id: "The
    unique identifier of the databricks workspace in databricks control plane")
    """

    def __init__(self, name: str, args: DatabricksArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:training:Databricks", name, None, opts)
        private = args.network_id is not None
        access, rules = databricks.PublicNetworkAccess, databricks.RequiredNsgRules
        connector = databricks.AccessConnector(
            name,
            connector_name=args.connector_name,
            resource_group_name=args.resource_group_name,
            identity=databricks.ManagedServiceIdentityArgs(
                type=databricks.ManagedServiceIdentityType.USER_ASSIGNED,
                user_assigned_identities=[args.connector_identity.id],
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        workspace = databricks.Workspace(
            name,
            workspace_name=args.workspace_name,
            resource_group_name=args.resource_group_name,
            compute_mode=databricks.ComputeMode.HYBRID,
            managed_resource_group_id=args.managed_resource_group_id,
            # Source: https://learn.microsoft.com/azure/databricks/security/network/concepts/private-link (Premium plan)
            sku=databricks.SkuArgs(name="premium"),
            public_network_access=access.DISABLED if private else access.ENABLED,
            # With private link only, the rules for the public addresses of Databricks' control plane are not needed.
            required_nsg_rules=rules.NO_AZURE_DATABRICKS_RULES if private else rules.ALL_RULES,
            # Azure fills in unset parameters, and a refresh would report them as a change that replaces the workspace.
            parameters=databricks.WorkspaceCustomParametersArgs(
                enable_no_public_ip={"value": True},
                prepare_encryption={"value": False},
                require_infrastructure_encryption={"value": False},
                storage_account_sku_name={"value": "Standard_ZRS" if args.zone_redundant else "Standard_LRS"},
                custom_virtual_network_id={"value": args.network_id} if private else None,
                custom_public_subnet_name={"value": DATABRICKS_HOSTS} if private else None,
                custom_private_subnet_name={"value": DATABRICKS_CONTAINERS} if private else None,
            ),
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,
                # Azure refuses to move a workspace to another network, but the provider would try to.
                # Source: https://learn.microsoft.com/azure/databricks/security/network/classic/vnet-inject ("You can't
                # replace an existing VNet")
                replace_on_changes=["parameters.customVirtualNetworkId"],
            ),
        )
        self.connector_id = connector.id
        self.connector_identity_id = args.connector_identity.id
        self.workspace_id = workspace.id
        self.workspace_url = workspace.workspace_url
        self.workspace_uid = workspace.workspace_id
        self.register_outputs({"workspace_id": self.workspace_id, "workspace_url": self.workspace_url})
