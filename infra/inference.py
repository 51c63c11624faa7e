"""Azure ML on the cluster: extension, trusted access, the attached compute with its instance types, the endpoint.

Does not create deployments and never names traffic: both belong to a release (`release/rollout.py`), because Azure
refuses traffic to deployments that do not exist yet.
"""

import json
from dataclasses import dataclass
from typing import Self

import pulumi
from pulumi_azure_native import containerservice as aks
from pulumi_azure_native import kubernetesconfiguration, managedidentity
from pulumi_azure_native import machinelearningservices as ml

from infra.capacity import ROUTERS, routers
from infra.cluster_writes import WriteOrder
from infra.identities import Identities
from infra.kubernetes import SCORING_LABEL, Kubernetes
from infra.ml_workspace import MachineLearning
from infra.naming import Names
from infra.settings import Settings

NAMESPACE = "azureml"
INSTANCE_TYPE = "scoring"


@dataclass(frozen=True)
class InferenceArgs:
    resource_group_name: pulumi.Input[str]
    location: str
    cluster_id: pulumi.Input[str]
    cluster_name: pulumi.Input[str]
    writes: WriteOrder
    workspace: ml.Workspace
    endpoint_name: str
    endpoint_identity: managedidentity.UserAssignedIdentity
    auth_mode: str
    node_count: int
    """Least number of nodes the router can count on."""
    replica_cpu: str
    replica_memory: str
    private: bool
    hostname: str | None = None
    tls_secret: str | None = None
    protect: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        resource_group_name: pulumi.Input[str],
        names: Names,
        kubernetes: Kubernetes,
        machine_learning: MachineLearning,
        identities: Identities,
    ) -> Self:
        serving = settings.serving
        return cls(
            resource_group_name=resource_group_name,
            location=settings.location,
            cluster_id=kubernetes.cluster_id,
            cluster_name=kubernetes.cluster_name,
            writes=kubernetes.writes,
            workspace=machine_learning.workspace,
            endpoint_name=names.endpoint,
            endpoint_identity=identities.endpoint,
            auth_mode=serving.auth,
            node_count=serving.system_nodes + serving.nodes_min,
            replica_cpu=serving.cpu,
            replica_memory=serving.memory,
            private=settings.network.is_private,
            hostname=serving.hostname,
            tls_secret=serving.tls_secret,
            protect=settings.is_production,
        )


