"""The AKS cluster of the endpoint: a system pool inline, which `system_pool.py` changes, and the scoring pool.

The scoring pool is separate because editing inline pools puts every pool into scaling (pulumi-azure-native#4264). A
pool's size, zones and network cannot change, so the pools' names depend on them: the new pool exists before the old one
is drained and deleted. The order of all writes to the cluster is in `write_order.py`.
Does not install anything into the cluster and exports no kubeconfig: people log in through Entra, Azure ML uses its
extension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import pulumi
from pulumi_azure_native import containerservice as aks

from infra.aks.node_pools import PoolDrain, PoolDrainInputs, pool_name
from infra.aks.system_pool import SystemPool, SystemPoolInputs
from infra.aks.write_order import WriteOrder
from infra.components.identities import Identities
from infra.config.addresses import DNS_SERVICE, POD_RANGE, SERVICE_RANGE
from infra.config.naming import Names
from infra.config.settings import Settings


@dataclass(frozen=True)
class KubernetesArgs:
    resource_group_name: pulumi.Input[str]
    cluster_name: str
    node_resource_group: str
    tenant_id: pulumi.Input[str]
    admin_group_ids: Sequence[str]
    identities: Identities
    log_workspace_id: pulumi.Input[str]
    version: str | None
    """None for AKS's default; then AKS upgrades it within its channel."""
    system_node_size: str
    system_nodes: int
    scoring_node_size: str
    scoring_nodes_min: int
    scoring_nodes_max: int
    tier: str
    zones: Sequence[str]
    maintenance_day: str
    maintenance_hour: int
    """UTC"""
    authorized_ranges: Sequence[str]
    node_subnet_id: pulumi.Input[str] | None = None
    """Subnet of the nodes in a private network; none where Azure makes the network."""
    protect: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        resource_group_name: pulumi.Input[str],
        names: Names,
        *,
        tenant_id: pulumi.Input[str],
        identities: Identities,
        log_workspace_id: pulumi.Input[str],
        node_subnet_id: pulumi.Input[str] | None,
    ) -> Self:
        return cls(
            resource_group_name=resource_group_name,
            cluster_name=names.kubernetes_cluster,
            node_resource_group=names.kubernetes_node_group,
            tenant_id=tenant_id,
            admin_group_ids=settings.access.cluster_admins,
            identities=identities,
            log_workspace_id=log_workspace_id,
            version=settings.serving.kubernetes_version,
            system_node_size=settings.serving.system_size,
            system_nodes=settings.serving.system_nodes,
            scoring_node_size=settings.serving.node_size,
            scoring_nodes_min=settings.serving.nodes_min,
            scoring_nodes_max=settings.serving.nodes_max,
            tier="Standard" if settings.production else "Free",
            zones=settings.zones if settings.production else (),
            maintenance_day=settings.reliability.maintenance_day,
            maintenance_hour=settings.reliability.maintenance_hour,
            authorized_ranges=settings.network.authorized_ranges,
            node_subnet_id=node_subnet_id,
            protect=settings.production,
        )

    @property
    def is_private(self) -> bool:
        return self.node_subnet_id is not None

    @property
    def system_pool_name(self) -> str:
        return pool_name(_SYSTEM, self.system_node_size, list(self.zones), self.is_private)

    @property
    def scoring_pool_name(self) -> str:
        return pool_name(_SCORING, self.scoring_node_size, list(self.zones), self.is_private)


# Not Azure's engine NPM, whose support ends (compatibility.yaml). "Cilium dataplane requires network policy cilium".
# Source: MicrosoftDocs/azure-aks-docs articles/aks/azure-cni-powered-by-cilium.md (overlay, Linux);
# Azure/AKS-Construction#535
NETWORK_POLICY = "cilium"
_SCORING, _SYSTEM = "scoring", "system"
# Additional nodes while an upgrade runs; the subnet has addresses for them.
# Source: MicrosoftDocs/azure-aks-docs articles/aks/resize-node-pool.md (AKS's default)
_SURGE = "1"
SCORING_LABEL = {"personalization/pool": _SCORING}


