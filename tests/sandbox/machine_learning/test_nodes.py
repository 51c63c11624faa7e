"""Replicas on nodes: draining a node loses no request; deleting a pool ends its replicas."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testing.sandbox.machine_learning import Cloud, ml_sandbox
from testing.waiting import eventually

POOL = {"mode": "User", "vmSize": "Standard_D4s_v5", "nodeLabels": {"for": "scoring"}}
SETTINGS = {"enableInference": "True", "nodeSelector.for": "scoring"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ml_sandbox(tmp_path_factory.mktemp("nodes")) as cloud:
        scale(cloud, "a", 2)
        extension = f"{cloud.cluster}/providers/Microsoft.KubernetesConfiguration/extensions/azureml"
        held = cloud.arm("GET", extension).json()["properties"]
        cloud.put(
            extension, properties={**held, "configurationSettings": {**held["configurationSettings"], **SETTINGS}}
        )
        cloud.endpoint("nodes")
        cloud.deploy("nodes", "blue", replicas=2)
        cloud.endpoint("nodes", {"blue": 100})
        yield cloud


def scale(cloud: Cloud, pool: str, count: int) -> None:
    cloud.put(f"{cloud.cluster}/agentPools/{pool}", properties={**POOL, "count": count})


def replicas(cloud: Cloud) -> set[int]:
    return {cloud.score("nodes").json()["pid"] for _ in range(20)}


@contextmanager
def users(cloud: Cloud) -> Iterator[Counter[int]]:
    key, seen, over = cloud.key("nodes"), Counter[int](), threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            seen[cloud.score("nodes", key=key).status_code] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seen
    finally:
        over.set()
        asking.join()


def test_nodes_that_are_drained_one_by_one_lose_no_request(cloud: Cloud) -> None:
    first = eventually(lambda: replicas(cloud), lambda found: len(found) == 2)
    with users(cloud) as seen:
        scale(cloud, "b", 2)
        for left in (1, 0):
            scale(cloud, "a", left)
            eventually(lambda: len(replicas(cloud)) == 2)
        cloud.delete(f"{cloud.cluster}/agentPools/a")
    assert set(seen) == {200}
    assert not first & replicas(cloud)


def test_requests_on_the_nodes_of_a_deleted_pool_are_lost(cloud: Cloud) -> None:
    with users(cloud) as seen:
        cloud.delete(f"{cloud.cluster}/agentPools/b")
        eventually(lambda: set(seen) - {200})
    assert set(seen) > {200}
