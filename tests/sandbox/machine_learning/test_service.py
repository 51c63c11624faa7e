"""Azure ML through its own SDK and plain ARM requests: assets, compute, endpoints, deployments and replicas."""

import base64
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

from sandbox import java
from testing.certificates import pem
from testing.sandbox.machine_learning import (
    COMPUTE,
    EXTENSION,
    Cloud,
    cluster_properties,
    compute_properties,
    extension_properties,
    key_vault,
    ml_sandbox,
)
from testing.sandbox.process import gone, is_alive
from testing.waiting import eventually

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


def test_unmodified_sdk_registers_deploys_invokes_and_deletes(cloud: Cloud, tmp_path: Path) -> None:
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
        instance_type="defaultinstancetype",
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


def test_workspace_refuses_a_lake_as_its_own_storage(cloud: Cloud) -> None:
    lake = f"{cloud.group}/providers/Microsoft.Storage/storageAccounts/lake"
    workspace = f"{cloud.group}/providers/Microsoft.MachineLearningServices/workspaces/other"
    vault = key_vault(cloud)
    linked = {"keyVault": vault, "storageAccount": lake}
    assert "Cannot use storage with HNS enabled" in cloud.refused(workspace, properties=linked)
    assert "does not exist" in cloud.refused(workspace, properties={**linked, "storageAccount": f"{lake}2"})
    assert "Missing dependent resources" in cloud.refused(workspace, properties={"storageAccount": lake})


def test_cluster_is_attached_only_with_a_role_the_extension_and_trusted_access(cloud: Cloud) -> None:
    other = cloud.cluster.replace("aks-test", "aks-other")
    compute, attached = f"{cloud.workspace}/computes/other", {"properties": compute_properties(other)}
    assert "does not exist" in refused_attach(cloud, compute, **attached)
    cloud.put(other, properties=cluster_properties("other"))
    extension = f"{other}/providers/{EXTENSION}/azureml"
    cloud.put(extension, properties=extension_properties(enableInference="False"))
    assert "without the role Contributor" in refused_attach(cloud, compute, **attached)
    cloud.contribute(other)
    assert "enableInference" in refused_attach(cloud, compute, **attached)
    cloud.put(extension, properties=extension_properties())
    assert "trusted access binding" in refused_attach(cloud, compute, **attached)
    role = "Microsoft.MachineLearningServices/workspaces/mlworkload"
    binding = {"roles": [role], "sourceResourceId": cloud.workspace}
    cloud.put(f"{other}/trustedAccessRoleBindings/ml", properties=binding)
    cloud.settings(role_propagation=3600)
    assert "without the role Contributor" in refused_attach(cloud, compute, **attached)
    cloud.settings(role_propagation=0)
    cloud.put(compute, **attached)


def refused_attach(cloud: Cloud, compute: str, **body: Any) -> str:
    """The reason of a refused attach; the failed compute is detached."""
    reason = cloud.refused(compute, **body)
    assert cloud.delete(f"{compute}?underlyingResourceAction=Detach") == ""
    return reason


def test_attached_cluster_is_not_updated(cloud: Cloud) -> None:
    """Source: Azure/azureml-examples#3030"""
    compute = f"{cloud.workspace}/computes/{COMPUTE}"
    same = cloud.arm("GET", compute).json()
    assert "Detach it first" in cloud.refused(compute, properties=same["properties"])
    assert cloud.change("PATCH", compute, {"tags": {"owner": "somebody"}})["code"] == "ComputeAlreadyAttached"


def test_deletion_of_a_compute_requires_the_underlying_resource_action(cloud: Cloud) -> None:
    compute = f"{cloud.workspace}/computes/twice"
    cloud.put(compute, properties=compute_properties(cloud.cluster))
    for query in ("", "?underlyingResourceAction=Keep"):
        assert cloud.change("DELETE", f"{compute}{query}")["code"] == "InvalidParameter"
    assert cloud.delete(f"{compute}?underlyingResourceAction=Detach") == ""
    assert cloud.arm("GET", compute).status_code == 404
    assert cloud.arm("GET", cloud.cluster).status_code == 200


