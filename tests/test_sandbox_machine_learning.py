"""Azure ML as its own SDK and plain ARM requests see it: assets, compute, endpoints, deployments and their replicas."""

import json
import os
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import (
    Environment,
    KubernetesOnlineDeployment,
    KubernetesOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
    ResourceRequirementsSettings,
    ResourceSettings,
)
from azure.core.exceptions import HttpResponseError
from sandbox_fixtures import gone, is_alive
from sandbox_machine_learning_fixtures import COMPUTE, Cloud, cluster_properties, compute_properties, ml_sandbox
from waiting import eventually

from sandbox import java

PROBE = {"initialDelay": "PT1S", "period": "PT1S", "failureThreshold": 5}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ml_sandbox(tmp_path_factory.mktemp("machine-learning")) as cloud:
        yield cloud


@pytest.fixture
def endpoint(cloud: Cloud, request: pytest.FixtureRequest) -> Iterator[str]:
    """An endpoint whose deployment `blue`, of two replicas, gets all traffic."""
    name = f"ep-{abs(hash(request.node.name)) % 10**8}"
    cloud.endpoint(name)
    cloud.deploy(name, "blue", replicas=2)
    cloud.endpoint(name, {"blue": 100})
    yield name
    cloud.delete(f"{cloud.workspace}/onlineEndpoints/{name}")


def replicas(cloud: Cloud, endpoint: str, deployment: str | None = None) -> set[int]:
    return {cloud.score(endpoint, deployment=deployment).json()["pid"] for _ in range(6)}


# --- the SDK


def test_the_unmodified_sdk_registers_deploys_invokes_and_deletes(cloud: Cloud, tmp_path: Path) -> None:
    model = cloud.ml.models.create_or_update(
        Model(name="sdk", version="1", path="azureml://datastores/lake/paths/run-1", tags={"auc": "0.7"})
    )
    image = cloud.arm("GET", f"{cloud.workspace}/environments/scoring/versions/1").json()["properties"]
    environment = cloud.ml.environments.create_or_update(
        Environment(
            name="sdk",
            version="1",
            image=image["image"],
            inference_config={
                "liveness_route": {"path": "/live", "port": 5001},
                "readiness_route": {"path": "/ready", "port": 5001},
                "scoring_route": {"path": "/score", "port": 5001},
            },
        )
    )
    endpoint = KubernetesOnlineEndpoint(name="ep-sdk", compute=COMPUTE, auth_mode="key")
    cloud.ml.online_endpoints.begin_create_or_update(endpoint).result()
    deployment = KubernetesOnlineDeployment(
        name="blue",
        endpoint_name="ep-sdk",
        model=model.id,
        environment=environment.id,
        instance_count=1,
        instance_type="small",
        environment_variables={"COLOUR": "blue"},
        request_settings=OnlineRequestSettings(
            max_concurrent_requests_per_instance=2, request_timeout_ms=4000, max_queue_wait_ms=300
        ),
        readiness_probe=ProbeSettings(initial_delay=1, period=1, timeout=1, failure_threshold=30),
        resources=ResourceRequirementsSettings(
            requests=ResourceSettings(cpu="200m", memory="256Mi"), limits=ResourceSettings(cpu="500m", memory="512Mi")
        ),
    )
    cloud.ml.online_deployments.begin_create_or_update(deployment).result()
    endpoint.traffic = {"blue": 100}
    cloud.ml.online_endpoints.begin_create_or_update(endpoint).result()

    (tmp_path / "request.json").write_text("{}")
    answer = json.loads(cloud.ml.online_endpoints.invoke("ep-sdk", request_file=str(tmp_path / "request.json")))
    assert answer["model"] == "first"
    assert answer["env"]["COLOUR"] == "blue"
    assert cloud.ml.online_endpoints.get("ep-sdk").traffic == {"blue": 100}
    assert [found.name for found in cloud.ml.online_deployments.list("ep-sdk")] == ["blue"]
    assert "serving" in cloud.ml.online_deployments.get_logs("blue", "ep-sdk", lines=20)
    assert "run-1" in cloud.ml.online_deployments.get_logs("blue", "ep-sdk", 20, container_type="storage-initializer")

    keys = cloud.ml.online_endpoints.get_keys("ep-sdk")
    cloud.ml.online_endpoints.begin_regenerate_keys("ep-sdk", key_type="primary").result()
    renewed = cloud.ml.online_endpoints.get_keys("ep-sdk")
    assert renewed.primary_key != keys.primary_key
    assert renewed.secondary_key == keys.secondary_key
    assert cloud.score("ep-sdk", key=keys.primary_key).status_code == 401

    cloud.ml.online_endpoints.begin_delete("ep-sdk").result()
    assert "ep-sdk" not in [found.name for found in cloud.ml.online_endpoints.list()]
    assert gone(answer["pid"], within=20)


