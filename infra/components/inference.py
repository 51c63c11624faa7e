"""Azure ML on the cluster: extension, the workspace's access to the cluster, the attached compute, the endpoint.

Does not create deployments and does not set traffic. Both belong to a release (`release/serving_stage/rollout.py`),
because Azure refuses traffic to deployments that do not exist yet. The extension's settings are in
`inference_router.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, Self

import pulumi
from pulumi_azure_native import containerservice as aks
from pulumi_azure_native import kubernetesconfiguration, managedidentity
from pulumi_azure_native import machinelearningservices as ml

from infra.aks.attachment import Attachment, AttachmentInputs
from infra.aks.cluster import Kubernetes
from infra.components.identities import Identities
from infra.components.inference_router import Certificate, extension_settings, protected_settings, require_inside
from infra.components.ml_workspace import MachineLearning
from infra.components.role_propagation import Access, RolesInEffect
from infra.components.roles import Grant, Role, assign
from infra.config.naming import Names
from infra.config.settings import Settings

# Source: Azure/AML-Kubernetes files/deployextension.json (releaseNamespace)
NAMESPACE = "azureml"
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-attach-kubernetes-to-workspace.md (without the
# role: "extension not installed")
READ_EXTENSION = "Microsoft.KubernetesConfiguration/extensions/read"


@dataclass(frozen=True)
class InferenceArgs:
    resource_group_name: pulumi.Input[str]
    subscription_id: str
    location: str
    kubernetes: Kubernetes
    machine_learning: MachineLearning
    endpoint_name: str
    endpoint_identity: managedidentity.UserAssignedIdentity
    auth_mode: str
    scoring_nodes: int
    """Minimum number of nodes of the scoring pool, on which the router runs."""
    network: IPv4Network | None
    """Address space of the stack's network; None for a public stack, whose router has a public address."""
    certificate: Certificate | None = None
    protect: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        resource_group_name: pulumi.Input[str],
        subscription_id: str,
        names: Names,
        kubernetes: Kubernetes,
        machine_learning: MachineLearning,
        identities: Identities,
    ) -> Self:
        serving, network = settings.serving, settings.network
        return cls(
            resource_group_name=resource_group_name,
            subscription_id=subscription_id,
            location=settings.location,
            kubernetes=kubernetes,
            machine_learning=machine_learning,
            endpoint_name=names.endpoint,
            endpoint_identity=identities.endpoint,
            auth_mode=serving.auth,
            scoring_nodes=serving.nodes_min,
            network=IPv4Network(network.address_space) if network.is_private else None,
            certificate=Certificate.of(serving),
            protect=settings.production,
        )