def test_attach_creates_no_instance_type(cloud: Cloud) -> None:
    compute = f"{cloud.workspace}/computes/typed"
    huge = {"huge": {"resources": {"limits": {"cpu": "8", "memory": "32Gi"}}}}
    found = cloud.put(compute, properties=compute_properties(cloud.cluster, instanceTypes=huge))
    assert list(found["properties"]["properties"]["instanceTypes"]) == ["defaultinstancetype"]
    cloud.delete(f"{compute}?underlyingResourceAction=Detach")


def test_extension_on_aks_has_the_identity_that_aks_assigned(cloud: Cloud) -> None:
    """Source: MicrosoftDocs/azure-docs#120348"""
    path = f"{cloud.cluster}/providers/{EXTENSION}/other"
    found = cloud.put(path, properties={"extensionType": "other"}, identity={"type": "SystemAssigned"})
    assert "identity" not in found
    assert found["properties"]["aksAssignedIdentity"]["principalId"]
    cloud.delete(path)


def encoded(*names: str) -> tuple[str, str]:
    """A certificate and its key in the extension's format."""
    certificate, key = pem(*names)
    return base64.b64encode(certificate.encode()).decode(), base64.b64encode(key.encode()).decode()


CERTIFICATE, KEY = encoded("localhost")
SECURE = {"allowInsecureConnections": "False", "sslCname": "localhost"}


@pytest.mark.parametrize(
    ("settings", "protected", "reason"),
    [
        ({"inferenceRouterServiceType": ""}, {}, "E40001"),
        ({"inferenceRouterHA": "True"}, {}, "E40002, 2 nodes match the selector {}, and the router needs 3"),
        ({"nodeSelector.pool": "scoring"}, {}, "E40002, 0 nodes"),
        ({"internalLoadBalancerProvider": "metallb"}, {}, "E40003"),
        (SECURE, {}, "E40007, the certificate or its key cannot be read"),
        (SECURE, {"scoringFe.sslCert": CERTIFICATE, "scoringFe.sslKey": encoded("a")[1]}, "E40007, the key is not"),
        (
            {**SECURE, "sslCname": "score.example.com"},
            {"scoringFe.sslCert": CERTIFICATE, "scoringFe.sslKey": KEY},
            "E40007, sslCname 'score.example.com' is not among",
        ),
        ({**SECURE, "scoringFe.sslSecret": "scores-tls"}, {}, "E40007, the namespace azureml has no secret"),
    ],
)
def test_extension_whose_health_check_fails_is_refused(
    cloud: Cloud, settings: dict[str, str], protected: dict[str, str], reason: str
) -> None:
    """Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-extension.md"""
    path = f"{cloud.cluster}/providers/{EXTENSION}/sick"
    properties = {**extension_properties(**settings), "configurationProtectedSettings": protected}
    assert reason in cloud.refused(path, properties=properties)
    cloud.delete(path)