class Kubernetes(pulumi.ComponentResource):
    cluster_id: pulumi.Output[str]
    cluster_name: pulumi.Output[str]
    cluster_uid: pulumi.Output[str]
    """Id that changes when the cluster is created again under its name."""
    system_pool: SystemPool
    scoring_pool: aks.AgentPool
    writes: WriteOrder
    """Writes of the cluster so far; the next component that writes to the cluster continues the list."""

    def __init__(self, name: str, args: KubernetesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:serving:Kubernetes", name, None, opts)
        self.writes = writes = WriteOrder()
        cluster = writes.wrote(self._cluster(name, args, after=writes.before("cluster")))
        self.system_pool = writes.wrote(
            self._system_pool(f"{name}-{_SYSTEM}", args, cluster, after=writes.before("system pool"))
        )
        self.scoring_pool = writes.wrote(
            self._scoring_pool(f"{name}-{_SCORING}", args, cluster, after=writes.before("scoring pool"))
        )
        drain = PoolDrain(
            f"{name}-{_SCORING}-drain",
            PoolDrainInputs(
                cluster_id=cluster.id,
                cluster_uid=cluster.resource_uid,
                pool=args.scoring_pool_name,
                prefix=_SCORING,
                minimum=args.scoring_nodes_min,
            ),
            # Source: MicrosoftDocs/azure-aks-docs articles/aks/resize-node-pool.md
            pulumi.ResourceOptions(parent=self, depends_on=writes.before("drain of the scoring pool")),
        )
        writes.wrote(drain)
        for step, config in (
            ("version upgrades", "aksManagedAutoUpgradeSchedule"),
            ("node image upgrades", "aksManagedNodeOSUpgradeSchedule"),
        ):
            writes.wrote(self._upgrades(f"{name}-{config}", config, cluster.name, args, after=writes.before(step)))
        self.cluster_id = cluster.id
        self.cluster_name = cluster.name
        self.cluster_uid = cluster.resource_uid
        self.register_outputs({"cluster_id": self.cluster_id})

    def _cluster(self, name: str, args: KubernetesArgs, *, after: Sequence[pulumi.Resource]) -> aks.ManagedCluster:
        """Declare the cluster with its system pool, which AKS requires in the body of a new cluster."""
        return aks.ManagedCluster(
            name,
            resource_name_=args.cluster_name,
            resource_group_name=args.resource_group_name,
            node_resource_group=args.node_resource_group,
            dns_prefix=args.cluster_name,
            kubernetes_version=args.version,
            sku=aks.ManagedClusterSKUArgs(name=aks.ManagedClusterSKUName.BASE, tier=args.tier),
            **_identity(args),
            **_login(args),
            api_server_access_profile=_api_server(args),
            network_profile=_network_profile(args),
            # Collects container output where a rule says so (`monitoring/containers.py`), by identity.
            addon_profiles={
                "omsagent": aks.ManagedClusterAddonProfileArgs(
                    enabled=True,
                    config={"logAnalyticsWorkspaceResourceID": args.log_workspace_id, "useAADAuth": "true"},
                ),
                "azurepolicy": aks.ManagedClusterAddonProfileArgs(enabled=True),
            },
            auto_upgrade_profile=aks.ManagedClusterAutoUpgradeProfileArgs(
                upgrade_channel=aks.UpgradeChannel.STABLE,
                node_os_upgrade_channel=aks.NodeOSUpgradeChannel.NODE_IMAGE,
            ),
            agent_pool_profiles=[_inline_system_pool(args)],
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,
                depends_on=[*after, *args.identities.before_cluster],
                # AKS reports every pool back with its own defaults, and the version that it upgraded to.
                # Source: pulumi/pulumi-azure-native#4264; aztfmod/terraform-azurerm-caf#928 (roles first)
                ignore_changes=["agentPoolProfiles", *([] if args.version else ["kubernetesVersion"])],
                # Azure cannot make a public API server private, nor a private one public; the provider would try it.
                # Source: MicrosoftDocs/azure-aks-docs articles/aks/private-clusters.md (only with VNet integration)
                replace_on_changes=["apiServerAccessProfile.enablePrivateCluster"],
            ),
        )

    def _system_pool(
        self, name: str, args: KubernetesArgs, cluster: aks.ManagedCluster, *, after: Sequence[pulumi.Resource]
    ) -> SystemPool:
        """Declare the adoption of the system pool, in the ARM form of `_inline_system_pool`."""
        inputs = SystemPoolInputs(
            cluster_id=cluster.id,
            cluster_uid=cluster.resource_uid,
            cluster_etag=cluster.e_tag,
            pool=args.system_pool_name,
            count=args.system_nodes,
            shape={
                "mode": "System",
                "type": "VirtualMachineScaleSets",
                "vmSize": args.system_node_size,
                "osType": "Linux",
                "osSKU": "Ubuntu",
                "availabilityZones": list(args.zones) or None,
                "vnetSubnetID": args.node_subnet_id,
                "upgradeSettings": {"maxSurge": _SURGE},
            },
        )
        # Source: Azure/terraform-azurerm-avm-res-containerservice-managedcluster#160
        return SystemPool(name, inputs, pulumi.ResourceOptions(parent=self, depends_on=after))

    def _scoring_pool(
        self, name: str, args: KubernetesArgs, cluster: aks.ManagedCluster, *, after: Sequence[pulumi.Resource]
    ) -> aks.AgentPool:
        """Declare the autoscaled pool of all replicas and of the extension's pods."""
        return aks.AgentPool(
            name,
            agent_pool_name=args.scoring_pool_name,
            resource_name_=cluster.name,
            resource_group_name=args.resource_group_name,
            mode=aks.AgentPoolMode.USER,
            type=aks.AgentPoolType.VIRTUAL_MACHINE_SCALE_SETS,
            vm_size=args.scoring_node_size,
            os_type=aks.OSType.LINUX,
            os_sku=aks.OSSKU.UBUNTU,
            enable_auto_scaling=True,
            count=args.scoring_nodes_min,
            min_count=args.scoring_nodes_min,
            max_count=args.scoring_nodes_max,
            node_labels=SCORING_LABEL,
            availability_zones=list(args.zones) or None,
            vnet_subnet_id=args.node_subnet_id,
            upgrade_settings=aks.AgentPoolUpgradeSettingsArgs(max_surge=_SURGE),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=after,
                # The new pool has another name and is created first; pods move to it when the old one is drained.
                # Source: MicrosoftDocs/azure-aks-docs articles/aks/resize-node-pool.md;
                # Azure/terraform-azurerm-avm-res-containerservice-managedcluster#160
                delete_before_replace=False,
                # The autoscaler owns the count, but an update must send one.
                # Source: pulumi/pulumi-azure-native#2943
                ignore_changes=["count", "orchestratorVersion"],
                # A pool stays in the subnet and zones of its creation; the provider would try to move it.
                # Source: MicrosoftDocs/azure-aks-docs articles/aks/reliability-availability-zones-configure.md;
                # MicrosoftDocs/azure-aks-docs articles/aks/create-node-pools.md
                replace_on_changes=["vnetSubnetID", "availabilityZones"],
            ),
        )

    def _upgrades(
        self,
        name: str,
        config: str,
        cluster_name: pulumi.Output[str],
        args: KubernetesArgs,
        *,
        after: Sequence[pulumi.Resource],
    ) -> aks.MaintenanceConfiguration:
        """Declare the weekly window in which AKS upgrades versions, or node images. AKS has these two names of windows.

        Source: MicrosoftDocs/azure-aks-docs articles/aks/planned-maintenance.md (names)
        """
        return aks.MaintenanceConfiguration(
            name,
            config_name=config,
            resource_name_=cluster_name,
            resource_group_name=args.resource_group_name,
            # Source: MicrosoftDocs/azure-aks-docs articles/aks/planned-maintenance.md (four hours or more)
            maintenance_window=aks.MaintenanceWindowArgs(
                schedule=aks.ScheduleArgs(
                    weekly=aks.WeeklyScheduleArgs(day_of_week=args.maintenance_day, interval_weeks=1)
                ),
                duration_hours=4,
                utc_offset="+00:00",
                start_time=f"{args.maintenance_hour:02}:00",
            ),
            # No source: that AKS refuses this write, too, while another runs; write both windows at once on Azure.
            opts=pulumi.ResourceOptions(parent=self, depends_on=after),
        )


