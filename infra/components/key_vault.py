"""The key vault for the secrets of Azure ML: access by role only, purge protection by configuration.

The program writes no secret into it: all its services authenticate by identity. A runner inside the network reads the
key of its GitHub App from it (`runner/runner.py`); the App's owner puts the key there.
"""

from dataclasses import dataclass
from typing import Self

import pulumi
from pulumi_azure_native import keyvault

from infra.components.protection import stateful
from infra.config.naming import Names
from infra.config.settings import Settings


@dataclass(frozen=True, kw_only=True)
class KeyVaultArgs:
    resource_group_name: pulumi.Input[str]
    vault_name: str
    tenant_id: pulumi.Input[str]
    purge_protection: bool
    private: bool
    protect: bool = False

    @classmethod
    def of(
        cls, settings: Settings, resource_group_name: pulumi.Input[str], names: Names, *, tenant_id: pulumi.Input[str]
    ) -> Self:
        return cls(
            resource_group_name=resource_group_name,
            vault_name=names.key_vault,
            tenant_id=tenant_id,
            purge_protection=settings.access.purge_protection,
            private=settings.network.is_private,
            protect=settings.production,
        )


class KeyVault(pulumi.ComponentResource):
    vault_id: pulumi.Output[str]
    vault_uri: pulumi.Output[str]

    def __init__(self, name: str, args: KeyVaultArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:security:KeyVault", name, None, opts)
        action = keyvault.NetworkRuleAction
        vault = keyvault.Vault(
            name,
            vault_name=args.vault_name,
            resource_group_name=args.resource_group_name,
            properties=keyvault.VaultPropertiesArgs(
                tenant_id=args.tenant_id,
                sku=keyvault.SkuArgs(family=keyvault.SkuFamily.A, name=keyvault.SkuName.STANDARD),
                enable_rbac_authorization=True,
                enable_soft_delete=True,
                # Source: azure-mgmt-keyvault==14.1.0 azure/mgmt/keyvault/models/_models.py (`VaultProperties`: 7 to 90)
                soft_delete_retention_in_days=30,
                # Azure refuses an explicit false.
                enable_purge_protection=True if args.purge_protection else None,
                public_network_access="Disabled" if args.private else "Enabled",
                network_acls=keyvault.NetworkRuleSetArgs(
                    default_action=action.DENY if args.private else action.ALLOW,
                    bypass=keyvault.NetworkRuleBypassOptions.AZURE_SERVICES,
                ),
            ),
            opts=stateful(self, args.protect),
        )
        self.vault_id = vault.id
        self.vault_uri = vault.properties.apply(lambda properties: properties.vault_uri)
        self.register_outputs({"vault_id": self.vault_id})
