"""The registry that builds and keeps the scoring image.

Does not build: `release/image.py` uploads a context and asks the registry to. Does not grant pulls: `access.py`.
"""

from dataclasses import dataclass

import pulumi
from pulumi_azure_native import containerregistry


@dataclass(frozen=True)
class ContainerRegistryArgs:
    resource_group_name: pulumi.Input[str]
    registry_name: str
    zone_redundant: bool
    build_subnet_id: pulumi.Input[str] | None = None
    """Where builds run in a private network, which the registry's own build machines cannot enter."""
    protect: bool = False

    @property
    def premium(self) -> bool:
        """Private endpoints and zone redundancy are for Premium alone."""
        return self.protect or self.zone_redundant or self.build_subnet_id is not None


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
    """Name of the machines that build; none for the registry's own."""

    def __init__(self, name: str, args: ContainerRegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:serving:ContainerRegistry", name, None, opts)
        access, redundancy = containerregistry.PublicNetworkAccess, containerregistry.ZoneRedundancy
        private = args.build_subnet_id is not None
        registry = containerregistry.Registry(
            name,
            registry_name=args.registry_name,
            resource_group_name=args.resource_group_name,
            sku=containerregistry.SkuArgs(name="Premium" if args.premium else "Basic"),
            admin_user_enabled=False,
            anonymous_pull_enabled=False,
            public_network_access=access.DISABLED if private else access.ENABLED,
            network_rule_bypass_options=containerregistry.NetworkRuleBypassOptions.AZURE_SERVICES,
            zone_redundancy=redundancy.ENABLED if args.zone_redundant else redundancy.DISABLED,
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )
        self.build_pool = None
        if private:
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