def _identity(args: KubernetesArgs) -> dict[str, Any]:
    """Identities of the control plane and of the nodes."""
    kubelet = args.identities.kubelet
    return {
        "identity": aks.ManagedClusterIdentityArgs(
            type=aks.ResourceIdentityType.USER_ASSIGNED,
            user_assigned_identities=[args.identities.cluster.id],
        ),
        "identity_profile": {
            "kubeletidentity": aks.UserAssignedIdentityArgs(
                resource_id=kubelet.id,
                client_id=kubelet.client_id,
                object_id=kubelet.principal_id,
            )
        },
    }


def _login(args: KubernetesArgs) -> dict[str, Any]:
    """Logins through Entra only, for people and for pods."""
    return {
        "enable_rbac": True,
        "aad_profile": aks.ManagedClusterAADProfileArgs(
            managed=True,
            enable_azure_rbac=True,
            tenant_id=args.tenant_id,
            admin_group_object_ids=list(args.admin_group_ids),
        ),
        "disable_local_accounts": True,
        "oidc_issuer_profile": aks.ManagedClusterOIDCIssuerProfileArgs(enabled=True),
        "security_profile": aks.ManagedClusterSecurityProfileArgs(
            workload_identity=aks.ManagedClusterSecurityProfileWorkloadIdentityArgs(enabled=True),
            # Source: MicrosoftDocs/azure-aks-docs articles/aks/image-cleaner.md (one day or more)
            image_cleaner=aks.ManagedClusterSecurityProfileImageCleanerArgs(enabled=True, interval_hours=168),
        ),
    }


