"""The private network: one address space cut into subnets, one way out, and private endpoints with their DNS zones.

Exists where `network:mode` is `private`. Does not peer with another network and opens no way in: deployers of a release
and callers of the endpoint are inside the network, or use a gateway that the organisation owns. Does not make Log
Analytics private: monitoring data leaves through the gateway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Self

import pulumi
from pulumi_azure_native import network, privatedns

from infra.config.addresses import DATABRICKS_CONTAINERS, DATABRICKS_HOSTS, ENDPOINTS, NODES, subnets_of
from infra.config.naming import Names
from infra.config.settings import Settings


@dataclass(frozen=True)
class PrivateLinkTarget:
    """Target of a private endpoint: a sub-resource of a resource, and the DNS zones of its names."""

    group: str
    zones: tuple[str, ...]


# Source: MicrosoftDocs/azure-docs articles/private-link/private-endpoint-dns.md
# (compared by tests/conformance/test_documented_lists.py)
BLOB = PrivateLinkTarget("blob", ("privatelink.blob.core.windows.net",))
DFS = PrivateLinkTarget("dfs", ("privatelink.dfs.core.windows.net",))
FILE = PrivateLinkTarget("file", ("privatelink.file.core.windows.net",))
VAULT = PrivateLinkTarget("vault", ("privatelink.vaultcore.azure.net",))
REGISTRY = PrivateLinkTarget("registry", ("privatelink.azurecr.io",))
# Source: MicrosoftDocs/azure-docs articles/private-link/private-endpoint-dns.md
MACHINE_LEARNING = PrivateLinkTarget("amlworkspace", ("privatelink.api.azureml.ms", "privatelink.notebooks.azure.net"))
DATABRICKS = PrivateLinkTarget("databricks_ui_api", ("privatelink.azuredatabricks.net",))
DATABRICKS_LOGIN = PrivateLinkTarget("browser_authentication", ("privatelink.azuredatabricks.net",))
_INJECTED = (DATABRICKS_HOSTS, DATABRICKS_CONTAINERS)
"""Subnets that Databricks puts its clusters into."""


@dataclass(frozen=True)
class NetworkArgs:
    resource_group_name: pulumi.Input[str]
    names: Names
    address_space: str
    zones: Sequence[str]
    """Availability zones of the outbound address; empty where the region has none."""

    @classmethod
    def of(cls, settings: Settings, resource_group_name: pulumi.Input[str], names: Names) -> Self:
        return cls(resource_group_name, names, settings.network.address_space, settings.zones)


class Network(pulumi.ComponentResource):
    network_id: pulumi.Output[str]
    address_id: pulumi.Output[str]
    """The public address that all outbound traffic comes from."""
    guard_ids: dict[str, pulumi.Output[str]]
    """Ids of the network security groups, by purpose of their subnets."""

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:network:Network", name, None, opts)
        self._name, self._args = name, args
        self._zones: dict[str, pulumi.Output[str]] = {}
        address = self._outbound_address(f"{name}-outbound", args)
        gateway = self._gateway(f"{name}-outbound", args, address)
        guards = self._guards(name, args)

        def subnet(purpose: str, prefix: IPv4Network) -> "network.SubnetArgs":
            guard = guards["databricks" if purpose in _INJECTED else purpose]
            return _subnet(purpose, prefix, guard.id, None if purpose == ENDPOINTS else gateway.id)

        # Inline, because Azure changes one subnet of a network at a time and refuses the others meanwhile.
        self._network = network.VirtualNetwork(
            name,
            virtual_network_name=args.names.virtual_network,
            resource_group_name=args.resource_group_name,
            address_space=network.AddressSpaceArgs(address_prefixes=[args.address_space]),
            subnets=[subnet(purpose, prefix) for purpose, prefix in subnets_of(args.address_space).items()],
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.network_id = self._network.id
        self.address_id = address.id
        self.guard_ids = {purpose: guard.id for purpose, guard in guards.items()}
        self.register_outputs({"network_id": self.network_id})

    def _outbound_address(self, name: str, args: NetworkArgs) -> "network.PublicIPAddress":
        """Declare the address that all outbound traffic comes from."""
        return network.PublicIPAddress(
            name,
            public_ip_address_name=args.names.outbound_address,
            resource_group_name=args.resource_group_name,
            sku=network.PublicIPAddressSkuArgs(
                name=network.PublicIPAddressSkuName.STANDARD, tier=network.PublicIPAddressSkuTier.REGIONAL
            ),
            public_ip_allocation_method=network.IPAllocationMethod.STATIC,
            public_ip_address_version=network.IPVersion.I_PV4,
            zones=list(args.zones) or None,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _gateway(self, name: str, args: NetworkArgs, address: "network.PublicIPAddress") -> "network.NatGateway":
        """Declare the way out. A NAT gateway exists in one zone or in none; its address spans them."""
        return network.NatGateway(
            name,
            nat_gateway_name=args.names.nat_gateway,
            resource_group_name=args.resource_group_name,
            sku=network.NatGatewaySkuArgs(name=network.NatGatewaySkuName.STANDARD),
            public_ip_addresses=[network.SubResourceArgs(id=address.id)],
            # Source: MicrosoftDocs/azure-docs articles/nat-gateway/nat-gateway-resource.md (4 to 120 minutes)
            idle_timeout_in_minutes=10,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _guards(self, name: str, args: NetworkArgs) -> "dict[str, network.NetworkSecurityGroup]":
        """Declare the security groups, by purpose of their subnets; Databricks' two subnets share one.

        Databricks adds its rules to that group, and removes them again.
        Source: https://learn.microsoft.com/azure/databricks/security/network/classic/vnet-inject
        """
        return {
            purpose: network.NetworkSecurityGroup(
                f"{name}-{purpose}",
                network_security_group_name=args.names.security_group(purpose),
                resource_group_name=args.resource_group_name,
                opts=pulumi.ResourceOptions(parent=self, ignore_changes=["securityRules"]),
            )
            for purpose in ("databricks", NODES, ENDPOINTS)
        }

    def subnet_id(self, purpose: str) -> pulumi.Output[str]:
        return pulumi.Output.format("{0}/subnets/{1}", self.network_id, purpose)

    def connect(
        self,
        purpose: str,
        target: PrivateLinkTarget,
        resource_id: pulumi.Input[str],
        *,
        after: Sequence[pulumi.Resource],
    ) -> pulumi.Resource:
        """Create a private endpoint to one sub-resource. Return the resource after which its name resolves inside."""
        endpoint = network.PrivateEndpoint(
            f"{self._name}-{purpose}",
            private_endpoint_name=self._args.names.private_endpoint(purpose),
            resource_group_name=self._args.resource_group_name,
            # Not `SubnetArgs`, whose defaults would be sent along with the id.
            subnet={"id": self.subnet_id(ENDPOINTS)},
            private_link_service_connections=[
                network.PrivateLinkServiceConnectionArgs(
                    name=purpose, private_link_service_id=resource_id, group_ids=[target.group]
                )
            ],
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(after)),
        )
        return network.PrivateDnsZoneGroup(
            f"{self._name}-{purpose}",
            private_dns_zone_group_name="default",
            private_endpoint_name=endpoint.name,
            resource_group_name=self._args.resource_group_name,
            private_dns_zone_configs=[
                network.PrivateDnsZoneConfigArgs(name=zone.replace(".", "-"), private_dns_zone_id=self._zone(zone))
                for zone in target.zones
            ],
            opts=pulumi.ResourceOptions(parent=endpoint),
        )

    def _zone(self, zone_name: str) -> pulumi.Output[str]:
        """Id of the private zone. A network uses one zone for each name, so endpoints share it.

        Source: Azure/azure-rest-api-specs
        specification/privatedns/resource-manager/Microsoft.Network/stable/2024-06-01/examples/VirtualNetworkLinkPut.json
        (`Global`; PrivateZonePut.json has it for the zone)
        """
        if zone_name not in self._zones:
            zone = privatedns.PrivateZone(
                f"{self._name}-{zone_name}",
                private_zone_name=zone_name,
                resource_group_name=self._args.resource_group_name,
                location="Global",
                opts=pulumi.ResourceOptions(parent=self),
            )
            privatedns.VirtualNetworkLink(
                f"{self._name}-{zone_name}",
                virtual_network_link_name="network",
                private_zone_name=zone.name,
                resource_group_name=self._args.resource_group_name,
                location="Global",
                registration_enabled=False,
                virtual_network=privatedns.SubResourceArgs(id=self.network_id),
                opts=pulumi.ResourceOptions(parent=zone),
            )
            self._zones[zone_name] = zone.id
        return self._zones[zone_name]


def _subnet(
    purpose: str, prefix: IPv4Network, guard_id: pulumi.Input[str], gateway_id: pulumi.Input[str] | None
) -> "network.SubnetArgs":
    """One subnet with its security group; `gateway_id` is the way out, None for a subnet that needs none."""
    # Source: https://learn.microsoft.com/azure/databricks/security/network/classic/vnet-inject
    delegation = network.DelegationArgs(name="databricks", service_name="Microsoft.Databricks/workspaces")
    return network.SubnetArgs(
        name=purpose,
        address_prefix=str(prefix),
        default_outbound_access=False,
        nat_gateway=None if gateway_id is None else network.SubResourceArgs(id=gateway_id),
        network_security_group=network.NetworkSecurityGroupArgs(id=guard_id),
        delegations=[delegation] if purpose in _INJECTED else None,
        private_endpoint_network_policies=network.VirtualNetworkPrivateEndpointNetworkPolicies.DISABLED,
        # Azure's default. AmlCompute without public addresses needs it disabled, and no stack has that.
        # Source: Azure/azure-quickstart-templates#11849
        private_link_service_network_policies=network.VirtualNetworkPrivateLinkServiceNetworkPolicies.ENABLED,
    )
