"""Observability of a stack: logs and metrics in its workspace, alerts, the dashboard and the budget."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from infra.aks.cluster import Kubernetes
from infra.components.container_registry import ContainerRegistry
from infra.components.data_lake import DataLake
from infra.components.databricks import Databricks
from infra.components.inference import NAMESPACE
from infra.components.key_vault import KeyVault
from infra.components.ml_workspace import MachineLearning
from infra.components.network import Network
from infra.config.naming import Names
from infra.config.settings import Settings
from infra.monitoring import alerts, budget, containers, dashboard, diagnostics
from infra.monitoring.diagnostics import Source
from infra.monitoring.log_workspace import LogWorkspace


@dataclass(frozen=True)
class ObservabilityArgs:
    resource_group_name: pulumi.Input[str]
    subscription_id: str
    names: Names
    settings: Settings
    logs: LogWorkspace
    kubernetes: Kubernetes
    sources: Mapping[str, Source]
    training_job_id: pulumi.Output[str] | None
    """None where the stack releases no models."""


def sources_of(
    vault: KeyVault,
    kubernetes: Kubernetes,
    logs: LogWorkspace,
    network: Network | None,
    lake: DataLake,
    registry: ContainerRegistry,
    databricks: Databricks,
    machine_learning: MachineLearning,
) -> dict[str, Source]:
    """Resources whose logs and metrics go to the workspace, by the name of their diagnostic setting."""
    inside = {}
    if network:
        inside = {f"guard-{purpose}": Source(guard, metrics=None) for purpose, guard in network.guard_ids.items()}
        inside |= {"network": Source(network.network_id), "outbound": Source(network.address_id)}
    return inside | {
        "lake": Source.blobs(lake.account_id),
        "ml-storage": Source.blobs(machine_learning.storage_account_id),
        "vault": Source(vault.vault_id),
        "registry": Source(registry.registry_id),
        "databricks": Source(databricks.workspace_id, metrics=None),
        "ml-workspace": Source(machine_learning.workspace_id),
        "cluster": Source.cluster(kubernetes.cluster_id),
        "monitoring": Source(logs.workspace_id, group="audit"),
    }


class Observability(pulumi.ComponentResource):
    def __init__(self, name: str, args: ObservabilityArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        # The type token is in the state of every stack, so it keeps the class's earlier name.
        super().__init__("personalization:operations:Watch", name, None, opts)
        group, names, settings = args.resource_group_name, args.names, args.settings
        diagnostics.send_all(f"{name}-logs", args.sources, args.logs.workspace_id, self)
        containers.collect_output(
            f"{name}-containers",
            rule_name=names.collection_rule,
            resource_group_name=group,
            cluster_id=args.kubernetes.cluster_id,
            namespace=NAMESPACE,
            workspace_id=args.logs.workspace_id,
            tables=args.logs.tables,
            parent=self,
        )
        alerts.declare(
            f"{name}-alerts",
            alerts.AlertsArgs(
                resource_group_name=group,
                names=names,
                location=settings.location,
                workspace_id=args.logs.workspace_id,
                cluster_id=args.kubernetes.cluster_id,
                limits=settings.alerts,
                replicas_min=settings.serving.replicas_min,
                replicas_max=settings.serving.replicas_max,
                tables=args.logs.tables,
                training_job_id=args.training_job_id,
            ),
            self,
        )
        dashboard.declare(
            f"{name}-dashboard",
            workbook_name=names.workbook,
            title=f"Personalization {settings.environment} {settings.location}",
            resource_group_name=group,
            workspace_id=args.logs.workspace_id,
            training_job_id=args.training_job_id,
            parent=self,
        )
        budget.declare(
            f"{name}-budget",
            budget_name=names.budget,
            subscription_id=args.subscription_id,
            resource_groups=[names.resource_group, names.databricks_managed_group, names.kubernetes_node_group],
            budget=settings.budget,
            emails=settings.alerts.emails,
            parent=self,
        )
        self.register_outputs({})