def _api_server(args: KubernetesArgs) -> aks.ManagedClusterAPIServerAccessProfileArgs:
    """Access to the API server: private in a private network, unless authorized ranges may reach a public one."""
    hidden = args.is_private and not args.authorized_ranges
    return aks.ManagedClusterAPIServerAccessProfileArgs(
        authorized_ip_ranges=list(args.authorized_ranges) or None,
        enable_private_cluster=hidden,
        # By default a private cluster also has a public DNS name, which Azure ML does not support.
        # Source: MicrosoftDocs/azure-ai-docs
        # articles/machine-learning/how-to-secure-kubernetes-inferencing-environment.md (Limitations)
        enable_private_cluster_public_fqdn=False if hidden else None,
        private_dns_zone="system" if hidden else None,
        disable_run_command=True,
    )


def _network_profile(args: KubernetesArgs) -> aks.ContainerServiceNetworkProfileArgs:
    """Overlay network with Cilium; a private network's NAT gateway is the way out."""
    outbound = aks.OutboundType
    return aks.ContainerServiceNetworkProfileArgs(
        network_plugin=aks.NetworkPlugin.AZURE,
        network_plugin_mode=aks.NetworkPluginMode.OVERLAY,
        network_policy=aks.NetworkPolicy(NETWORK_POLICY),
        network_dataplane=aks.NetworkDataplane.CILIUM,
        load_balancer_sku=aks.LoadBalancerSku.STANDARD,
        outbound_type=outbound.USER_ASSIGNED_NAT_GATEWAY if args.is_private else outbound.LOAD_BALANCER,
        pod_cidr=str(POD_RANGE),
        service_cidr=str(SERVICE_RANGE),
        dns_service_ip=DNS_SERVICE,
    )


def _inline_system_pool(args: KubernetesArgs) -> aks.ManagedClusterAgentPoolProfileArgs:
    """The system pool in the body of the cluster, which only its creation sends."""
    return aks.ManagedClusterAgentPoolProfileArgs(
        name=args.system_pool_name,
        mode=aks.AgentPoolMode.SYSTEM,
        type=aks.AgentPoolType.VIRTUAL_MACHINE_SCALE_SETS,
        vm_size=args.system_node_size,
        count=args.system_nodes,
        os_type=aks.OSType.LINUX,
        os_sku=aks.OSSKU.UBUNTU,
        availability_zones=list(args.zones) or None,
        vnet_subnet_id=args.node_subnet_id,
        upgrade_settings=aks.AgentPoolUpgradeSettingsArgs(max_surge=_SURGE),
    )