class Inference(pulumi.ComponentResource):
    endpoint_id: pulumi.Output[str]
    endpoint_name: pulumi.Output[str]
    endpoint_revision: pulumi.Output[str]
    """Changes when the endpoint is written or created again: both remove its traffic, so the rollout must run again."""
    scoring_uri: pulumi.Output[str]
    auth_mode: str
    extension_principal_id: pulumi.Output[str]

    def __init__(self, name: str, args: InferenceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:serving:Inference", name, None, opts)
        kubernetes = args.kubernetes
        trusted = kubernetes.writes.wrote(self._trusted_access(f"{name}-trusted-access", args))
        extension = kubernetes.writes.wrote(self._extension(f"{name}-extension", args))
        # No fallback to `identity`: an absent output is unknown in every preview, with all values computed from it.
        self.extension_principal_id = extension.aks_assigned_identity.apply(_principal)
        attached = self._attachment(
            f"{name}-compute",
            args,
            # Source: MicrosoftDocs/azure-ai-docs
            # articles/machine-learning/how-to-attach-kubernetes-to-workspace.md (the extension and the role first);
            # Azure/AML-Kubernetes docs/azureml-aks-ta-support.md (trusted access first)
            after=[extension, trusted, self._role_on_cluster(f"{name}-workspace-role", args)],
        )
        endpoint = self._endpoint(f"{name}-endpoint", args, attached)
        self.endpoint_id = endpoint.id
        self.endpoint_name = endpoint.name
        self.endpoint_revision = _revision(args, endpoint, attached)
        self.scoring_uri = endpoint.properties.scoring_uri.apply(
            lambda uri: require_inside(uri, args.network) if uri and args.network else uri
        )
        self.auth_mode = args.auth_mode
        self.register_outputs({"endpoint_name": self.endpoint_name, "scoring_uri": self.scoring_uri})

    def _attachment(self, name: str, args: InferenceArgs, *, after: Sequence[pulumi.Resource]) -> Attachment:
        """Attach the cluster to the workspace as the compute `aks`."""
        kubernetes, workspace = args.kubernetes, args.machine_learning.workspace
        inputs = AttachmentInputs(
            compute_id=workspace.id.apply(lambda id_: f"{id_}/computes/aks"),
            workspace_uid=args.machine_learning.workspace_uid,
            cluster_id=kubernetes.cluster_id,
            cluster_uid=kubernetes.cluster_uid,
            location=args.location,
            namespace=NAMESPACE,
            extension_uid=self.extension_principal_id,
        )
        return Attachment(name, inputs, pulumi.ResourceOptions(parent=self, depends_on=after))

    def _endpoint(self, name: str, args: InferenceArgs, attached: Attachment) -> ml.OnlineEndpoint:
        """Declare the online endpoint on the attached compute, without deployments or traffic."""
        access = ml.PublicNetworkAccessType
        return ml.OnlineEndpoint(
            name,
            endpoint_name=args.endpoint_name,
            workspace_name=args.machine_learning.workspace.name,
            resource_group_name=args.resource_group_name,
            # No source: `az ml online-endpoint create` with a Kubernetes compute on Azure, and read the kind.
            kind="K8S",
            identity=ml.ManagedServiceIdentityArgs(
                type=ml.ManagedServiceIdentityType.USER_ASSIGNED,
                user_assigned_identities=[args.endpoint_identity.id],
            ),
            properties=ml.OnlineEndpointPropertiesArgs(
                auth_mode=args.auth_mode,
                compute=attached.id,
                description="Click probabilities and rankings",
                public_network_access=access.DISABLED if args.network else access.ENABLED,
            ),
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,
                # A release sets the traffic: its rollout moves it between deployments, after they exist. Tags stay as
                # created, because each write removes the traffic until the rollout sets it again.
                # Source: hashicorp/terraform-provider-azurerm#32011
                ignore_changes=["properties.traffic", "properties.mirrorTraffic", "tags"],
                # No source: put an endpoint on another compute on Azure, and read whether it moves.
                replace_on_changes=["properties.compute"],
                # No source: detach a cluster with an endpoint on Azure, and read the endpoint's state.
                replace_with=[attached],
            ),
        )

    def _trusted_access(self, name: str, args: InferenceArgs) -> aks.TrustedAccessRoleBinding:
        """Let Azure ML into the cluster, which has no local accounts.

        Source: Azure/AML-Kubernetes docs/azureml-aks-ta-support.md
        """
        return aks.TrustedAccessRoleBinding(
            name,
            trusted_access_role_binding_name="azureml",
            resource_name_=args.kubernetes.cluster_name,
            resource_group_name=args.resource_group_name,
            source_resource_id=args.machine_learning.workspace.id,
            roles=["Microsoft.MachineLearningServices/workspaces/mlworkload"],
            opts=pulumi.ResourceOptions(parent=self, depends_on=args.kubernetes.writes.before("trusted access")),
        )

    def _role_on_cluster(self, name: str, args: InferenceArgs) -> RolesInEffect:
        """Assign the workspace's role on this one cluster, and wait until it is in effect.

        Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-attach-kubernetes-to-workspace.md
        (Contributor, for clusters with trusted access)
        """
        principal, cluster = args.machine_learning.principal_id, args.kubernetes.cluster_id
        grant = Grant("machine-learning", Role.CONTRIBUTOR, "cluster", principal, cluster)
        role = assign(grant, args.subscription_id, self)
        access = Access(principal, READ_EXTENSION, cluster)
        return RolesInEffect(name, [access], pulumi.ResourceOptions(parent=self, depends_on=[role]))

    def _extension(self, name: str, args: InferenceArgs) -> kubernetesconfiguration.Extension:
        """Declare the extension without an identity, because AKS assigns one.

        Source: Azure/azure-cli-extensions src/k8s-extension/azext_k8s_extension/custom.py (`__create_identity`: "We do
        not create any identities for managedClusters")
        """
        kubernetes, workspace = args.kubernetes, args.machine_learning.workspace
        return kubernetesconfiguration.Extension(
            name,
            extension_name="azureml",
            resource_group_name=args.resource_group_name,
            # Source: azure-mgmt-kubernetesconfiguration==3.1.0
            # azure/mgmt/kubernetesconfiguration/v2023_05_01/operations/_extensions_operations.py (`managedClusters`)
            cluster_rp="Microsoft.ContainerService",
            cluster_resource_name="managedClusters",
            cluster_name=kubernetes.cluster_name,
            # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-kubernetes-extension.md
            extension_type="microsoft.azureml.kubernetes",
            # Source: Azure/azure-cli-extensions
            # src/k8s-extension/azext_k8s_extension/partner_extensions/AzureMLKubernetes.py
            release_train="stable",
            auto_upgrade_minor_version=True,
            scope=kubernetesconfiguration.ScopeArgs(
                cluster=kubernetesconfiguration.ScopeClusterArgs(release_namespace=NAMESPACE)
            ),
            configuration_settings=extension_settings(
                location=args.location,
                cluster_id=kubernetes.cluster_id,
                cluster_name=kubernetes.cluster_name,
                scoring_nodes=args.scoring_nodes,
                private=args.network is not None,
                certificate=args.certificate,
            ),
            configuration_protected_settings=protected_settings(args.certificate),
            # Deleted before the workspace, from which it unregisters at its end.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[workspace, *kubernetes.writes.before("extension")]),
        )


def _revision(args: InferenceArgs, endpoint: ml.OnlineEndpoint, attached: Attachment) -> pulumi.Output[str]:
    """Text that changes when the endpoint is written or created again.

    The tag `azureml.onlineendpointid` holds the path, so it does not change with a new creation. ARM has the time of
    creation (Azure/azure-rest-api-specs common-types/resource-management/v5/types.json, `systemData`).
    """
    declared = [args.auth_mode, args.endpoint_name, args.network is not None]
    return pulumi.Output.all(endpoint.tags, endpoint.system_data.created_at, attached.id).apply(
        lambda reported: json.dumps([*declared, *reported], sort_keys=True)
    )


def _principal(identity: Any) -> str:
    if not identity:
        raise pulumi.RunError(
            "Azure returned no aksAssignedIdentity for the Azure ML extension, and without it no replica can pull its "
            "image. Inspect the extension with `az k8s-extension show --cluster-type managedClusters`."
        )
    return str(identity.principal_id)
