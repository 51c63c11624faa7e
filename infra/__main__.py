"""Content-based personalization on Azure, top to bottom as the architecture diagram."""

import pulumi
from pulumi_azure_native import authorization, resources

from infra import settings as configuration
from infra import tags
from infra.access import Access, AccessArgs
from infra.container_registry import ContainerRegistry, ContainerRegistryArgs
from infra.data_lake import DataLake, DataLakeArgs
from infra.databricks import Databricks, DatabricksArgs
from infra.identities import Identities, IdentitiesArgs
from infra.inference import Inference, InferenceArgs
from infra.key_vault import KeyVault, KeyVaultArgs
from infra.kubernetes import Kubernetes, KubernetesArgs
from infra.ml_workspace import MachineLearning, MachineLearningArgs
from infra.monitoring import Monitoring, MonitoringArgs
from infra.naming import Names
from infra.outputs import export_infrastructure, export_release
from infra.release.release import Release, ReleaseArgs

settings = configuration.of_this_stack()
client = authorization.get_client_config()
subscription, prod = client.subscription_id, settings.is_production
names = Names(settings.environment, f"{subscription}/{settings.location}/{pulumi.get_stack()}")
redundancy = "Standard_ZRS" if prod else "Standard_LRS"
tags.apply_to_all({"environment": settings.environment, "stack": pulumi.get_stack(), **settings.tags})

group = resources.ResourceGroup("personalization", resource_group_name=names.resource_group).name

lake = DataLake("lake", DataLakeArgs(group, names.lake, redundancy, protect=prod))
vault = KeyVault(
    "vault", KeyVaultArgs(group, names.key_vault, client.tenant_id, settings.access.purge_protection, prod)
)
monitoring = Monitoring("monitoring", MonitoringArgs(group, names.log_analytics, names.application_insights))
registry = ContainerRegistry(
    "registry", ContainerRegistryArgs(group, names.container_registry, "Premium" if prod else "Basic", prod)
)
identities = Identities("identity", IdentitiesArgs(group, subscription, names))

databricks = Databricks(
    "databricks",
    DatabricksArgs(
        resource_group_name=group,
        workspace_name=names.databricks_workspace,
        connector_name=names.access_connector,
        managed_resource_group_id=f"/subscriptions/{subscription}/resourceGroups/{names.databricks_managed_group}",
        protect=prod,
    ),
)
machine_learning = MachineLearning(
    "machine-learning",
    MachineLearningArgs(
        resource_group_name=group,
        workspace_name=names.machine_learning_workspace,
        storage_account_name=names.machine_learning_storage,
        storage_redundancy=redundancy,
        key_vault_id=vault.vault_id,
        application_insights_id=monitoring.component_id,
        container_registry_id=registry.registry_id,
        lake_account_name=lake.account_name,
        models_container=lake.containers["models"],
        protect=prod,
    ),
)
kubernetes = Kubernetes("kubernetes", KubernetesArgs.of(settings, group, names, client.tenant_id, identities))
inference = Inference("inference", InferenceArgs.of(settings, group, names, kubernetes, machine_learning, identities))
access = Access(
    "access",
    AccessArgs(
        subscription_id=subscription,
        deployers=settings.access.deployers,
        lake=lake,
        registry=registry,
        databricks=databricks,
        machine_learning=machine_learning,
        identities=identities,
        kubernetes=kubernetes,
        inference=inference,
    ),
)
export_infrastructure(group, lake, databricks, machine_learning, inference)

if settings.release.enabled:
    ready = [*access.assignments, kubernetes.scoring_pool]
    release = Release(
        "release",
        ReleaseArgs(settings, names, lake, registry, databricks, machine_learning, inference, ready),
    )
    export_release(release, lake)