def test_router_listens_at_the_address_in_the_extension_settings(cloud: Cloud) -> None:
    path = f"{cloud.cluster}/providers/{EXTENSION}/azureml"
    cluster = cloud.arm("GET", cloud.cluster).json()

    def address(**settings: str) -> str:
        protected = {"scoringFe.sslCert": CERTIFICATE, "scoringFe.sslKey": KEY}
        cloud.put(path, properties={**extension_properties(**settings), "configurationProtectedSettings": protected})
        found: str = cloud.endpoint("ep-address")["properties"]["scoringUri"]
        return found.partition("/api/")[0]

    inside = "scoringFe.serviceType.internalLoadBalancer"
    assert address() == cloud.url
    assert address(**SECURE) == cloud.url.replace("127.0.0.1", "localhost")
    assert "configurationProtectedSettings" not in cloud.arm("GET", path).json()["properties"]
    pools = [{**pool, "vnetSubnetID": "/subnets/nodes"} for pool in cluster["properties"]["agentPoolProfiles"]]
    cloud.put(cloud.cluster, properties={**cluster["properties"], "agentPoolProfiles": pools})
    for public in ({}, {inside: "azure"}, {"internalLoadBalancerProvider": "azure"}):
        assert address(**public) == "http://192.0.2.10"
    assert address(**{inside: "True"}) == cloud.url
    cloud.put(cloud.cluster, properties=cluster["properties"])
    assert address() == cloud.url
    cloud.delete(f"{cloud.workspace}/onlineEndpoints/ep-address")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"authMode": "AADToken"}, "not supported for Kubernetes"),
        ({"compute": "/subscriptions/none"}, "not attached"),
        ({"traffic": {"green": 100}}, "do not exist: green"),
        ({"mirrorTraffic": {"green": 10}}, "Mirrored traffic"),
        ({"traffic": {"blue": 40}}, "sum to 0 or 100"),
        ({"traffic": {"blue": "all"}}, "whole percentage"),
    ],
)
def test_invalid_endpoint_update_is_refused_and_the_endpoint_continues(
    cloud: Cloud, endpoint: str, changed: dict[str, Any], reason: str
) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}"
    assert reason in cloud.refused(path, **cloud.endpoint_body(**changed))
    assert cloud.score(endpoint).status_code == 200


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"instanceType": "huge"}, "'huge' is not one of defaultinstancetype"),
        ({"containerResourceRequirements": {"containerResourceRequests": {"memory": "3Gi"}}}, "above its limit 2Gi"),
        ({"containerResourceRequirements": {"containerResourceLimits": {"memory": "2Gi"}}}, "less than 2Gi"),
        ({"containerResourceRequirements": {"containerResourceLimits": {"cpu": "many"}}}, "not a Kubernetes quantity"),
        ({"requestSettings": {"requestTimeout": "PT10M"}}, "requestTimeout"),
        ({"endpointComputeType": "Managed"}, "needs endpointComputeType Kubernetes"),
        ({"model": "/subscriptions/none"}, "does not exist"),
        ({"environmentId": "/subscriptions/none"}, "does not exist"),
    ],
)
def test_deployment_that_does_not_fit_is_refused(
    cloud: Cloud, endpoint: str, changed: dict[str, Any], reason: str
) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/green"
    assert reason in cloud.refused(path, **cloud.deployment_body(**changed))


def test_instance_type_created_in_the_cluster_is_accepted(cloud: Cloud, endpoint: str) -> None:
    requirements = {"containerResourceRequirements": {"containerResourceLimits": {"memory": "3Gi"}}}
    cloud.settings(instance_types={"large": {"cpu": "4", "memory": "8Gi"}})
    cloud.deploy(endpoint, "green", instanceType="large", **requirements)
    cloud.settings()
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/green"
    assert "'large' is not one of" in cloud.refused(path, **cloud.deployment_body(instanceType="large"))


def test_model_outside_blob_storage_is_refused(cloud: Cloud, endpoint: str) -> None:
    """Source: Azure/AML-Kubernetes docs/faq.md"""
    gen2 = {"datastoreType": "AzureDataLakeGen2", "accountName": "lake", "filesystem": "models"}
    credentials = {"credentials": {"credentialsType": "None"}}
    cloud.put(f"{cloud.workspace}/datastores/gen2", properties={**gen2, **credentials})
    uri = "azureml://datastores/gen2/paths/run-1"
    cloud.put(f"{cloud.workspace}/models/clicks/versions/91", properties={"modelUri": uri})
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/green"
    assert "not AzureBlob" in cloud.refused(path, **cloud.deployment_body(model="91"))


def test_missing_model_or_image_is_named_in_the_error(cloud: Cloud, endpoint: str) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/green"
    uri = "azureml://datastores/lake/paths/nothing"
    cloud.put(f"{cloud.workspace}/models/clicks/versions/90", properties={"modelUri": uri})
    assert f"'{uri}' does not exist" in cloud.refused(path, **cloud.deployment_body(model="90"))
    image = {"image": f"{cloud.authority}/crtest/scoring@sha256:{'0' * 64}"}
    cloud.put(f"{cloud.workspace}/environments/scoring/versions/90", properties=image)
    environment = f"{cloud.workspace}/environments/scoring/versions/90"
    assert "has no image" in cloud.refused(path, **cloud.deployment_body(environmentId=environment))


