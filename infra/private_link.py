"""Private endpoints to all resources of the program that would otherwise have a public endpoint, as one table.

Does not make the cluster's API server and the scoring router private: `aks/cluster.py` and `inference.py` do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from infra.components import network
from infra.components.container_registry import ContainerRegistry
from infra.components.data_lake import DataLake
from infra.components.databricks import Databricks
from infra.components.key_vault import KeyVault
from infra.components.ml_workspace import MachineLearning
from infra.components.network import Network, PrivateLinkTarget


@dataclass(frozen=True)
class Chain:
    """Private endpoints to one target, created in this order."""

    owner: pulumi.Resource
    """Component of the target: the endpoints depend on all its resources."""
    target_id: pulumi.Output[str]
    endpoints: Mapping[str, PrivateLinkTarget]
    """Sub-resource of the target by the endpoint's purpose, which is part of the endpoint's name."""


def connect_all(
    private_network: Network,
    lake: DataLake,
    vault: KeyVault,
    registry: ContainerRegistry,
    databricks: Databricks,
    machine_learning: MachineLearning,
) -> list[pulumi.Resource]:
    """Create all private endpoints. Return the resources on which a release depends: without them no name resolves."""
    # A target accepts several endpoints but connects one at a time: the operation of the next one fails. The provider
    # repeats only refused requests, not failed operations. So the endpoints to one target form a chain.
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
        # While a Databricks workspace joins the network it changes the subnets, and no endpoint can be created there.
        # Source: hashicorp/terraform-provider-azurerm#17649
        before: list[pulumi.Resource] = [databricks, chain.owner]
        for purpose, target in chain.endpoints.items():
            before = [private_network.connect(purpose, target, chain.target_id, after=before)]
            connected += before
    return connected
