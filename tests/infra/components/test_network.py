"""The private network: its subnets, and no other public address."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.config.addresses import POD_RANGE, SERVICE_RANGE, require_room, subnets_of
from infra.config.loading import ConfigError
from testing.stack.infra_graph import Graph, graph, settings

PRIVATE = {"network__mode": "private", "personalization__production": "true"}


@pytest.fixture(scope="module")
def private() -> Graph:
    return graph(**PRIVATE)


@given(st.integers(0, 255), st.integers(16, 24))
def test_subnets_fill_the_space_without_overlap_and_each_holds_databricks(second: int, prefix: int) -> None:
    space = IPv4Network(f"10.{second}.0.0/{prefix}", strict=False)
    if space.overlaps(POD_RANGE) or space.overlaps(SERVICE_RANGE):
        with pytest.raises(ValueError, match="range of the cluster's"):
            subnets_of(str(space))
        return
    subnets = list(subnets_of(str(space)).values())
    assert sum(subnet.num_addresses for subnet in subnets) == space.num_addresses
    assert all(subnet.subnet_of(space) and subnet.prefixlen <= 26 for subnet in subnets)
    assert not any(a.overlaps(b) for a in subnets for b in subnets if a is not b)


@given(st.integers(1, 2000), st.integers(16, 24))
def test_address_space_refused_for_its_size_is_accepted_in_the_named_size(machines: int, prefix: int) -> None:
    try:
        require_room(f"172.16.0.0/{prefix}", {"databricks-hosts": machines})
    except ValueError as error:
        wanted = str(error).partition("Give a /")[2].partition(" ")[0]
        assert int(wanted) < prefix
        require_room(f"172.16.0.0/{wanted}", {"databricks-hosts": machines})


def test_network_too_small_for_its_machines_is_refused_before_any_resource() -> None:
    with pytest.raises(ConfigError, match=r"network:address_space: its subnet databricks-hosts, .*Give a /22 or fewer"):
        settings(network__mode="private", network__address_space="10.40.0.0/24", training__workers="120")


def test_private_stack_has_no_public_endpoint(private: Graph) -> None:
    checked = 0
    for found in private.resources:
        inputs = {**found.inputs, **found.inputs.get("properties", {})}
        if "publicNetworkAccess" in inputs:
            assert inputs["publicNetworkAccess"] == "Disabled", found
            checked += 1
    assert checked == 7  # two accounts, vault, registry, Databricks, Azure ML and its endpoint
    (cluster,) = private.of("containerservice:ManagedCluster")
    server = cluster.inputs["apiServerAccessProfile"]
    assert (server["enablePrivateCluster"], server["enablePrivateClusterPublicFQDN"]) == (True, False)
    (extension,) = private.of("kubernetesconfiguration:Extension")
    router = extension.inputs["configurationSettings"]
    assert router["internalLoadBalancerProvider"] == "azure"
    assert router["scoringFe.serviceType.internalLoadBalancer"] == "True"


def test_every_private_resource_has_an_endpoint_and_a_dns_zone(private: Graph) -> None:
    connections = [
        (connection["privateLinkServiceId"].rpartition("/")[2], group)
        for endpoint in private.of("network:PrivateEndpoint")
        for connection in endpoint.inputs["privateLinkServiceConnections"]
        for group in connection["groupIds"]
    ]
    assert sorted(connections) == [
        ("databricks", "browser_authentication"),
        ("databricks", "databricks_ui_api"),
        ("lake", "blob"),
        ("lake", "dfs"),
        ("machine-learning", "amlworkspace"),
        ("machine-learning-storage", "blob"),
        ("machine-learning-storage", "file"),
        ("registry", "registry"),
        ("vault", "vault"),
    ]
    zones = {zone.inputs["privateZoneName"] for zone in private.of("privatedns:PrivateZone")}
    assert {"privatelink.blob.core.windows.net", "privatelink.dfs.core.windows.net"} < zones
    assert len(private.of("privatedns:VirtualNetworkLink")) == len(zones)
    assert len(private.of("network:PrivateDnsZoneGroup")) == len(connections)


def test_databricks_subnets_are_delegated_guarded_and_have_a_gateway(private: Graph) -> None:
    (network,) = private.of("network:VirtualNetwork")
    subnets = {subnet["name"]: subnet for subnet in network.inputs["subnets"]}
    parameters = private.of("databricks:Workspace")[0].inputs["parameters"]
    assert parameters["enableNoPublicIp"]["value"] is True
    for name in ("customPublicSubnetName", "customPrivateSubnetName"):
        subnet = subnets[parameters[name]["value"]]
        assert subnet["delegations"][0]["serviceName"] == "Microsoft.Databricks/workspaces"
        assert subnet["networkSecurityGroup"]["id"]
        assert subnet["natGateway"]["id"]
        assert subnet["defaultOutboundAccess"] is False
    assert "natGateway" not in subnets["endpoints"]


def test_nodes_are_in_their_subnet_and_use_the_gateway(private: Graph) -> None:
    (cluster,) = private.of("containerservice:ManagedCluster")
    (pool,) = private.of("containerservice:AgentPool")
    assert cluster.inputs["networkProfile"]["outboundType"] == "userAssignedNATGateway"
    assert cluster.inputs["networkProfile"]["networkPluginMode"] == "overlay"
    for subnet in (cluster.inputs["agentPoolProfiles"][0]["vnetSubnetID"], pool.inputs["vnetSubnetID"]):
        assert subnet.endswith("/subnets/nodes")


def test_registry_builds_images_inside_the_network(private: Graph) -> None:
    (pool,) = private.of("containerregistry:AgentPool")
    (image,) = private.of("containerregistry:ScoringImage")
    assert image.inputs["build_pool"] == pool.name
    assert pool.inputs["virtualNetworkSubnetResourceId"].endswith("/subnets/nodes")
    (workspace,) = private.of("machinelearningservices:Workspace")
    assert "imageBuildCompute" not in workspace.inputs
    assert not private.of("ices:Compute")


def test_authorized_ranges_keep_the_api_server_public_for_these_ranges_only() -> None:
    (cluster,) = graph(**PRIVATE, network__authorized_ranges='["203.0.113.0/24"]').of(":ManagedCluster")
    profile = cluster.inputs["apiServerAccessProfile"]
    assert (profile["enablePrivateCluster"], profile["authorizedIPRanges"]) == (False, ["203.0.113.0/24"])


def test_public_stack_declares_no_network() -> None:
    assert not [
        found
        for found in graph().resources
        if found.type.startswith(("azure-native:network", "azure-native:privatedns"))
    ]


def test_dns_zones_get_only_the_tags_that_azure_keeps_there() -> None:
    many = {f"tags__t{number}": "x" for number in range(20)}
    found = graph(network__mode="private", **many, **{"tags__Cost Center": "1", "tags__a:b": "2"})
    for kept in (found.of("privatedns:PrivateZone")[0], found.of("privatedns:VirtualNetworkLink")[0]):
        tags = kept.inputs["tags"]
        assert {"environment", "stack"} < set(tags)
        assert not {"Cost Center", "a:b"} & set(tags)
        assert len(tags) == 15
    assert len(found.of("storage:StorageAccount")[0].inputs["tags"]) == 24
