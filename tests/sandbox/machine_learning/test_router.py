"""The inference router: authentication, choice of the deployment, and load."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from testing.sandbox.machine_learning import Cloud, ml_sandbox
from testing.waiting import eventually

ENDPOINT = "ep-router"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ml_sandbox(tmp_path_factory.mktemp("router")) as cloud:
        cloud.endpoint(ENDPOINT)
        cloud.deploy(ENDPOINT, "blue", model="1")
        cloud.deploy(ENDPOINT, "green", model="2", requestSettings={"requestTimeout": "PT0.4S"})
        cloud.endpoint(ENDPOINT, {"blue": 80, "green": 20})
        yield cloud


@pytest.fixture(scope="module")
def key(cloud: Cloud) -> str:
    return cloud.key(ENDPOINT)


def test_traffic_is_split_by_weight(cloud: Cloud, key: str) -> None:
    seen = Counter(cloud.score(ENDPOINT, key=key).headers["azureml-model-deployment"] for _ in range(300))
    assert seen["blue"] + seen["green"] == 300
    assert 25 <= seen["green"] <= 100  # 60 expected; five standard deviations


def test_header_pins_the_deployment(cloud: Cloud, key: str) -> None:
    for name, model in (("blue", "first"), ("green", "second")):
        answers = [cloud.score(ENDPOINT, key=key, deployment=name) for _ in range(5)]
        assert {answer.json()["model"] for answer in answers} == {model}
    unknown = cloud.score(ENDPOINT, key=key, deployment="red")
    assert unknown.status_code == 404
    assert "no deployment 'red'" in unknown.json()["error"]["message"]


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x", "Bearer é"]
)
def test_request_without_a_valid_key_is_refused(cloud: Cloud, key: str, authorization: str | None) -> None:
    headers = {"authorization": authorization.format(key=key).encode()} if authorization else {}
    answer = cloud.http.post(f"/api/v1/endpoint/{ENDPOINT}/score", json={}, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "Unauthorized"


def test_only_post_is_scored(cloud: Cloud) -> None:
    assert cloud.http.get(f"/api/v1/endpoint/{ENDPOINT}/score").status_code == 405
    assert cloud.http.post("/api/v1/endpoint/nobody/score").status_code == 404


def test_endpoint_without_traffic_answers_404(cloud: Cloud) -> None:
    cloud.endpoint("ep-idle")
    answer = cloud.score("ep-idle")
    assert answer.status_code == 404
    assert "positive traffic" in answer.json()["error"]["message"]


def test_content_and_trace_pass_through_but_no_credential(cloud: Cloud, key: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = {"authorization": f"Bearer {key}", "traceparent": trace, "x-ms-client-request-id": "mine"}
    answer = cloud.http.post(f"/api/v1/endpoint/{ENDPOINT}/score", json={"a": "é"}, headers=sent)
    received = {name.lower(): value for name, value in answer.json()["headers"].items()}
    assert received["traceparent"] == trace
    assert received["content-type"] == "application/json"
    assert "authorization" not in received
    assert answer.headers["x-ms-client-request-id"] == "mine"
    assert answer.headers["x-request-id"] == received["x-request-id"]


def test_error_answers_of_the_service_are_returned_unchanged(cloud: Cloud, key: str) -> None:
    answer = cloud.score(ENDPOINT, {"status": 503}, key=key)
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (503, "7", {"title": "refused"})


def test_request_beyond_the_longest_queue_wait_is_refused(cloud: Cloud, key: str) -> None:
    holding = threading.Thread(
        target=cloud.score, args=(ENDPOINT, {"sleep": 1.5}), kwargs={"key": key, "deployment": "blue"}
    )
    holding.start()
    time.sleep(0.3)
    began = time.monotonic()
    refused = cloud.score(ENDPOINT, key=key, deployment="blue")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert 0.4 < time.monotonic() - began < 1.0
    holding.join()
    assert cloud.score(ENDPOINT, key=key, deployment="blue").status_code == 200


def test_waiting_request_gets_the_next_free_replica(cloud: Cloud, key: str) -> None:
    seen: list[httpx.Response] = []
    calls = [
        threading.Thread(target=lambda: seen.append(cloud.score(ENDPOINT, {"sleep": 0.1}, key=key, deployment="blue")))
        for _ in range(4)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert [answer.status_code for answer in seen] == [200] * 4


def test_scoring_beyond_the_request_timeout_answers_504(cloud: Cloud, key: str) -> None:
    began = time.monotonic()
    answer = cloud.score(ENDPOINT, {"sleep": 3}, key=key, deployment="green")
    assert answer.status_code == 504
    assert "0.4 s" in answer.json()["error"]["message"]
    assert time.monotonic() - began < 2


def test_service_killed_by_a_request_answers_502_and_restarts(cloud: Cloud, key: str) -> None:
    assert cloud.score(ENDPOINT, {"die": 1}, key=key, deployment="green").status_code in (502, 503)
    gone = cloud.score(ENDPOINT, key=key, deployment="green")
    assert gone.status_code in (502, 503)
    eventually(lambda: cloud.score(ENDPOINT, key=key, deployment="green").status_code == 200)
