"""Private endpoints to everything the program declares that has a public one, as one table.

Does not hide the cluster's API server or the scoring router: `kubernetes.py` and `inference.py` place those inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from infra import network
from infra.container_registry import ContainerRegistry
from infra.data_lake import DataLake
from infra.databricks import Databricks
from infra.key_vault import KeyVault
from infra.ml_workspace import MachineLearning
from infra.network import Network, PrivateLinkTarget


@dataclass(frozen=True)
class Chain:
    """Private endpoints to one target, made in this order."""

    owner: pulumi.Resource
    """Component of the target: its endpoints wait for everything in it."""
    target_id: pulumi.Output[str]
    endpoints: Mapping[str, PrivateLinkTarget]
    """Targets by the endpoint's purpose, which names it."""


def connect_all(
    into: Network,
    lake: DataLake,
    vault: KeyVault,
    registry: ContainerRegistry,
    databricks: Databricks,
    machine_learning: MachineLearning,
) -> list[pulumi.Resource]:
    """Returns what a release waits for: before, no name resolves to an address it can reach."""
    # A target changes its list of connections for one endpoint at a time and fails the next one, as the operation's
    # result, where the provider repeats refused requests alone. So the endpoints to one target form a chain.
    # Source: databricks/terraform-databricks-examples#177; hashicorp/terraform-provider-azurerm#26373;
    # Azure/bicep-registry-modules#6001; hashicorp/terraform-provider-azurerm
    # internal/services/network/private_endpoint_resource.go (`retryableErrorCodes`)
    lake_id, account_id, databricks_id = lake.account_id, machine_learning.storage_account_id, databricks.workspace_id
    chains = [
        Chain(lake, lake_id, {"lake-blob": network.BLOB, "lake-dfs": network.DFS}),
        Chain(vault, vault.vault_id, {"vault": network.VAULT}),
        Chain(registry, registry.registry_id, {"registry": network.REGISTRY}),
        # Source: microsoft/terraform-provider-azuredevops#106 (the one for the API comes first)
        Chain(
            databricks, databricks_id, {"databricks": network.DATABRICKS, "databricks-login": network.DATABRICKS_LOGIN}
        ),
        Chain(machine_learning, account_id, {"ml-blob": network.BLOB, "ml-file": network.FILE}),
        Chain(machine_learning, machine_learning.workspace_id, {"ml-workspace": network.MACHINE_LEARNING}),
    ]
    connected: list[pulumi.Resource] = []
    for chain in chains:
        # A workspace that is being injected into the network changes its subnets, and no endpoint can be made there.
        # Source: hashicorp/terraform-provider-azurerm#17649
        before: list[pulumi.Resource] = [databricks, chain.owner]
        for purpose, target in chain.endpoints.items():
            before = [into.connect(purpose, target, chain.target_id, after=before)]
            connected += before
    return connected
