"""Private endpoints to everything the program declares that has a public one, as one table.

Does not hide the cluster's API server or the scoring router: `kubernetes.py` and `inference.py` place those inside.
"""

import pulumi

from infra import network
from infra.container_registry import ContainerRegistry
from infra.data_lake import DataLake
from infra.databricks import Databricks
from infra.key_vault import KeyVault
from infra.ml_workspace import MachineLearning
from infra.network import Network


def connect_all(
    into: Network,
    lake: DataLake,
    vault: KeyVault,
    registry: ContainerRegistry,
    databricks: Databricks,
    machine_learning: MachineLearning,
) -> list[pulumi.Resource]:
    """Returns what a release waits for: before, no name resolves to an address it can reach."""
    targets = {
        "lake-blob": (network.BLOB, lake.account_id),
        "lake-dfs": (network.DFS, lake.account_id),
        "vault": (network.VAULT, vault.vault_id),
        "registry": (network.REGISTRY, registry.registry_id),
        "databricks": (network.DATABRICKS, databricks.workspace_id),
        "databricks-login": (network.DATABRICKS_LOGIN, databricks.workspace_id),
        "ml-blob": (network.BLOB, machine_learning.storage_account_id),
        "ml-file": (network.FILE, machine_learning.storage_account_id),
        "ml-workspace": (network.MACHINE_LEARNING, machine_learning.workspace_id),
    }
    return [into.connect(purpose, target, resource_id) for purpose, (target, resource_id) in targets.items()]