def test_versions_are_immutable_and_the_latest_is_known(cloud: Cloud) -> None:
    for version in ("1", "2", "10"):
        cloud.ml.models.create_or_update(
            Model(name="kept", version=version, path="azureml://datastores/lake/paths/run-1")
        )
    moved = Model(name="kept", version="2", path="azureml://datastores/lake/paths/run-2")
    with pytest.raises(HttpResponseError, match="cannot change"):
        cloud.ml.models.create_or_update(moved)
    assert cloud.ml.models.get("kept", label="latest").version == "10"
    assert (
        cloud.ml.models.create_or_update(Model(name="kept", path="azureml://datastores/lake/paths/run-1")).version
        == "11"
    )
    cloud.delete(f"{cloud.workspace}/models/kept/versions/11")
    assert cloud.arm("GET", f"{cloud.workspace}/models/kept").json()["properties"]["latestVersion"] == "10"


# --- the rules


def test_a_workspace_refuses_a_lake_as_its_own_storage(cloud: Cloud) -> None:
    lake = f"{cloud.group}/providers/Microsoft.Storage/storageAccounts/lake"
    workspace = f"{cloud.group}/providers/Microsoft.MachineLearningServices/workspaces/other"
    assert "Cannot use storage with HNS enabled" in cloud.refused(workspace, properties={"storageAccount": lake})
    assert "does not exist" in cloud.refused(workspace, properties={"storageAccount": f"{lake}2"})


def test_a_cluster_is_attached_only_with_extension_and_trusted_access(cloud: Cloud) -> None:
    other = cloud.cluster.replace("aks-test", "aks-other")
    compute, attached = f"{cloud.workspace}/computes/other", {"properties": compute_properties(other)}
    assert "does not exist" in cloud.refused(compute, **attached)
    cloud.put(other, properties=cluster_properties("other"))
    assert "lacks the extension" in cloud.refused(compute, **attached)
    extension = f"{other}/providers/Microsoft.KubernetesConfiguration/extensions/azureml"
    cloud.put(extension, properties={"extensionType": "Microsoft.AzureML.Kubernetes", "configurationSettings": {}})
    assert "enableInference" in cloud.refused(compute, **attached)
    settings = {"enableInference": "True"}
    cloud.put(
        extension, properties={"extensionType": "Microsoft.AzureML.Kubernetes", "configurationSettings": settings}
    )
    assert "trusted access binding" in cloud.refused(compute, **attached)
    role = "Microsoft.MachineLearningServices/workspaces/mlworkload"
    binding = {"roles": [role], "sourceResourceId": cloud.workspace}
    cloud.put(f"{other}/trustedAccessRoleBindings/ml", properties=binding)
    cloud.put(compute, **attached)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"authMode": "AADToken"}, "not supported for Kubernetes"),
        ({"compute": "/subscriptions/none"}, "not attached"),
        ({"traffic": {"green": 100}}, "do not exist: green"),
        ({"mirrorTraffic": {"green": 10}}, "Mirrored traffic"),
        ({"traffic": {"blue": 40}}, "sum to 0 or 100"),
        ({"traffic": {"blue": "all"}}, "whole number"),
    ],
)
def test_an_endpoint_that_azure_refuses_is_refused_and_keeps_serving(
    cloud: Cloud, endpoint: str, changed: dict[str, Any], reason: str
) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}"
    assert reason in cloud.refused(path, **cloud.endpoint_body(**changed))
    assert cloud.score(endpoint).status_code == 200


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"instanceType": "huge"}, "'huge' is not one of small"),
        ({"containerResourceRequirements": {"containerResourceRequests": {"memory": "2Gi"}}}, "allows 1Gi"),
        ({"containerResourceRequirements": {"containerResourceLimits": {"cpu": "many"}}}, "no Kubernetes quantity"),
        ({"requestSettings": {"requestTimeout": "PT10M"}}, "requestTimeout"),
        ({"endpointComputeType": "Managed"}, "needs endpointComputeType Kubernetes"),
        ({"model": "/subscriptions/none"}, "does not exist"),
        ({"environmentId": "/subscriptions/none"}, "does not exist"),
    ],
)
def test_a_deployment_that_does_not_fit_is_refused(
    cloud: Cloud, endpoint: str, changed: dict[str, Any], reason: str
) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/green"
    assert reason in cloud.refused(path, **cloud.deployment_body(**changed))


