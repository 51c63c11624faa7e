"""Azure resource names of one environment, as pure functions.

Every name ends with a hash of its owner (subscription, region, stack), so that two environments never collide and a
name is known before its resource exists. Names are cut to Azure's limits, and the hash always stays complete.
Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/management/resource-name-rules.md
"""

import hashlib
import uuid
from dataclasses import dataclass
from typing import Self

from infra.config.settings import Settings

RUNNER_SECRET = "github-runner"
"""The vault's secret that holds the private key of the runner's GitHub App, in PEM."""

_PROJECT = "pers"


@dataclass(frozen=True)
class Names:
    environment: str
    owner: str
    """Identifies the environment: subscription, region and stack."""

    @classmethod
    def of(cls, settings: Settings, subscription_id: str, stack: str) -> Self:
        """Return the names. Each generation has other names: soft-deleted resources may still hold the earlier ones."""
        again = f"/{settings.generation}" if settings.generation > 1 else ""
        return cls(settings.environment, f"{subscription_id}/{settings.location}/{stack}{again}")

    @property
    def resource_group(self) -> str:
        return self.hyphenated("rg", 90)

    @property
    def databricks_managed_group(self) -> str:
        return self.hyphenated("rg-dbw", 90)

    @property
    def kubernetes_node_group(self) -> str:
        # AKS writes it into a label of its nodes.
        # Source: Azure/bicep-registry-modules#5109 (63, in an overlay network);
        # Azure-Terraform/terraform-azurerm-kubernetes#33 (80 elsewhere)
        return self.hyphenated("rg-aks", 63)

    @property
    def lake(self) -> str:
        return self.compact("lake", 24)  # storage accounts: 3-24 lower-case letters and digits, unique in all of Azure

    @property
    def machine_learning_storage(self) -> str:
        return self.compact("ml", 24)

    @property
    def key_vault(self) -> str:
        return self.hyphenated("kv", 24)  # 3-24, unique in all of Azure, blocked while soft-deleted

    @property
    def log_analytics(self) -> str:
        return self.hyphenated("log", 63)

    @property
    def application_insights(self) -> str:
        return self.hyphenated("appi", 255)

    @property
    def container_registry(self) -> str:
        return self.compact("acr", 50)  # 5-50 letters and digits, unique in all of Azure

    @property
    def access_connector(self) -> str:
        # Source: hashicorp/terraform-provider-azurerm internal/services/databricks/validate/access_connector_name.go
        return self.hyphenated("dbac", 64)

    @property
    def databricks_workspace(self) -> str:
        # Source: hashicorp/terraform-provider-azurerm internal/services/databricks/validate/workspace_name.go
        return self.hyphenated("dbw", 64)

    @property
    def machine_learning_workspace(self) -> str:
        return self.hyphenated("mlw", 33)  # 3-33, blocked for 14 days after a deletion

    @property
    def kubernetes_cluster(self) -> str:
        return self.hyphenated("aks", 63)

    @property
    def endpoint(self) -> str:
        # 3-32, unique in the region
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-quotas.md
        return self.hyphenated("score", 32)

    @property
    def virtual_network(self) -> str:
        return self.hyphenated("vnet", 64)

    @property
    def nat_gateway(self) -> str:
        # Source: hashicorp/terraform-provider-azurerm internal/services/network/validate/nat_gateway_name.go
        return self.hyphenated("ng", 80)

    @property
    def outbound_address(self) -> str:
        return self.hyphenated("pip", 80)

    def security_group(self, purpose: str) -> str:
        return self.hyphenated(f"nsg-{purpose}", 80)

    def private_endpoint(self, purpose: str) -> str:
        # Source: hashicorp/terraform-provider-azurerm internal/services/network/validate/private_link_name.go (80)
        return self.hyphenated(f"pe-{purpose}", 64)

    @property
    def runner(self) -> str:
        return self.hyphenated("vmss", 64)

    @property
    def action_group(self) -> str:
        return self.hyphenated("ag", 260)

    def alert(self, subject: str) -> str:
        return self.hyphenated(f"alert-{subject}", 260)

    @property
    def collection_rule(self) -> str:
        # No source: create a data collection rule with a name of 65 characters on Azure.
        return self.hyphenated("dcr", 64)

    @property
    def budget(self) -> str:
        # Source: hashicorp/terraform-provider-azurerm internal/services/consumption/validate/name.go
        return self.hyphenated("budget", 63)

    @property
    def workbook(self) -> str:
        """A UUID, as Azure requires for workbooks; Azure shows their display name."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.owner}/{self.environment}/workbook"))

    def identity(self, actor: str) -> str:
        return self.hyphenated(f"id-{actor}", 128)

    @property
    def catalog(self) -> str:
        """Name of the catalog: letters, digits and underscores, unique in the metastore of a region."""
        return f"{_PROJECT}_{self.environment}_{self._digest('catalog')}"

    def hyphenated(self, abbreviation: str, limit: int) -> str:
        """Return `<abbreviation>-pers-<environment>-<hash>`, at most `limit` characters."""
        digest = self._digest(abbreviation)
        readable = f"{abbreviation}-{_PROJECT}-{self.environment}"[: limit - len(digest) - 1].rstrip("-")
        return f"{readable}-{digest}"

    def compact(self, purpose: str, limit: int) -> str:
        """Return `<purpose>pers<environment><hash>`: lower-case letters and digits, at most `limit` characters."""
        digest = self._digest(purpose)
        readable = "".join(c for c in f"{purpose}{_PROJECT}{self.environment}".lower() if c.isascii() and c.isalnum())
        return readable[: limit - len(digest)] + digest

    def _digest(self, purpose: str) -> str:
        return hashlib.sha256(f"{self.owner}/{self.environment}/{purpose}".encode()).hexdigest()[:6]
