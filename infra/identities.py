"""One user-assigned identity per actor of the serving side.

Assigns the one role that must exist before the cluster; `access.py` owns all others, so that who may do what is read
in one place.
Does not make identities for Databricks and Azure ML: their access connector and workspace carry their own.
"""

from dataclasses import dataclass

import pulumi
from pulumi_azure_native import managedidentity

from infra.naming import Names
from infra.roles import Grant, Role, assign


@dataclass(frozen=True)
class IdentitiesArgs:
    resource_group_name: pulumi.Input[str]
    subscription_id: str
    names: Names


class Identities(pulumi.ComponentResource):
    cluster: managedidentity.UserAssignedIdentity
    """The Kubernetes control plane."""
    kubelet: managedidentity.UserAssignedIdentity
    """The nodes: pulls images."""
    endpoint: managedidentity.UserAssignedIdentity
    """The online endpoint: pulls the image and reads the model."""
    kubelet_operator: pulumi.Resource
    """Lets the control plane give nodes the kubelet identity."""

    def __init__(self, name: str, args: IdentitiesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:security:Identities", name, None, opts)

        def identity(actor: str) -> managedidentity.UserAssignedIdentity:
            return managedidentity.UserAssignedIdentity(
                f"{name}-{actor}",
                resource_name_=args.names.identity(actor),
                resource_group_name=args.resource_group_name,
                opts=pulumi.ResourceOptions(parent=self),
            )

        self.cluster, self.kubelet, self.endpoint = identity("cluster"), identity("kubelet"), identity("endpoint")
        self.kubelet_operator = assign(
            Grant(
                "cluster",
                Role.MANAGED_IDENTITY_OPERATOR,
                "kubelet",
                self.cluster.principal_id,
                self.kubelet.id,
            ),
            args.subscription_id,
            self,
        )
        self.register_outputs({})
