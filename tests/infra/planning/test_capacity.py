"""The capacity plan: an accepted plan fits its nodes, and a refusal names a value that is accepted."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.config.settings import ServingSettings
from infra.planning import capacity
from infra.planning.compatibility import Machine, machines

ROOT = Path(__file__).parents[3]
ROOMY = {"replicas_max": 100, "nodes_max": 100, "node_size": "Standard_D16s_v5", "instance_type": "large"}
SOME = st.fixed_dictionaries(
    {
        "node_size": st.sampled_from(["Standard_D2s_v5", "Standard_D4s_v5", "Standard_D8s_v5", "Standard_E4s_v5"]),
        "system_nodes": st.integers(1, 4),
        "nodes_max": st.integers(1, 12),
        "replicas_min": st.integers(1, 4),
        "replicas_max": st.integers(4, 40),
        "cpu": st.sampled_from(["100m", "500m", "1", "1.5", "2500m", "6"]),
        "memory": st.sampled_from(["256Mi", "1Gi", "6Gi", "40Gi"]),
        "engine": st.sampled_from(["native", "spark"]),
        "instance_type": st.sampled_from([None, "large"]),
        "target_rps": st.none() | st.floats(1, 20_000),
        "latency_ms": st.none() | st.floats(2, 500),
        "utilisation": st.floats(0.2, 0.9),
    }
)


def refusal(**values: Any) -> str:
    with pytest.raises(ValidationError) as error:
        ServingSettings(**values)
    return str(error.value.errors()[0]["msg"])


def accepted(values: dict[str, Any]) -> ServingSettings | None:
    try:
        return ServingSettings(**values)
    except ValidationError:
        return None


@given(st.floats(0.1, 30_000), st.floats(0.1, 30_000), st.sampled_from(["200m", "1", "2"]))
def test_more_requests_never_need_fewer_replicas(one: float, other: float, cpu: str) -> None:
    low, high = (accepted({**ROOMY, "cpu": cpu, "target_rps": rps}) for rps in sorted((one, other)))
    if low and high:
        assert capacity.plan(low).replicas <= capacity.plan(high).replicas
    assert low or not high, "the smaller target was refused and the larger was not"


@given(SOME)
def test_an_accepted_plan_fits_its_nodes(values: dict[str, Any]) -> None:
    serving = accepted(values)
    if serving is None:
        return
    plan = capacity.plan(serving)
    wanted = capacity.pods(serving, serving.replicas_max)
    nodes = capacity.placement(serving, wanted)
    assert sorted(pod.name for node in nodes for pod in node) == sorted(pod.name for pod in wanted)
    assert len(nodes) <= serving.system_nodes + plan.nodes_at_most <= serving.system_nodes + serving.nodes_max
    assert not any(pod.scoring_pool for node in nodes[: serving.system_nodes] for pod in node)
    cpu, memory = capacity.allocatable(machines()[serving.node_size])
    for node in nodes:
        assert sum(pod.cpu for pod in node) <= cpu
        assert sum(pod.memory for pod in node) <= memory
        assert sum(pod.name.startswith("router") for pod in node) <= 1


@given(SOME)
def test_accepted_replicas_keep_the_target_utilisation_at_the_peak(values: dict[str, Any]) -> None:
    serving = accepted(values)
    if serving is None or serving.target_rps is None:
        return
    core = min(float(serving.cpu[:-1]) / 1000 if serving.cpu.endswith("m") else float(serving.cpu), 1)
    seconds = {"native": 0.001, "spark": 0.006}[serving.engine] / core
    busy = serving.target_rps * seconds / capacity.plan(serving).replicas
    assert busy <= serving.utilisation + 1e-9
    if serving.latency_ms:
        # 99th percentile of an M/M/1 queue.
        assert 4.6052 * seconds / (1 - busy) <= serving.latency_ms / 1000 * 1.0001


@given(SOME)
def test_following_the_remedies_of_refusals_leads_to_a_plan(values: dict[str, Any]) -> None:
    for _ in range(8):
        if accepted(values):
            return
        key, value = re.findall(r"(?:[Ss]et|Lower) serving:(\w+) to (?:at most )?([\w.]*\w)", refusal(**values))[0]
        values = {**values, key: value}
    raise AssertionError(values)


@pytest.mark.parametrize(("rps", "replicas"), [(25, 4), (50, 8), (100, 15), (200, 29), (350, 50)])
def test_the_reference_sizing_is_reproduced(rps: int, replicas: int) -> None:
    """100 ms a query, one at a time, 70 % busy: as `qps_to_replicas` of recommenders-team/recommenders computes."""
    serving = ServingSettings(**ROOMY, target_rps=rps, service_ms=100)
    assert capacity.plan(serving).replicas == replicas


@pytest.mark.parametrize(
    ("vcpus", "reserved"), [(1, 60), (2, 100), (4, 140), (8, 180), (16, 260), (32, 420), (64, 740)]
)
def test_cpu_reserved_by_aks_agrees_with_its_documentation(vcpus: int, reserved: int) -> None:
    daemons = sum(pod.cpu for pod in capacity._pods("daemon_sets"))
    assert capacity.allocatable(Machine(series="Ds_v5", vcpus=vcpus, gib=64))[0] == vcpus * 1000 - reserved - daemons


def test_cpu_requested_by_azure_ml_agrees_with_its_documentation() -> None:
    """1,780 millicores for test on one node and 3,600 for production on three."""
    ours = capacity._pods("azure_ml")
    data = yaml.safe_load((ROOT / "infra/planning/capacity.yaml").read_text())
    per_node, router = data["daemon_sets"]["fluent-bit"]["cpu"], data["router"]["cpu"]
    assert sum(pod.cpu for pod in ours) + per_node + router == 1780
    assert sum(pod.cpu for pod in ours) + 3 * (per_node + router) == 3600


def test_replica_larger_than_a_node_is_refused_with_a_size_that_fits() -> None:
    large = {"instance_type": "large"}
    assert re.search(
        r"serving:cpu 8 .*at most \d+m, or serving:node_size to Standard_D16s_v5", refusal(cpu="8", **large)
    )
    assert re.search(r"serving:memory 32Gi .*at most \d+Mi, or serving:node_size to", refusal(memory="32Gi", **large))


def test_target_above_the_range_is_refused_with_both_remedies() -> None:
    says = refusal(target_rps=5000)
    assert "needs 8 replicas" in says
    assert "Set serving:replicas_max to 8, or lower serving:target_rps to 2800" in says


def test_strict_latency_lowers_the_target_utilisation() -> None:
    loose, tight = (ServingSettings(service_ms=2, latency_ms=latency) for latency in (100, 12))
    assert (capacity.plan(loose).utilisation, capacity.plan(tight).utilisation) == (70, 23)
    assert capacity.plan(tight).max_rps < capacity.plan(loose).max_rps


def test_replicas_that_do_not_fit_are_refused_with_the_number_of_nodes() -> None:
    assert re.search(
        r"Set serving:nodes_max to 5, or lower serving:replicas_max to 2", refusal(replicas_max=10, nodes_max=2)
    )


def test_a_latency_below_the_time_of_one_request_is_refused() -> None:
    assert re.search(r"serving:latency_ms 3 cannot be met.*Set serving:latency_ms to 10", refusal(latency_ms=3))


def test_production_is_refused_fewer_scoring_nodes_than_routers() -> None:
    two = ServingSettings(system_nodes=3, nodes_min=2, nodes_max=4)
    assert capacity.plan(two).routers == 1
    with pytest.raises(ValueError, match=r"nodes_min is 2.*runs on 3 nodes.*Set serving:nodes_min to 3"):
        capacity.require_three_nodes(two)
    three = ServingSettings(system_nodes=1, nodes_min=3, nodes_max=4)
    assert capacity.plan(three).routers == 3
    capacity.require_three_nodes(three)


def test_a_replica_above_the_default_instance_type_needs_one_that_somebody_created() -> None:
    """Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md"""
    assert re.search(
        r"serving:memory 2Gi is not below .*at most 2047Mi, or serving:instance_type", refusal(memory="2Gi")
    )
    assert re.search(r"serving:cpu 2 is not below .*at most 1999m, or serving:instance_type", refusal(cpu="2"))
    assert ServingSettings(memory="2Gi", cpu="2", instance_type="large", nodes_max=9).instance_type == "large"


@pytest.mark.parametrize("path", sorted(ROOT.glob("Pulumi.*.yaml")), ids=lambda path: path.name)
def test_every_stack_file_has_a_plan_that_fits(path: Path) -> None:
    config = yaml.safe_load(path.read_text())["config"]
    serving = ServingSettings(
        **{key.partition(":")[2]: value for key, value in config.items() if key.startswith("serving:")}
    )
    if config["personalization:environment"].startswith("prod"):
        capacity.require_three_nodes(serving)
