"""The registry that builds and stores the scoring image.

Does not start builds: `release/serving_stage/image.py` does. Does not grant pulls: `access.py` does.
"""

from dataclasses import dataclass
from typing import Self

import pulumi
from pulumi_azure_native import containerregistry

from infra.config.naming import Names
from infra.config.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ContainerRegistryArgs:
    """Arguments of `ContainerRegistry`. `private` and `zone_redundant` alone select the SKU.

    private: reachable through private endpoints only.
    zone_redundant: keep copies in several zones.
    build_subnet_id: subnet for build machines in a private network, which the default machines cannot reach.
    protect: refuse deletion by Pulumi; it has no influence on the SKU or its price.
    """

    resource_group_name: pulumi.Input[str]
    registry_name: str
    private: bool
    zone_redundant: bool
    build_subnet_id: pulumi.Input[str] | None = None
    protect: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        resource_group_name: pulumi.Input[str],
        names: Names,
        *,
        build_subnet_id: pulumi.Input[str] | None,
    ) -> Self:
        return cls(
            resource_group_name=resource_group_name,
            registry_name=names.container_registry,
            private=settings.network.is_private,
            zone_redundant=settings.zone_redundant,
            build_subnet_id=build_subnet_id,
            protect=settings.production,
        )

    @property
    def premium(self) -> bool:
        """Whether the SKU is Premium: private endpoints and zone redundancy need it. Otherwise Basic is enough."""
        return self.private or self.zone_redundant


class ContainerRegistry(pulumi.ComponentResource):
    registry_id: pulumi.Output[str]
    registry_name: pulumi.Output[str]
    login_server: pulumi.Output[str]
    registry_uid: pulumi.Output[str]
    """Time of the registry's creation: a registry that is created again under its name holds no image.

    Source: azure-mgmt-containerregistry==15.0.0 azure/mgmt/containerregistry/models/_models.py
    (RegistryProperties.creation_date)
    """
    build_pool: pulumi.Output[str] | None
    """Name of the pool of build machines; None for the registry's default machines."""

    def __init__(self, name: str, args: ContainerRegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:serving:ContainerRegistry", name, None, opts)
        access, redundancy = containerregistry.PublicNetworkAccess, containerregistry.ZoneRedundancy
        registry = containerregistry.Registry(
            name,
            registry_name=args.registry_name,
            resource_group_name=args.resource_group_name,
            sku=containerregistry.SkuArgs(name="Premium" if args.premium else "Basic"),
            admin_user_enabled=False,
            anonymous_pull_enabled=False,
            public_network_access=access.DISABLED if args.private else access.ENABLED,
            network_rule_bypass_options=containerregistry.NetworkRuleBypassOptions.AZURE_SERVICES,
            zone_redundancy=redundancy.ENABLED if args.zone_redundant else redundancy.DISABLED,
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )
        self.build_pool = None
        if args.build_subnet_id is not None:
            self.build_pool = containerregistry.AgentPool(
                f"{name}-builds",
                agent_pool_name="builds",
                registry_name=registry.name,
                resource_group_name=args.resource_group_name,
                # Source: MicrosoftDocs/azure-management-docs articles/container-registry/tasks-agent-pools.md (tiers)
                tier="S1",
                count=1,
                os=containerregistry.OS.LINUX,
                virtual_network_subnet_resource_id=args.build_subnet_id,
                opts=pulumi.ResourceOptions(parent=self),
            ).name
        self.registry_id = registry.id
        self.registry_name = registry.name
        self.login_server = registry.login_server
        self.registry_uid = registry.creation_date
        self.register_outputs({"registry_id": self.registry_id, "login_server": self.login_server})
