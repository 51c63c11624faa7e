"""One user-assigned identity per actor.

Assigns the roles that must exist before the cluster; `access.py` assigns all others, so that one table shows them. Does
not create an identity for the Azure ML workspace: Trusted Access to the cluster supports only a system-assigned one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_azure_native import managedidentity

from infra.components.role_propagation import Access, RolesInEffect
from infra.components.roles import Grant, Role, assign
from infra.config.naming import Names

# Source: aztfmod/terraform-azurerm-caf#928 (the action that AKS checks)
ASSIGN_IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"
# Source: MicrosoftDocs/azure-aks-docs articles/aks/concepts-network-cni-overview.md
# (AKS CNI networking prerequisites)
JOIN_SUBNET = "Microsoft.Network/virtualNetworks/subnets/join/action"


@dataclass(frozen=True)
class IdentitiesArgs:
    resource_group_name: pulumi.Input[str]
    subscription_id: str
    names: Names
    node_subnet_id: pulumi.Input[str] | None = None
    """Subnet of the cluster's nodes; None if Azure creates the network."""


class Identities(pulumi.ComponentResource):
    cluster: managedidentity.UserAssignedIdentity
    """The Kubernetes control plane."""
    kubelet: managedidentity.UserAssignedIdentity
    """The nodes: pulls images."""
    endpoint: managedidentity.UserAssignedIdentity
    """The online endpoint: pulls the image and reads the model."""
    databricks: managedidentity.UserAssignedIdentity
    """Databricks' access connector: reads and writes the lake."""
    before_cluster: Sequence[pulumi.Resource]
    """Resources that exist once the control plane's roles are in effect. The roles let it give nodes the kubelet
    identity and join them to the subnet. Until then AKS refuses to create the cluster, with a code that azure-native
    does not retry.

    Source: aztfmod/terraform-azurerm-caf#928; hashicorp/terraform-provider-azurerm#24064
    """

    def __init__(self, name: str, args: IdentitiesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:security:Identities", name, None, opts)

        def identity(actor: str) -> managedidentity.UserAssignedIdentity:
            return managedidentity.UserAssignedIdentity(
                f"{name}-{actor}",
                resource_name_=args.names.identity(actor),
                resource_group_name=args.resource_group_name,
                opts=pulumi.ResourceOptions(parent=self),
            )

        self.cluster, self.kubelet = identity("cluster"), identity("kubelet")
        self.endpoint, self.databricks = identity("endpoint"), identity("databricks")
        cluster = self.cluster.principal_id
        needed = [Grant("cluster", Role.MANAGED_IDENTITY_OPERATOR, "kubelet", cluster, self.kubelet.id)]
        access = [Access(cluster, ASSIGN_IDENTITY, self.kubelet.id)]
        if args.node_subnet_id is not None:
            needed.append(Grant("cluster", Role.NETWORK_CONTRIBUTOR, "nodes", cluster, args.node_subnet_id))
            access.append(Access(cluster, JOIN_SUBNET, args.node_subnet_id))
        assignments = [assign(grant, args.subscription_id, self) for grant in needed]
        # Source: aztfmod/terraform-azurerm-caf#928
        waiting = pulumi.ResourceOptions(parent=self, depends_on=assignments)
        self.before_cluster = [RolesInEffect(f"{name}-cluster-roles", access, waiting)]
        self.register_outputs({})