class Inference(pulumi.ComponentResource):
    endpoint_id: pulumi.Output[str]
    endpoint_name: pulumi.Output[str]
    endpoint_revision: pulumi.Output[str]
    """Changes whenever the endpoint is written or created again: either leaves it without traffic, so the rollout must
    run again."""
    scoring_uri: pulumi.Output[str]
    auth_mode: str
    extension_principal_id: pulumi.Output[str]

    def __init__(self, name: str, args: InferenceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:serving:Inference", name, None, opts)
        access = ml.PublicNetworkAccessType

        # Azure ML enters a cluster without local accounts through this binding; it must exist before the attach.
        trusted = aks.TrustedAccessRoleBinding(
            f"{name}-trusted-access",
            trusted_access_role_binding_name="azureml",
            resource_name_=args.cluster_name,
            resource_group_name=args.resource_group_name,
            source_resource_id=args.workspace.id,
            roles=["Microsoft.MachineLearningServices/workspaces/mlworkload"],
            opts=pulumi.ResourceOptions(parent=self, depends_on=args.writes.before("trusted access")),
        )
        args.writes.wrote(trusted)
        extension = kubernetesconfiguration.Extension(
            f"{name}-extension",
            extension_name="azureml",
            resource_group_name=args.resource_group_name,
            cluster_rp="Microsoft.ContainerService",
            cluster_resource_name="managedClusters",
            cluster_name=args.cluster_name,
            extension_type="microsoft.azureml.kubernetes",
            release_train="stable",
            auto_upgrade_minor_version=True,
            identity=kubernetesconfiguration.IdentityArgs(
                type=kubernetesconfiguration.ResourceIdentityType.SYSTEM_ASSIGNED
            ),
            scope=kubernetesconfiguration.ScopeArgs(
                cluster=kubernetesconfiguration.ScopeClusterArgs(release_namespace=NAMESPACE)
            ),
            configuration_settings=extension_settings(args, args.cluster_id, args.cluster_name),
            # Goes before the workspace does: its last act is to sign off there.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args.workspace, *args.writes.before("extension")]),
        )
        args.writes.wrote(extension)
        size = {"cpu": args.replica_cpu, "memory": args.replica_memory}
        compute = ml.Compute(
            f"{name}-compute",
            compute_name="aks",
            workspace_name=args.workspace.name,
            resource_group_name=args.resource_group_name,
            properties=ml.KubernetesArgs(
                compute_type="Kubernetes",
                resource_id=args.cluster_id,
                disable_local_auth=True,
                properties=ml.KubernetesPropertiesArgs(
                    namespace=NAMESPACE,
                    default_instance_type=INSTANCE_TYPE,
                    instance_types={
                        INSTANCE_TYPE: ml.InstanceTypeSchemaArgs(
                            node_selector=SCORING_LABEL,
                            resources=ml.InstanceTypeSchemaResourcesArgs(requests=size, limits=size),
                        )
                    },
                ),
            ),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[extension, trusted],
                # Another cluster under the old name holds nothing of what was attached.
                replace_on_changes=["properties.resourceId"],
            ),
        )
        endpoint = ml.OnlineEndpoint(
            f"{name}-endpoint",
            endpoint_name=args.endpoint_name,
            workspace_name=args.workspace.name,
            resource_group_name=args.resource_group_name,
            kind="K8S",
            identity=ml.ManagedServiceIdentityArgs(
                type=ml.ManagedServiceIdentityType.USER_ASSIGNED,
                user_assigned_identities=[args.endpoint_identity.id],
            ),
            properties=ml.OnlineEndpointPropertiesArgs(
                auth_mode=args.auth_mode,
                compute=compute.id,
                description="Click probabilities and rankings",
                public_network_access=access.DISABLED if args.private else access.ENABLED,
            ),
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,
                # Traffic is the release's: a rollout moves it between deployments, after they exist.
                ignore_changes=["properties.traffic", "properties.mirrorTraffic"],
                replace_on_changes=["properties.compute"],
            ),
        )
        self.endpoint_id = endpoint.id
        self.endpoint_name = endpoint.name
        # `azureml.onlineendpointid` is not such an id: Azure ML writes the endpoint's own path there. ARM keeps the
        # time of creation (Azure/azure-rest-api-specs common-types/resource-management/v5/types.json, `systemData`).
        declared = [args.auth_mode, args.endpoint_name, args.private]
        self.endpoint_revision = pulumi.Output.all(endpoint.tags, endpoint.system_data.created_at, compute.id).apply(
            lambda found: json.dumps([*declared, *found], sort_keys=True)
        )
        self.scoring_uri = endpoint.properties.scoring_uri
        self.auth_mode = args.auth_mode
        self.extension_principal_id = extension.identity.principal_id
        self.register_outputs({"endpoint_name": self.endpoint_name, "scoring_uri": self.scoring_uri})


def extension_settings(
    args: InferenceArgs, cluster_id: pulumi.Input[str], cluster_name: pulumi.Input[str]
) -> dict[str, pulumi.Input[str]]:
    """Raw ARM settings of the Azure ML extension, whose names differ from the CLI's and whose case matters.

    A preview knows all but those of a new cluster, so the policy pack can judge them.

    Source: Azure/AML-Kubernetes files/deployextension.json (booleans are the strings 'True' and 'False')
    """
    settings: dict[str, pulumi.Input[str]] = {
        "enableInference": "True",
        "enableTraining": "False",
        "inferenceRouterServiceType": "LoadBalancer",
        "inferenceRouterHA": str(routers(args.node_count) == ROUTERS),
        "allowInsecureConnections": str(args.tls_secret is None),
        "clusterPurpose": "FastProd",
        "cluster_name": cluster_id,
        "clusterId": cluster_id,
        "cluster_name_friendly": cluster_name,
        "prometheus.prometheusSpec.externalLabels.cluster_name": cluster_id,
        "domain": args.location,
        "jobSchedulerLocation": args.location,
        "servicebus.enabled": "false",
        "relayserver.enabled": "false",
        "nginxIngress.enabled": "true",
    }
    if args.private:
        settings["scoringFe.serviceType.internalLoadBalancer"] = "azure"
    if args.tls_secret and args.hostname:
        settings |= {"scoringFe.sslSecret": args.tls_secret, "sslCname": args.hostname}
    return settings