# --- credentials


def test_endpoint_keys_are_in_no_answer_and_readable_by_the_owner_only(cloud: Cloud, endpoint: str) -> None:
    key = cloud.key(endpoint)
    assert key not in cloud.arm("GET", f"{cloud.workspace}/onlineEndpoints/{endpoint}").text
    holders = [path for path in cloud.folder.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert holders
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holders)


def test_token_endpoint_admits_its_own_tokens_only(cloud: Cloud) -> None:
    for name in ("ep-token", "ep-token2"):
        cloud.endpoint(name, authMode="AMLToken")
        cloud.deploy(name, "blue")
    tokens = [cloud.ml.online_endpoints.get_keys(name) for name in ("ep-token", "ep-token2")]
    assert tokens[0].expiry_time_utc > tokens[0].refresh_after_time_utc > time.time()
    assert cloud.score("ep-token", key=tokens[0].access_token, deployment="blue").status_code == 200
    assert cloud.score("ep-token", key=tokens[1].access_token, deployment="blue").status_code == 401
    assert cloud.arm("POST", f"{cloud.workspace}/onlineEndpoints/ep-token/listKeys").status_code == 400


# --- replicas


def test_replica_has_its_model_and_no_variable_of_the_sandbox(cloud: Cloud, endpoint: str) -> None:
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
def test_replica_that_holds_more_than_its_limit_is_killed_and_started_again(cloud: Cloud, endpoint: str) -> None:
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


def test_deployment_that_does_not_get_ready_fails_with_its_log_and_leaves_no_process(
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


def test_old_replicas_continue_after_a_failed_update(cloud: Cloud, endpoint: str) -> None:
    before = replicas(cloud, endpoint)
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/blue"
    cloud.refused(path, **cloud.deployment_body(model="2", variables={"FAIL_AT_START": "x"}))
    assert replicas(cloud, endpoint) <= before
    assert cloud.score(endpoint).json()["model"] == "first"


def test_update_in_place_loses_no_request_and_ends_the_old_replicas(cloud: Cloud, endpoint: str) -> None:
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


def test_request_during_an_update_is_answered_by_the_new_replicas(cloud: Cloud, endpoint: str) -> None:
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


def test_unchanged_deployment_is_not_restarted(cloud: Cloud, endpoint: str) -> None:
    before = replicas(cloud, endpoint)
    cloud.deploy(endpoint, "blue", replicas=2)
    assert replicas(cloud, endpoint) == before


def test_killed_replica_loses_no_request_and_restarts(cloud: Cloud, endpoint: str) -> None:
    before = replicas(cloud, endpoint)
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    assert {cloud.score(endpoint).status_code for _ in range(20)} == {200}
    eventually(lambda: len(replicas(cloud, endpoint)) == 2)
    assert min(before) not in replicas(cloud, endpoint)
    assert "exit code -9" in cloud.ml.online_deployments.get_logs("blue", endpoint, lines=50)


def test_replica_that_hangs_is_replaced(cloud: Cloud, endpoint: str) -> None:
    probe = {"period": "PT0.2S", "timeout": "PT1S", "failureThreshold": 2}
    cloud.deploy(endpoint, "blue", livenessProbe=probe)
    hung = cloud.score(endpoint, {"hang": 1}).json()["pid"]
    assert gone(hung, within=20)
    eventually(lambda: cloud.score(endpoint).status_code == 200)


def test_deployment_with_traffic_is_not_deleted(cloud: Cloud, endpoint: str) -> None:
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}/deployments/blue"
    assert "still gets 100 %" in cloud.delete(path)
    running = replicas(cloud, endpoint)
    cloud.endpoint(endpoint, {})
    assert cloud.delete(path) == ""
    assert not any(is_alive(pid) for pid in running)


@pytest.mark.parametrize("ended", ["stop", "kill"])
def test_restarted_sandbox_brings_deployments_back(cloud: Cloud, endpoint: str, ended: str) -> None:
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
