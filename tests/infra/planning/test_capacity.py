"""Tests of the capacity plan: accepted settings fit their nodes, and a refusal names a value that would be accepted."""

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
NODE_SIZES = ["Standard_D2s_v5", "Standard_D4s_v5", "Standard_D8s_v5", "Standard_E4s_v5"]
SOME = st.fixed_dictionaries(
    {
        "node_size": st.sampled_from(NODE_SIZES),
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


DATA = yaml.safe_load((ROOT / "infra/planning/capacity.yaml").read_text())
SIDECAR = DATA["sidecar"]
SERVICE_MS = {"native": 1.0, "spark": 6.0}
SLOWEST_OF_100 = 4.6052
"""99th percentile of the time in an M/M/1 queue, in units of its mean."""


def busy_ms(engine: str, cpu: str) -> float:
    """Milliseconds that a request keeps a replica busy; a replica uses one core at most."""
    cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    return SERVICE_MS[engine] / min(cores, 1)


@st.composite
def accepted_settings(draw: st.DrawFn) -> ServingSettings:
    """Settings that are accepted by construction.

    A replica fits its node, enough nodes are allowed, the latency is above the time of one request in an empty queue,
    and the target is below the rate of `replicas_max`.
    """
    node_size, engine = draw(st.sampled_from(NODE_SIZES)), draw(st.sampled_from(["native", "spark"]))
    cpu, memory = capacity.allocatable(machines()[node_size])
    values: dict[str, Any] = {
        "node_size": node_size,
        "engine": engine,
        "instance_type": "large",
        "cpu": f"{draw(st.integers(100, cpu - SIDECAR['cpu']))}m",
        "memory": f"{draw(st.integers(2000, memory - SIDECAR['memory']))}Mi",
        "system_nodes": draw(st.integers(1, 4)),
        "nodes_max": 100,
        "replicas_min": draw(st.integers(1, 4)),
        "replicas_max": draw(st.integers(4, 40)),
        "utilisation": draw(st.floats(0.2, 0.9)),
    }
    if draw(st.booleans()):
        slowest_ms = SLOWEST_OF_100 * busy_ms(engine, values["cpu"])
        values["latency_ms"] = slowest_ms * draw(st.floats(1.1, 50))
    if draw(st.booleans()):
        values["target_rps"] = capacity.plan(ServingSettings(**values)).max_rps * draw(st.floats(0.01, 0.98))
    needed = capacity.plan(ServingSettings(**values)).nodes_at_most
    return ServingSettings(**{**values, "nodes_max": draw(st.integers(needed, 100))})


def test_smaller_target_is_accepted_and_needs_no_more_replicas() -> None:
    compared = 0

    @given(st.floats(0.1, 30_000), st.floats(0.1, 30_000), st.sampled_from(["200m", "1", "2"]))
    def check(one: float, other: float, cpu: str) -> None:
        nonlocal compared
        low, high = (accepted({**ROOMY, "cpu": cpu, "target_rps": rps}) for rps in sorted((one, other)))
        assert low or not high, "the smaller target was refused and the larger was not"
        if low and high:
            assert capacity.plan(low).replicas <= capacity.plan(high).replicas
            compared += 1

    check()
    assert compared >= 30


def test_accepted_plan_fits_its_nodes() -> None:
    checked = 0

    @given(accepted_settings())
    def check(serving: ServingSettings) -> None:
        nonlocal checked
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
        checked += 1

    check()
    assert checked >= 100


def test_replicas_of_an_accepted_plan_meet_utilisation_and_latency_at_the_peak() -> None:
    checked = with_latency = 0

    @given(accepted_settings().filter(lambda serving: serving.target_rps is not None))
    def check(serving: ServingSettings) -> None:
        nonlocal checked, with_latency
        assert serving.target_rps is not None
        seconds = busy_ms(serving.engine, serving.cpu) / 1000
        busy = serving.target_rps * seconds / capacity.plan(serving).replicas
        assert busy <= serving.utilisation + 1e-9
        checked += 1
        if serving.latency_ms:
            assert SLOWEST_OF_100 * seconds / (1 - busy) <= serving.latency_ms / 1000 * 1.0001
            with_latency += 1

    check()
    assert checked >= 100
    assert with_latency >= 20


def test_following_the_advice_of_refusals_leads_to_an_accepted_plan() -> None:
    refused = 0

    @given(SOME)
    def check(values: dict[str, Any]) -> None:
        nonlocal refused
        refused += accepted(values) is None
        for _ in range(8):
            if accepted(values):
                return
            key, value = re.findall(r"(?:[Ss]et|Lower) serving:(\w+) to (?:at most )?([\w.]*\w)", refusal(**values))[0]
            values = {**values, key: value}
        raise AssertionError(values)

    check()
    assert refused >= 50


@pytest.mark.parametrize(("rps", "replicas"), [(25, 4), (50, 8), (100, 15), (200, 29), (350, 50)])
def test_plan_reproduces_the_reference_sizing(rps: int, replicas: int) -> None:
    """100 ms per query, one at a time, 70 % busy: results of `qps_to_replicas` of recommenders-team/recommenders."""
    serving = ServingSettings(**ROOMY, target_rps=rps, service_ms=100)
    assert capacity.plan(serving).replicas == replicas


@pytest.mark.parametrize(
    ("vcpus", "reserved"), [(1, 60), (2, 100), (4, 140), (8, 180), (16, 260), (32, 420), (64, 740)]
)
def test_reserved_cpu_is_as_documented_by_aks(vcpus: int, reserved: int) -> None:
    daemons = sum(pod["cpu"] for pod in DATA["daemon_sets"].values())
    assert capacity.allocatable(Machine(series="Ds_v5", vcpus=vcpus, gib=64))[0] == vcpus * 1000 - reserved - daemons


def test_requested_cpu_of_azure_ml_is_as_documented() -> None:
    """The documented requests: 1,780 millicores for a test cluster of one node, 3,600 for production on three nodes."""
    once = sum(pod["cpu"] * pod.get("count", 1) for pod in DATA["azure_ml"].values())
    per_node, router = DATA["daemon_sets"]["fluent-bit"]["cpu"], DATA["router"]["cpu"]
    assert once + per_node + router == 1780
    assert once + 3 * (per_node + router) == 3600


def test_replica_larger_than_a_node_is_refused_with_the_largest_that_fits() -> None:
    large = {"instance_type": "large"}
    assert re.search(
        r"serving:cpu 8 .*at most \d+m, or serving:node_size to Standard_D16s_v5", refusal(cpu="8", **large)
    )
    assert re.search(r"serving:memory 32Gi .*at most \d+Mi, or serving:node_size to", refusal(memory="32Gi", **large))


def test_target_above_the_replica_range_is_refused_with_two_remedies() -> None:
    message = refusal(target_rps=5000)
    assert "needs 8 replicas" in message
    assert "Set serving:replicas_max to 8, or lower serving:target_rps to 2800" in message


def test_tight_latency_lowers_the_utilisation_of_the_plan() -> None:
    loose, tight = (ServingSettings(service_ms=2, latency_ms=latency) for latency in (100, 12))
    assert (capacity.plan(loose).utilisation, capacity.plan(tight).utilisation) == (70, 23)
    assert capacity.plan(tight).max_rps < capacity.plan(loose).max_rps


def test_replicas_above_the_nodes_are_refused_with_the_number_of_nodes_needed() -> None:
    assert re.search(
        r"Set serving:nodes_max to 5, or lower serving:replicas_max to 2", refusal(replicas_max=10, nodes_max=2)
    )


def test_latency_below_the_time_of_one_request_is_refused() -> None:
    assert re.search(r"serving:latency_ms 3 cannot be met.*Set serving:latency_ms to 10", refusal(latency_ms=3))


def test_production_with_fewer_scoring_nodes_than_routers_is_refused() -> None:
    two = ServingSettings(system_nodes=3, nodes_min=2, nodes_max=4)
    assert capacity.plan(two).routers == 1
    with pytest.raises(ValueError, match=r"nodes_min is 2.*runs on 3 nodes.*Set serving:nodes_min to 3"):
        capacity.require_three_nodes(two)
    three = ServingSettings(system_nodes=1, nodes_min=3, nodes_max=4)
    assert capacity.plan(three).routers == 3
    capacity.require_three_nodes(three)


def test_replica_above_the_default_instance_type_needs_another_type() -> None:
    """Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md"""
    assert re.search(
        r"serving:memory 2Gi is not below .*at most 2047Mi, or serving:instance_type", refusal(memory="2Gi")
    )
    assert re.search(r"serving:cpu 2 is not below .*at most 1999m, or serving:instance_type", refusal(cpu="2"))
    assert ServingSettings(memory="2Gi", cpu="2", instance_type="large", nodes_max=9).instance_type == "large"


@pytest.mark.parametrize("path", sorted(ROOT.glob("Pulumi.*.yaml")), ids=lambda path: path.name)
def test_stack_files_of_the_repository_can_be_scheduled(path: Path) -> None:
    config = yaml.safe_load(path.read_text())["config"]
    serving = ServingSettings(
        **{key.partition(":")[2]: value for key, value in config.items() if key.startswith("serving:")}
    )
    if config["personalization:production"] == "true":
        capacity.require_three_nodes(serving)