def test_a_model_or_image_that_is_not_there_is_named(cloud: Cloud, endpoint: str) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/green"
    uri = "azureml://datastores/lake/paths/nothing"
    cloud.put(f"{cloud.workspace}/models/clicks/versions/90", properties={"modelUri": uri})
    assert f"nothing at '{uri}'" in cloud.refused(path, **cloud.deployment_body(model="90"))
    image = {"image": f"{cloud.authority}/crtest/scoring@sha256:{'0' * 64}"}
    cloud.put(f"{cloud.workspace}/environments/scoring/versions/90", properties=image)
    environment = f"{cloud.workspace}/environments/scoring/versions/90"
    assert "has no image" in cloud.refused(path, **cloud.deployment_body(environmentId=environment))


# --- credentials


def test_keys_are_never_shown_and_only_the_owner_may_read_them(cloud: Cloud, endpoint: str) -> None:
    key = cloud.key(endpoint)
    assert key not in cloud.arm("GET", f"{cloud.workspace}/onlineEndpoints/{endpoint}").text
    holders = [path for path in cloud.folder.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert holders
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holders)


def test_a_token_endpoint_admits_its_own_tokens_only(cloud: Cloud) -> None:
    for name in ("ep-token", "ep-token2"):
        cloud.endpoint(name, authMode="AMLToken")
        cloud.deploy(name, "blue")
    tokens = [cloud.ml.online_endpoints.get_keys(name) for name in ("ep-token", "ep-token2")]
    assert tokens[0].expiry_time_utc > tokens[0].refresh_after_time_utc > time.time()
    assert cloud.score("ep-token", key=tokens[0].access_token, deployment="blue").status_code == 200
    assert cloud.score("ep-token", key=tokens[1].access_token, deployment="blue").status_code == 401
    assert cloud.arm("POST", f"{cloud.workspace}/onlineEndpoints/ep-token/listKeys").status_code == 400


# --- replicas


def test_a_replica_sees_its_model_and_nothing_of_the_sandboxs_own_environment(cloud: Cloud, endpoint: str) -> None:
    answer = cloud.score(endpoint).json()
    environment = answer["env"]
    assert answer["at"] == f"{environment['AZUREML_MODEL_DIR']}/run-1/model.txt"
    assert environment["AZUREML_MODEL_DIR"].endswith("/models/clicks/1")
    assert set(environment) <= {
        *("PATH", "LANG", "HOME", "TMPDIR", "PWD", "JAVA_HOME", "JAVA_TOOL_OPTIONS", "LC_CTYPE"),
        *("AZUREML_MODEL_DIR", "SCORING_HOST", "SCORING_PORT", "SPARK_SUBMIT_OPTS"),
    }
    assert environment["SPARK_SUBMIT_OPTS"] == java.QUICK
    for folder in ("HOME", "TMPDIR"):
        assert Path(environment[folder]).is_relative_to(cloud.folder / "deployments" / endpoint / "blue")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")
def test_a_replica_that_holds_more_than_its_limit_is_killed_and_started_again(cloud: Cloud, endpoint: str) -> None:
    limits = {"containerResourceLimits": {"memory": "128Mi"}}
    cloud.deploy(endpoint, "green", containerResourceRequirements=limits)
    (first,) = replicas(cloud, endpoint, "green")
    cloud.score(endpoint, {"hold": 64 << 20}, deployment="green")
    time.sleep(1.0)
    assert is_alive(first)
    cloud.score(endpoint, {"hold": 96 << 20}, deployment="green")
    assert gone(first)
    eventually(lambda: cloud.score(endpoint, deployment="green").status_code == 200)
    assert "OOMKilled" in cloud.ml.online_deployments.get_logs("green", endpoint, lines=20)


def test_a_deployment_that_does_not_get_ready_fails_with_its_log_and_leaves_no_process(
    cloud: Cloud, endpoint: str
) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/green"
    began = time.monotonic()
    error = cloud.change(
        "PUT",
        path,
        {"location": "westeurope", **cloud.deployment_body(variables={"FAIL_AT_START": "truncated"}, replicas=2)},
    )
    assert error["code"] == "ResourceNotReady"
    assert "cannot load the model: truncated" in error["message"]
    assert time.monotonic() - began < 10
    assert cloud.score(endpoint, deployment="green").status_code == 404
    assert "truncated" in cloud.ml.online_deployments.get_logs("green", endpoint, lines=20)
    assert not list((cloud.folder / "deployments" / endpoint / "green").glob("run-*"))
    never = cloud.deployment_body(variables={"NEVER_READY": "1"}, readinessProbe={**PROBE, "failureThreshold": 1})
    assert "'/ready' was not 200 in 2 s" in cloud.refused(path, **never)


