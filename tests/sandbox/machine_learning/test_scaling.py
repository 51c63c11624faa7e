"""Scaling: the number of replicas follows the load between its bounds, without losing a request."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.machine_learning.scaling import CALM_POLLS, Scale, Scaler
from testing.sandbox.machine_learning import Cloud, ml_sandbox
from testing.sandbox.process import is_alive
from testing.waiting import eventually

ENDPOINT = "ep-scale"
LOCAL = Scale(least=1, most=4, utilisation=70, polling_interval=10)
"""Scale settings of stack `local`, with 16 concurrent requests."""


@pytest.mark.parametrize(("concurrent", "replicas"), [(0, 1), (1, 1), (11, 1), (12, 2), (22, 2), (23, 3), (500, 4)])
def test_replicas_follow_the_documented_formula_between_their_bounds(concurrent: int, replicas: int) -> None:
    assert LOCAL.wanted(concurrent, at_once=16) == replicas


def test_documented_example_is_reproduced() -> None:
    """20 requests a second of 10 seconds each, one at a time, at 70 %."""
    assert Scale(1, 1000, 70, 10).wanted(20 * 10, at_once=1) == 286


@given(st.lists(st.integers(0, 100), max_size=60))
def test_replicas_are_removed_one_by_one_after_a_calm_and_stay_in_range(loads: list[int]) -> None:
    scaler, replicas, calm = Scaler(LOCAL, at_once=16), [1], 0
    for load in loads:
        calm = calm + 1 if LOCAL.wanted(load, 16) < replicas[-1] else 0
        change = scaler.poll(load, replicas[-1])
        assert change >= -1
        assert (change == -1) == (calm == CALM_POLLS)
        calm = 0 if change else calm
        replicas.append(replicas[-1] + change)
    assert all(1 <= number <= 4 for number in replicas)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ml_sandbox(tmp_path_factory.mktemp("scaling")) as cloud:
        cloud.endpoint(ENDPOINT)
        yield cloud


def deploy(cloud: Cloud, name: str, variables: dict[str, str] | None = None) -> Callable[[Any], Any]:
    """A deployment of one to three replicas with two concurrent requests each; returns a function that scores."""
    cloud.deploy(ENDPOINT, name, variables=variables, **scaled(1, 3))
    key = cloud.key(ENDPOINT)
    return lambda body: cloud.score(ENDPOINT, body, key=key, deployment=name)


def scaled(least: int, most: int) -> dict[str, Any]:
    scale: dict[str, Any] = {"scaleType": "TargetUtilization", "minInstances": least, "maxInstances": most}
    scale |= {"targetUtilizationPercentage": 100, "pollingInterval": "PT0.05S"}
    requests = {"maxConcurrentRequestsPerInstance": 2, "maxQueueWait": "PT5S"}
    probe = {"initialDelay": "PT1S", "period": "PT1S", "failureThreshold": 5}
    return {"scaleSettings": scale, "requestSettings": requests, "readinessProbe": probe}


def replicas(cloud: Cloud, name: str) -> list[Path]:
    return list((cloud.folder / "deployments" / ENDPOINT / name).glob("run-*/replica-*"))


def log(cloud: Cloud, name: str) -> str:
    return (cloud.folder / "deployments" / ENDPOINT / name / "console.log").read_text()


@contextmanager
def callers(number: int, score: Callable[[Any], Any], seconds: float = 0.05) -> Iterator[Counter[tuple[int, int]]]:
    """Run so many clients, each with one request at a time. Returns the number of answers by status and process."""
    done, seen = Event(), Counter[tuple[int, int]]()

    def call() -> None:
        while not done.is_set():
            answer = score({"sleep": seconds})
            seen[answer.status_code, answer.json().get("pid", 0)] += 1

    threads = [Thread(target=call) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_load_raises_replicas_to_the_bound_and_calm_brings_them_back_without_a_request_lost(cloud: Cloud) -> None:
    score = deploy(cloud, "blue")
    with callers(1, score) as calm:
        with callers(6, score) as busy:
            eventually(lambda: len({pid for _, pid in busy}) == 3)
        eventually(lambda: len(replicas(cloud, "blue")) == 1)
    assert {status for status, _ in calm + busy} == {200}
    pids = {pid for _, pid in calm + busy}
    assert len(pids) == 3, "more replicas than the bound"
    assert sum(is_alive(pid) for pid in pids) == 1


def test_replica_answers_its_requests_before_it_ends(cloud: Cloud, tmp_path: Path) -> None:
    score, allowed = deploy(cloud, "blue"), tmp_path / "allowed"
    with ThreadPoolExecutor(2) as pool:
        with callers(6, score) as seen:
            eventually(lambda: len({pid for _, pid in seen}) == 3)
        gone = log(cloud, "blue").count("2 replicas become 1")
        held = [pool.submit(score, {"until": str(allowed)}) for _ in range(2)]
        eventually(lambda: log(cloud, "blue").count("2 replicas become 1") > gone)
        assert not any(answer.done() for answer in held)
        allowed.touch()
    assert [answer.result().status_code for answer in held] == [200, 200]
    assert len({answer.result().json()["pid"] for answer in held}) == 2


def test_replica_that_cannot_start_does_not_affect_the_others(cloud: Cloud, tmp_path: Path) -> None:
    score = deploy(cloud, "red", {"FAIL_WHERE_EXISTS": str(tmp_path / "broken")})
    (tmp_path / "broken").touch()
    with callers(6, score) as seen:
        eventually(lambda: log(cloud, "red").count("is started again") >= 2)
        time.sleep(0.2)
    assert {status for status, _ in seen} == {200}
    assert len(seen) == 1
    eventually(lambda: len(replicas(cloud, "red")) == 1)
    assert score({}).status_code == 200


def test_restarted_sandbox_begins_at_the_minimum_and_scales_again(cloud: Cloud) -> None:
    score = deploy(cloud, "blue")
    with callers(6, score, 0.02):
        eventually(lambda: len(replicas(cloud, "blue")) == 3)
    cloud.kill()
    cloud.start()
    eventually(lambda: score({}).status_code == 200)
    assert len(replicas(cloud, "blue")) == 1
    with callers(6, score, 0.02) as seen:
        eventually(lambda: len({pid for _, pid in seen}) == 3)
    assert {status for status, _ in seen} == {200}


def test_invalid_scale_range_is_refused(cloud: Cloud) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{ENDPOINT}/deployments/none"
    assert "minInstances 3 is above maxInstances 2" in cloud.refused(path, **cloud.deployment_body(**scaled(3, 2)))
