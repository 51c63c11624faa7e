"""Content-based personalization on Azure, top to bottom as the architecture diagram."""

import gc

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
from infra.monitoring.log_workspace import Monitoring, MonitoringArgs
from infra.monitoring.observability import Watch, WatchArgs, sources_of
from infra.outputs import export_infrastructure, export_plan, export_release
from infra.planning import cost
from infra.release.arguments import ReleaseArgs
from infra.release.release import Release
from infra.runner.runner import Runner, RunnerArgs

# The program allocates several hundred thousand long-lived objects. At Python's default, 40 % of its time is garbage
# collection.
gc.set_threshold(100_000, 20, 50)

settings = loading.of_this_stack()
meter = cost.Meter.started()
client = authorization.get_client_config()
subscription = client.subscription_id
names = Names.of(settings, subscription, pulumi.get_stack())
aliases.leave_out_api_versions()
tags.apply_to_all({"environment": settings.environment, "stack": pulumi.get_stack(), **settings.tags})

group = resource_group(settings, subscription, names)
network = Network("network", NetworkArgs.of(settings, group, names)) if settings.network.is_private else None
nodes = network.subnet_id(NODES) if network else None

lake = DataLake("lake", DataLakeArgs.of(settings, group, names))
vault = KeyVault("vault", KeyVaultArgs.of(settings, group, names, tenant_id=client.tenant_id))
monitoring = Monitoring("monitoring", MonitoringArgs.of(group, names))
registry = ContainerRegistry("registry", ContainerRegistryArgs.of(settings, group, names, build_subnet_id=nodes))
identities = Identities("identity", IdentitiesArgs(group, subscription, names, node_subnet_id=nodes))

databricks = Databricks("databricks", DatabricksArgs.of(settings, group, subscription, names, identities, network))
machine_learning = MachineLearning(
    "machine-learning", MachineLearningArgs.of(settings, group, names, vault, monitoring, registry, lake)
)
kubernetes = Kubernetes(
    "kubernetes",
    KubernetesArgs.of(
        settings,
        group,
        names,
        tenant_id=client.tenant_id,
        identities=identities,
        log_workspace_id=monitoring.workspace_id,
        node_subnet_id=nodes,
    ),
)
inference = Inference(
    "inference",
    InferenceArgs.of(settings, group, subscription, names, kubernetes, machine_learning, identities),
)

runner = None
if nodes is not None and settings.runners:
    runner = Runner("runner", RunnerArgs.of(settings, group, names, vault, subnet_id=nodes))

who = settings.access.deployers
access = Access(
    "access",
    AccessArgs(subscription, who, lake, registry, machine_learning, identities, kubernetes, inference, runner),
)
reachable = private_link.connect_all(network, lake, vault, registry, databricks, machine_learning) if network else []
export_infrastructure(group, vault, lake, databricks, machine_learning, inference)

training_job = None
if settings.release.enabled:
    ready = [*access.assignments, *reachable, kubernetes.scoring_pool]
    release = Release(
        "release",
        ReleaseArgs(settings, names, lake, registry, databricks, machine_learning, inference, ready),
    )
    export_release(release, lake)
    training_job = release.trained.job_id
sources = sources_of(vault, kubernetes, monitoring, network, lake, registry, databricks, machine_learning)
Watch("watch", WatchArgs(group, subscription, names, settings, monitoring, kubernetes, sources, training_job))
export_plan(settings, meter)