def test_a_failed_update_leaves_the_old_replicas_serving(cloud: Cloud, endpoint: str) -> None:
    before = replicas(cloud, endpoint)
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/blue"
    cloud.refused(path, **cloud.deployment_body(model="2", variables={"FAIL_AT_START": "x"}))
    assert replicas(cloud, endpoint) <= before
    assert cloud.score(endpoint).json()["model"] == "first"


def test_an_update_in_place_loses_no_request_and_ends_the_old_replicas(cloud: Cloud, endpoint: str) -> None:
    before, key, done, seen = replicas(cloud, endpoint), cloud.key(endpoint), threading.Event(), Counter[Any]()

    def call() -> None:
        while not done.is_set():
            answer = cloud.score(endpoint, {"sleep": 0.02}, key=key)
            seen[answer.status_code, answer.json().get("model")] += 1

    caller = threading.Thread(target=call)
    caller.start()
    try:
        cloud.deploy(endpoint, "blue", model="2", replicas=2)
        eventually(lambda: (200, "second") in seen)
    finally:
        done.set()
        caller.join()
    assert set(seen) == {(200, "first"), (200, "second")}
    assert not any(is_alive(pid) for pid in before)


def test_a_request_that_an_update_overtakes_is_answered_by_the_new_replicas(cloud: Cloud, endpoint: str) -> None:
    def body() -> Iterator[bytes]:
        yield b"{"
        cloud.deploy(endpoint, "blue", model="2", replicas=2)
        yield b"}"

    answer = cloud.http.post(
        f"/api/v1/endpoint/{endpoint}/score",
        content=body(),
        headers={"authorization": f"Bearer {cloud.key(endpoint)}", "content-type": "application/json"},
    )
    assert (answer.status_code, answer.json().get("model")) == (200, "second")


def test_a_put_that_changes_nothing_restarts_nothing(cloud: Cloud, endpoint: str) -> None:
    before = replicas(cloud, endpoint)
    cloud.deploy(endpoint, "blue", replicas=2)
    assert replicas(cloud, endpoint) == before


def test_a_killed_replica_costs_no_request_and_comes_back(cloud: Cloud, endpoint: str) -> None:
    before = replicas(cloud, endpoint)
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    assert {cloud.score(endpoint).status_code for _ in range(20)} == {200}
    eventually(lambda: len(replicas(cloud, endpoint)) == 2)
    assert min(before) not in replicas(cloud, endpoint)
    assert "exit code -9" in cloud.ml.online_deployments.get_logs("blue", endpoint, lines=50)


def test_a_replica_that_hangs_is_replaced(cloud: Cloud, endpoint: str) -> None:
    probe = {"period": "PT0.2S", "timeout": "PT1S", "failureThreshold": 2}
    cloud.deploy(endpoint, "blue", livenessProbe=probe)
    hung = cloud.score(endpoint, {"hang": 1}).json()["pid"]
    assert gone(hung, within=20)
    eventually(lambda: cloud.score(endpoint).status_code == 200)


def test_a_deployment_with_traffic_is_not_deleted(cloud: Cloud, endpoint: str) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/blue"
    assert "still gets 100 %" in cloud.delete(path)
    running = replicas(cloud, endpoint)
    cloud.endpoint(endpoint, {})
    assert cloud.delete(path) == ""
    assert not any(is_alive(pid) for pid in running)


@pytest.mark.parametrize("ended", ["stop", "kill"])
def test_a_restarted_sandbox_brings_deployments_back(cloud: Cloud, endpoint: str, ended: str) -> None:
    key, before = cloud.key(endpoint), replicas(cloud, endpoint)
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}"
    cloud.refused(path, **cloud.endpoint_body({"green": 100}))
    cloud.refused(f"{path}/deployments/blue", **cloud.deployment_body(model="2", variables={"FAIL_AT_START": "x"}))
    getattr(cloud, ended)()
    assert not any(is_alive(pid) for pid in before)
    cloud.start()
    eventually(lambda: cloud.score(endpoint, key=key).status_code == 200)
    assert cloud.score(endpoint, key=key).json()["model"] == "first"


def test_deleting_the_group_ends_every_replica(tmp_path: Path) -> None:
    with ml_sandbox(tmp_path) as cloud:
        cloud.endpoint("ep-last")
        cloud.deploy("ep-last", "blue", replicas=2)
        cloud.endpoint("ep-last", {"blue": 100})
        running = replicas(cloud, "ep-last")
        assert cloud.delete(cloud.group) == ""
        assert not any(is_alive(pid) for pid in running)
        assert not list((cloud.folder / "deployments").iterdir())
        assert not list((cloud.folder / "registries").iterdir())
