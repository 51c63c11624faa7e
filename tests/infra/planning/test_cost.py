"""The cost estimate: the reference's figures, every shipped stack priced whole, and nothing guessed."""

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pulumi_azure_native import containerservice

from infra.config.loading import load
from infra.config.settings import Settings
from infra.planning import regions
from infra.planning.compatibility import machines
from infra.planning.cost import CostRecorder, Estimate
from testing.stack.infra_graph import graph

ROOT = Path(__file__).parents[3]
PLANNING = ROOT / "infra" / "planning"
POOL, CLUSTER = (f"azure-native:containerservice:{name}" for name in ("AgentPool", "ManagedCluster"))
JOB = "pulumi-python:dynamic/databricks:TrainingJob"


def settings(location: str = "eastus2", **config: str) -> Settings:
    values = {key.replace("__", ":"): value for key, value in config.items()}
    stack = {
        "azure-native:location": location,
        "personalization:environment": "dev",
        "personalization:production": "false",
        "release:enabled": "false",
    }
    return load({**stack, **values}, "personalization")


def estimate(of: Settings, *declared: tuple[str, dict[str, Any]]) -> Estimate:
    recorder = CostRecorder()
    for token, inputs in declared:
        recorder.record(token, inputs)
    return recorder.estimate(of)


def pool(size: str = "Standard_D4s_v5", least: int = 1, most: int = 3) -> tuple[str, dict[str, Any]]:
    return POOL, {"agent_pool_name": "scoring", "vm_size": size, "min_count": least, "max_count": most}


def monthly(found: Estimate) -> dict[str, float | None]:
    return {line.item: line.monthly for line in found.lines}


def test_daily_run_on_twelve_workers_and_a_driver_costs_its_machines_and_units() -> None:
    found = monthly(estimate(settings(), (JOB, {})))
    assert found["training machines"] == pytest.approx(13 * 0.698 * 30.4)
    assert found["training Databricks units"] == pytest.approx(13 * 2.75 * 0.30 * 30.4)
    total = sum(found.values())
    assert (round(total / 30.4, 2), round(total)) == (19.80, 602)


def test_autoscaled_pool_of_one_to_three_nodes_costs_two() -> None:
    assert monthly(estimate(settings(), pool()))["scoring pool"] == pytest.approx(2 * 0.192 * 730)
    assert round(2 * 0.192 * 730) == 280


def test_standard_cluster_costs_its_tier_and_its_nodes() -> None:
    inline = containerservice.ManagedClusterAgentPoolProfileArgs(name="system", vm_size="Standard_D4s_v5", count=3)
    tier = containerservice.ManagedClusterSKUArgs(name="Base", tier="Standard")
    found = monthly(estimate(settings(), (CLUSTER, {"sku": tier, "agent_pool_profiles": [inline]})))
    assert found["Kubernetes control plane"] == pytest.approx(73)
    assert found["system pool"] == pytest.approx(3 * 0.192 * 730)


def test_longer_run_and_a_wider_pool_cost_in_proportion() -> None:
    once, thrice = (estimate(settings(training__run_hours=hours), (JOB, {})).total for hours in ("1", "3"))
    assert thrice == pytest.approx(3 * once)
    narrow, wide = (estimate(settings(), pool(most=most)).total for most in (3, 7))
    assert wide == pytest.approx(2 * narrow)


def test_items_without_a_price_are_listed_and_not_summed() -> None:
    found = estimate(settings("belgiumcentral"), pool(), (JOB, {}))
    assert monthly(found)["scoring pool"] is None
    output = found.as_output()
    assert "scoring pool: no price for Standard_D4s_v5 in belgiumcentral" in output["unpriced"]
    assert "training machines: no price for Standard_L8s_v3 in belgiumcentral" in output["unpriced"]
    assert output["total"] == pytest.approx(sum(output["lines"].values()))
    unknown = estimate(settings(), pool("Standard_X4s_v9")).as_output()
    assert unknown == {**unknown, "total": 0, "unpriced": ["scoring pool: no price for Standard_X4s_v9 in eastus2"]}


def test_price_of_another_region_is_marked_and_a_worldwide_one_is_not() -> None:
    def basis(location: str, item: str) -> str:
        lines = estimate(settings(location), pool(), ("azure-native:network:PrivateEndpoint", {})).lines
        return next(line.basis for line in lines if line.item == item)

    assert "(price of eastus)" in basis("westeurope", "disks of nodes")
    assert "price of" not in basis("eastus", "disks of nodes")
    assert "price of" not in basis("westeurope", "private endpoints")
    assert "disks of nodes" not in monthly(estimate(settings(), pool("Standard_D4ds_v5")))


@pytest.mark.parametrize("stack", sorted(path.stem for path in ROOT.glob("Pulumi.*.yaml")))
def test_every_shipped_stack_is_priced_whole(stack: str) -> None:
    shipped = yaml.safe_load((ROOT / f"{stack}.yaml").read_text())["config"]
    config = {key.replace(":", "__"): value for key, value in shipped.items()}
    # A model costs too: the stacks that ship without a release get one.
    config |= {"release__enabled": "true", "training__snapshot": "2026-11-24"}
    found = graph(**config).outputs["monthly_cost"]
    assert found["unpriced"] == []
    assert {"training machines", "training Databricks units", "system pool"} <= set(found["lines"])
    assert min(found["lines"].values()) >= 0
    assert found["total"] == pytest.approx(sum(found["lines"].values()), abs=0.1)


def price_list(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PLANNING / f"{name}.yaml").read_text())
    return found


def test_every_price_names_its_region_day_and_source() -> None:
    prices = price_list("prices")
    rows = [*prices["each"].values(), prices["databricks"]["unit"]]
    for row in rows:
        assert row["source"]
        assert row["region"]
        assert isinstance(row["date"], datetime.date) or datetime.date.fromisoformat(f"{row['date']}-01")
        assert len(row.keys() & {"hour", "day", "month"}) == 1
    assert "memory" not in (PLANNING / "prices.yaml").read_text()


def test_price_lists_are_of_regions_and_sizes_that_a_stack_may_name() -> None:
    series = {machine.series for machine in machines().values()}
    vm_prices = price_list("vm_prices")["vcpu_hours"]
    assert {name for row in vm_prices.values() for name in row} <= series
    assert vm_prices.keys() <= set(regions.zones_by_region())
    units = price_list("prices")["databricks"]["units_per_hour"]
    sizes = {(machine.series, machine.vcpus) for machine in machines().values()}
    assert {(name, vcpus) for name, row in units.items() for vcpus in row} <= sizes


def test_cost_covers_every_priced_resource_of_the_program() -> None:
    private = graph(personalization__production="true", network__mode="private", serving__system_nodes="3")
    found = private.outputs["monthly_cost"]
    endpoints = len(private.of("network:PrivateEndpoint"))
    assert endpoints
    assert found["basis"]["private endpoints"].startswith(f"{endpoints} x ")
    assert found["basis"]["system pool"].startswith("3 x Standard_D4s_v5")
    assert {"scoring pool", "container registry", "NAT gateway", "training Databricks units"} <= set(found["lines"])
    assert found["left_out"]


def test_stack_without_a_model_pays_for_no_training() -> None:
    found = graph(release__enabled="false").outputs["monthly_cost"]
    assert not [item for item in (*found["lines"], *found["unpriced"]) if item.startswith("training")]
