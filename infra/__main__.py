"""Content-based personalization on Azure, from top to bottom as in the architecture diagram."""

import pulumi
from pulumi_azure_native import authorization

from infra import private_link
from infra.access import Access, AccessArgs
from infra.aks.cluster import Kubernetes, KubernetesArgs
from infra.components.container_registry import ContainerRegistry, ContainerRegistryArgs
from infra.components.data_lake import DataLake, DataLakeArgs
from infra.components.databricks import Databricks, DatabricksArgs
from infra.components.identities import Identities, IdentitiesArgs
from infra.components.inference import Inference, InferenceArgs
from infra.components.key_vault import KeyVault, KeyVaultArgs
from infra.components.ml_workspace import MachineLearning, MachineLearningArgs
from infra.components.network import Network, NetworkArgs
from infra.components.placement import resource_group
from infra.config import aliases, loading, tags
from infra.config.addresses import NODES
from infra.config.naming import Names
from infra.monitoring.log_workspace import LogWorkspace, LogWorkspaceArgs
from infra.monitoring.observability import Observability, ObservabilityArgs, sources_of
from infra.outputs import export_infrastructure, export_plan, export_release
from infra.planning.cost import CostRecorder
from infra.release.arguments import ReleaseArgs
from infra.release.release import Release
from infra.runner.runner import Runner, RunnerArgs

settings = loading.of_this_stack()
costs = CostRecorder.started()
client = authorization.get_client_config()
names = Names.of(settings, client.subscription_id, pulumi.get_stack())
aliases.leave_out_api_versions()
tags.apply_to_all({"environment": settings.environment, "stack": pulumi.get_stack(), **settings.tags})

# Network, and the services that everything else uses
group = resource_group(settings, client.subscription_id, names)
network = Network("network", NetworkArgs.of(settings, group, names)) if settings.network.is_private else None
nodes = network.subnet_id(NODES) if network else None
lake = DataLake("lake", DataLakeArgs.of(settings, group, names))
vault = KeyVault("vault", KeyVaultArgs.of(settings, group, names, tenant_id=client.tenant_id))
logs = LogWorkspace("monitoring", LogWorkspaceArgs.of(group, names))
registry = ContainerRegistry("registry", ContainerRegistryArgs.of(settings, group, names, build_subnet_id=nodes))
identities = Identities("identity", IdentitiesArgs(group, client.subscription_id, names, node_subnet_id=nodes))

# Training, model registry, and the cluster with the endpoint
databricks = Databricks(
    "databricks", DatabricksArgs.of(settings, group, client.subscription_id, names, identities, network)
)
machine_learning = MachineLearning(
    "machine-learning", MachineLearningArgs.of(settings, group, names, vault, logs, registry, lake)
)
cluster_args = KubernetesArgs.of(
    settings,
    group,
    names,
    tenant_id=client.tenant_id,
    identities=identities,
    log_workspace_id=logs.workspace_id,
    node_subnet_id=nodes,
)
kubernetes = Kubernetes("kubernetes", cluster_args)
inference = Inference(
    "inference",
    InferenceArgs.of(settings, group, client.subscription_id, names, kubernetes, machine_learning, identities),
)
runner = None
if nodes is not None and settings.runners:
    runner = Runner("runner", RunnerArgs.of(settings, group, names, vault, subnet_id=nodes))

# Access to all of these, by role and in a private network by private endpoint
access = Access(
    "access",
    AccessArgs.of(settings, client.subscription_id, lake, registry, machine_learning, identities, inference, runner),
)
reachable = private_link.connect_all(network, lake, vault, registry, databricks, machine_learning) if network else []
export_infrastructure(group, vault, lake, databricks, machine_learning, inference)

# One release: rows to a model, model to traffic
release = None
if settings.release.enabled:
    ready = [*access.assignments, *reachable, kubernetes.scoring_pool]
    release_args = ReleaseArgs(settings, names, lake, registry, databricks, machine_learning, inference, ready)
    release = Release("release", release_args)
    export_release(release, lake)

# Logs, alerts, dashboard and cost
sources = sources_of(vault, kubernetes, logs, network, lake, registry, databricks, machine_learning)
job_id = release.training.job_id if release else None
watched = ObservabilityArgs(group, client.subscription_id, names, settings, logs, kubernetes, sources, job_id)
Observability("watch", watched)
export_plan(settings, costs)
