"""Reliability features of production stacks, which trial stacks lack."""

import pytest

from cli.changes.mock_program import run
from cli.paths import PROJECT
from cli.stacks import files
from infra.config.loading import ConfigError
from infra.config.naming import Names
from testing.stack.infra_graph import Graph, graph, settings


@pytest.fixture(scope="module")
def prod() -> Graph:
    return graph(personalization__production="true", serving__system_nodes="3")


def test_production_spans_the_zones_of_its_region(prod: Graph) -> None:
    (cluster,) = prod.of("containerservice:ManagedCluster")
    (pool,) = prod.of("containerservice:AgentPool")
    assert cluster.inputs["sku"]["tier"] == "Standard"
    assert cluster.inputs["agentPoolProfiles"][0]["availabilityZones"] == ["1", "2", "3"]
    assert pool.inputs["availabilityZones"] == ["1", "2", "3"]
    assert {account.inputs["sku"]["name"] for account in prod.of("storage:StorageAccount")} == {"Standard_ZRS"}
    (registry,) = prod.of("containerregistry:Registry")
    assert (registry.inputs["sku"]["name"], registry.inputs["zoneRedundancy"]) == ("Premium", "Enabled")


@pytest.mark.parametrize(
    ("config", "sku"),
    [
        pytest.param({}, "Basic", id="public"),
        pytest.param(
            {"personalization__production": "true", "reliability__redundancy": "local"}, "Basic", id="protected"
        ),
        pytest.param({"reliability__redundancy": "zone"}, "Premium", id="zones"),
        pytest.param({"network__mode": "private"}, "Premium", id="private"),
    ],
)
def test_registry_is_premium_for_private_endpoints_and_zones_only(config: dict[str, str], sku: str) -> None:
    (registry,) = graph(release__enabled="false", serving__system_nodes="3", **config).of("containerregistry:Registry")
    assert registry.inputs["sku"]["name"] == sku


@pytest.mark.parametrize(
    ("stack", "sku"),
    [("dev", "Basic"), ("local", "Basic"), ("prod-westeurope", "Premium"), ("prod-northeurope", "Premium")],
)
def test_registry_sku_of_each_shipped_stack(stack: str, sku: str) -> None:
    config = {**files.read(PROJECT, stack), "release:enabled": "false"}
    (registry,) = run(config, stack).of("containerregistry:Registry")
    assert registry.inputs["sku"]["name"] == sku


def test_region_without_zones_refuses_configured_zones() -> None:
    plain = graph(personalization__production="true", **{"azure-native__location": "westus"})
    (pool,) = plain.of("containerservice:AgentPool")
    assert "availabilityZones" not in pool.inputs
    assert {account.inputs["sku"]["name"] for account in plain.of("storage:StorageAccount")} == {"Standard_LRS"}
    with pytest.raises(ConfigError, match=r"reliability:zones names 1, but westus has no zones.*or remove it"):
        settings(reliability__zones='["1"]', **{"azure-native__location": "westus"})
    with pytest.raises(ConfigError, match=r"reliability:redundancy is zone, but westus has no zones.*local"):
        settings(reliability__redundancy="zone", **{"azure-native__location": "westus"})


def test_upgrades_use_the_configured_maintenance_window() -> None:
    windows = graph(reliability__maintenance_day="Tuesday", reliability__maintenance_hour="4").of(
        ":MaintenanceConfiguration"
    )
    names = {window.inputs["configName"] for window in windows}
    assert names == {"aksManagedAutoUpgradeSchedule", "aksManagedNodeOSUpgradeSchedule"}
    for window in windows:
        given = window.inputs["maintenanceWindow"]
        assert (given["schedule"]["weekly"]["dayOfWeek"], given["startTime"]) == ("Tuesday", "04:00")


def test_new_generation_reuses_no_name_of_the_soft_deleted_one() -> None:
    first, second = (Names.of(settings(personalization__generation=number), "s", "dev") for number in ("1", "2"))
    for name in ("key_vault", "machine_learning_workspace", "lake", "container_registry", "databricks_workspace"):
        assert getattr(first, name) != getattr(second, name)
