"""Content-based personalization on Azure, top to bottom as the architecture diagram."""

import pulumi
from pulumi_azure_native import authorization

from infra import aliases, configuration, cost, private_link, tags
from infra.access import Access, AccessArgs
from infra.addresses import NODES
from infra.container_registry import ContainerRegistry, ContainerRegistryArgs
from infra.data_lake import DataLake, DataLakeArgs
from infra.databricks import Databricks, DatabricksArgs
from infra.identities import Identities, IdentitiesArgs
from infra.inference import Inference, InferenceArgs
from infra.key_vault import KeyVault, KeyVaultArgs
from infra.kubernetes import Kubernetes, KubernetesArgs
from infra.ml_workspace import MachineLearning, MachineLearningArgs
from infra.monitoring.watch import Watch, WatchArgs, sources_of
from infra.monitoring.workspace import Monitoring, MonitoringArgs
from infra.naming import Names
from infra.network import Network, NetworkArgs
from infra.outputs import export_infrastructure, export_plan, export_release
from infra.placement import resource_group
from infra.release.arguments import ReleaseArgs
from infra.release.release import Release
from infra.runner.runner import Runner, RunnerArgs

settings = configuration.of_this_stack()
meter = cost.Meter.started()
client = authorization.get_client_config()
subscription, prod, private = client.subscription_id, settings.is_production, settings.network.is_private
names = Names.of(settings, subscription, pulumi.get_stack())
aliases.leave_out_api_versions()
tags.apply_to_all({"environment": settings.environment, "stack": pulumi.get_stack(), **settings.tags})

group = resource_group(settings, subscription, names)
network = Network("network", NetworkArgs.of(settings, group, names)) if private else None
nodes = network.subnet_id(NODES) if network else None

lake = DataLake("lake", DataLakeArgs(group, names.lake, settings.zone_redundant, private, protect=prod))
vault = KeyVault(
    "vault", KeyVaultArgs(group, names.key_vault, client.tenant_id, settings.access.purge_protection, private, prod)
)
monitoring = Monitoring("monitoring", MonitoringArgs(group, names.log_analytics, names.application_insights))
registry = ContainerRegistry(
    "registry", ContainerRegistryArgs(group, names.container_registry, settings.zone_redundant, nodes, prod)
)
identities = Identities("identity", IdentitiesArgs(group, subscription, names, nodes))

databricks = Databricks(
    "databricks",
    DatabricksArgs(
        resource_group_name=group,
        workspace_name=names.databricks_workspace,
        connector_name=names.access_connector,
        managed_resource_group_id=f"/subscriptions/{subscription}/resourceGroups/{names.databricks_managed_group}",
        connector_identity=identities.databricks,
        zone_redundant=settings.zone_redundant,
        network_id=network.network_id if network else None,
        protect=prod,
    ),
)
machine_learning = MachineLearning(
    "machine-learning",
    MachineLearningArgs(
        resource_group_name=group,
        workspace_name=names.machine_learning_workspace,
        storage_account_name=names.machine_learning_storage,
        zone_redundant=settings.zone_redundant,
        key_vault_id=vault.vault_id,
        application_insights_id=monitoring.component_id,
        container_registry_id=registry.registry_id,
        lake_account_name=lake.account_name,
        models_container=lake.containers["models"],
        private=private,
        protect=prod,
    ),
)
kubernetes = Kubernetes(
    "kubernetes",
    KubernetesArgs.of(settings, group, names, client.tenant_id, identities, monitoring.workspace_id, nodes),
)
inference = Inference(
    "inference",
    InferenceArgs.of(settings, group, subscription, names, kubernetes, machine_learning, identities),
)

runner = None
if nodes is not None and settings.runners:
    runner = Runner("runner", RunnerArgs.of(settings, group, names, nodes, vault.vault_id, vault.vault_uri))

who, on_what = settings.access.deployers, (lake, registry, machine_learning, identities, kubernetes, inference)
access = Access("access", AccessArgs(subscription, who, *on_what, runner))
reachable = private_link.connect_all(network, lake, vault, registry, databricks, machine_learning) if network else []
on = (lake, registry, databricks, machine_learning, inference)
export_infrastructure(group, vault, lake, databricks, machine_learning, inference)

training_job = None
if settings.release.enabled:
    ready = [*access.assignments, *reachable, kubernetes.scoring_pool]
    release = Release("release", ReleaseArgs(settings, names, *on, ready))
    export_release(release, lake)
    training_job = release.trained.job_id
sources = sources_of(vault, kubernetes, monitoring, network, lake, registry, databricks, machine_learning)
Watch("watch", WatchArgs(group, subscription, names, settings, monitoring, kubernetes, sources, training_job))
export_plan(settings, meter)
