"""The rollout through Azure ML's own client: checks of a new deployment, and the state after a failed check."""

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from cli.local_run.sandbox import deployer
from infra.components.roles import Role
from infra.release.checks.probe import Limits, Probe, ProbeResult, broken
from infra.release.serving_stage import rollout
from testing.sandbox.machine_learning import CONTEXT, Cloud, environment, ml_sandbox
from testing.sandbox.process import in_environment
from testing.waiting import eventually

ENDPOINT = "ep-rollout"
LIMITS = {"error_share_max": 0.01, "p99_ms_max": 5000, "drift_max": 0.5, "probe_rps": 60, "probe_seconds": 0.5}
# A stand-in for the scoring service: it answers in its contract, and misbehaves as its model's file says.
SERVICE = """
import itertools, json, os, pathlib, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

model = json.loads(next(pathlib.Path(os.environ["AZUREML_MODEL_DIR"]).rglob("model.txt")).read_text())
name = os.environ["MODEL_NAME"] + ":" + os.environ["MODEL_VERSION"]
singles = itertools.count()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self): self.answer(200, {})
    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["content-length"])))["rows"]
        if any(model["takes"] not in row for row in rows):
            return self.answer(400, {"title": "unknown feature"})
        if len(rows) == 1:
            time.sleep(model.get("delay", 0))
            if model.get("fails") and next(singles) % model["fails"] == 0:
                return self.answer(500, {"title": "no luck"})
            if model.get("untold") and next(singles) % model["untold"] == 0:
                return self.answer(200, {"model": name, "probabilities": [None]})
        self.answer(200, {"model": name, "probabilities": [model["base"] + row[model["takes"]] / 100 for row in rows]})
    def log_message(self, *args): pass

ThreadingHTTPServer((os.environ["SCORING_HOST"], int(os.environ["SCORING_PORT"])), Handler).serve_forever()
"""
VERSIONS: dict[str, dict[str, Any]] = {
    "1": {"takes": "x", "base": 0.2},
    "2": {"takes": "x", "base": 0.21},
    "3": {"takes": "x", "base": 0.2, "golden": 0.2000001},
    "4": {"takes": "x", "base": 0.2, "fails": 10},
    "5": {"takes": "x", "base": 0.2, "delay": 2},
    "6": {"takes": "x", "base": 0.7},
    "7": {"takes": "y", "base": 0.4},
    "8": {"takes": "x", "base": 0.2, "untold": 10},
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ml_sandbox(tmp_path_factory.mktemp("rollout")) as cloud, in_environment(cloud.environment):
        lake = f"{cloud.group}/providers/Microsoft.Storage/storageAccounts/lake"
        role = f"{cloud.subscription}/providers/Microsoft.Authorization/roleDefinitions/{Role.STORAGE_BLOB_DATA_READER}"
        cloud.put(
            f"{lake}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}",
            properties={"principalId": deployer(), "roleDefinitionId": role, "principalType": "ServicePrincipal"},
        )
        run = cloud.build({**CONTEXT, "service.py": SERVICE})
        environment(cloud, "2", run.output_images[0].digest)
        for version, model in VERSIONS.items():
            cloud.model(version, json.dumps(model))
            golden = [
                {"row": {model["takes"]: x}, "probability": model.get("golden", model["base"]) + x / 100}
                for x in range(10)
            ]
            folder = cloud.folder / "accounts" / "lake" / "models" / f"run-{version}"
            (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))
        yield cloud


@pytest.fixture(scope="module")
def first(cloud: Cloud) -> dict[str, Any]:
    """State of the rollout of version 1 to an empty endpoint."""
    cloud.endpoint(ENDPOINT)
    return rolled_out(cloud, "1")


@pytest.fixture
def live(cloud: Cloud, first: dict[str, Any]) -> dict[str, Any]:
    """Make version 1 the only deployment, independent of earlier tests."""
    cloud.endpoint(ENDPOINT, {first["deployment"]: 100})
    for name in deployments(cloud) - {first["deployment"]}:
        cloud.delete(f"{cloud.workspace}/onlineEndpoints/{ENDPOINT}/deployments/{name}")
    return first


def props(cloud: Cloud, version: str, **changed: Any) -> dict[str, Any]:
    return {
        "workspace_id": cloud.workspace,
        "endpoint_name": ENDPOINT,
        "model_name": "clicks",
        "model_version": version,
        "environment": "scoring:2",
        "engine": "native",
        "instance_type": "defaultinstancetype",
        "scale": {"min": 1, "max": 1, "cpu": "100m", "memory": "128Mi", "concurrency": 64, "utilisation": 70},
        "rollout": [10, 100],
        "limits": LIMITS,
        "blob_endpoint": f"{cloud.url}/blob/lake",
        "models_container": "models",
        **changed,
    }


def rolled_out(cloud: Cloud, version: str, olds: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """The state of the rollout in the engine."""
    provider, news = rollout._RolloutProvider(), props(cloud, version, **changed)
    return dict((provider.create(news) if olds is None else provider.update(ENDPOINT, olds, news)).outs or {})


def traffic(cloud: Cloud) -> dict[str, int]:
    found = cloud.arm("GET", f"{cloud.workspace}/onlineEndpoints/{ENDPOINT}").json()["properties"]["traffic"]
    return {name: share for name, share in found.items() if share}


def deployments(cloud: Cloud) -> set[str]:
    return {found.name for found in cloud.ml.online_deployments.list(ENDPOINT)}


def named(cloud: Cloud, version: str) -> str:
    return rollout.deployment_name(rollout.RolloutInputs.of(props(cloud, version)))


@contextmanager
def users(cloud: Cloud) -> Iterator[Counter[int]]:
    """Requests by the route that users take, as long as the block lasts; counted by status."""
    key, seen, over = cloud.key(ENDPOINT), Counter[int](), threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            seen[cloud.score(ENDPOINT, {"rows": [{"x": 1}]}, key=key).status_code] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seen
    finally:
        over.set()
        asking.join()


def test_good_model_receives_traffic_in_steps_and_the_previous_stays_warm(cloud: Cloud, live: dict[str, Any]) -> None:
    with users(cloud) as seen:
        found = rolled_out(cloud, "2", live)
    assert set(seen) == {200}
    assert traffic(cloud) == {named(cloud, "2"): 100}
    assert (found["deployment"], found["previous"]) == (named(cloud, "2"), live["deployment"])
    assert deployments(cloud) == {named(cloud, "1"), named(cloud, "2")}
    assert [check["share"] for check in found["checks"]] == [0, 10, 100]
    for check in found["checks"]:
        assert (check["requests"], check["error_share"], check["failures"]) == (30, 0, {})
        assert check["p99_ms"] > 0
        assert check["live_p99_ms"] > 0
        assert check["drift"] == pytest.approx(0.01 / 0.245)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        pytest.param("3", r"at 0 %: golden row 0: served 0\.2, training computed 0\.2000001", id="other probabilities"),
        pytest.param(
            "4",
            r"at 0 %: 10\.0% of 30 requests failed \(release:error_share_max 0\.01\): 3 times HTTP 500 .*no luck",
            id="errors",
        ),
        pytest.param("8", r"at 0 %: 10\.0% of 30 requests failed .*: 3 times HTTP 200 .*\[null\]", id="no probability"),
        pytest.param(
            "5", r"at 0 %: p99 is \d+ ms, that of the live deployment \d+ ms \(release:p99_ms_max 100\)", id="slow"
        ),
        pytest.param("6", r"at 0 %: probabilities differ by 204\.1% from those of the live deployment", id="drift"),
    ],
)
def test_model_that_fails_a_check_gets_no_traffic_and_stays_for_diagnosis(
    cloud: Cloud, live: dict[str, Any], version: str, reason: str
) -> None:
    with users(cloud) as seen, pytest.raises(rollout.RolloutFailed, match=reason) as failed:
        rolled_out(cloud, version, live, limits={**LIMITS, "p99_ms_max": 100} if version == "5" else LIMITS)
    assert set(seen) == {200}
    assert f"{live['deployment']} has all traffic. {named(cloud, version)} keeps running" in str(failed.value)
    assert f"/deployments/{named(cloud, version)}/getLogs?api-version=" in str(failed.value)
    assert traffic(cloud) == {live["deployment"]: 100}
    assert deployments(cloud) == {live["deployment"], named(cloud, version)}
    assert cloud.score(ENDPOINT, {"rows": [{"x": 1}]}, deployment=named(cloud, version)).status_code in (200, 500)


def test_connections_to_the_endpoint_are_closed_after_success_and_failure(
    cloud: Cloud, live: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[httpx.Client] = []

    class ResourceState(httpx.Client):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            clients.append(self)

    monkeypatch.setattr("infra.release.checks.probe.httpx.Client", ResourceState)
    rolled_out(cloud, "2", live)
    with pytest.raises(rollout.RolloutFailed):
        rolled_out(cloud, "3", live)
    assert [client.is_closed for client in clients] == [True, True]


def test_no_more_than_one_failed_deployment_is_kept(cloud: Cloud, live: dict[str, Any]) -> None:
    for version in ("3", "6"):
        with pytest.raises(rollout.RolloutFailed):
            rolled_out(cloud, version, live)
    assert deployments(cloud) == {live["deployment"], named(cloud, "6")}
    rolled_out(cloud, "2", live)
    assert deployments(cloud) == {live["deployment"], named(cloud, "2")}


def test_failure_during_a_rollout_restores_the_traffic(
    cloud: Cloud, live: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is replaced because a fault of the sandbox cannot wait for the third one."""
    measured: list[dict[str, int]] = []
    check = Probe.check

    def fails_with_users(self: Any, deployment: str, beside: str | None, **how: bool) -> ProbeResult:
        measured.append(traffic(cloud))
        if len(measured) == 3:
            raise ConnectionError("the line is cut")
        return check(self, deployment, beside, **how)

    monkeypatch.setattr(Probe, "check", fails_with_users)
    new, old = named(cloud, "2"), live["deployment"]
    with pytest.raises(rollout.RolloutFailed, match="did not pass at 100 %: the line is cut"):
        rolled_out(cloud, "2", live)
    assert measured == [{old: 100}, {new: 10, old: 90}, {new: 100}]
    assert traffic(cloud) == {old: 100}


def test_interrupted_rollout_continues_and_its_failure_removes_the_candidates_traffic(
    cloud: Cloud, live: dict[str, Any]
) -> None:
    old, new = live["deployment"], named(cloud, "6")
    size = {"cpu": "100m", "memory": "128Mi"}
    cloud.deploy(ENDPOINT, new, model="6", containerResourceRequirements={"requests": size, "limits": size})
    cloud.endpoint(ENDPOINT, {old: 90, new: 10})
    with pytest.raises(rollout.RolloutFailed, match="probabilities differ"):
        rolled_out(cloud, "6", live)
    assert traffic(cloud) == {old: 100}


def test_model_chosen_by_a_person_has_no_drift_limit(cloud: Cloud, live: dict[str, Any]) -> None:
    found = rolled_out(cloud, "6", live, limits={name: limit for name, limit in LIMITS.items() if name != "drift_max"})
    assert found["deployment"] == named(cloud, "6")
    assert found["checks"][0]["drift"] > 2


def test_model_with_other_features_is_measured_without_the_live_one(cloud: Cloud, live: dict[str, Any]) -> None:
    found = rolled_out(cloud, "7", live)
    assert [(check["drift"], check["live_p99_ms"]) for check in found["checks"]] == [(None, None)] * 3


def test_manual_changes_of_traffic_and_deployment_are_read_and_reverted(cloud: Cloud, live: dict[str, Any]) -> None:
    provider, wanted = rollout._RolloutProvider(), {**props(cloud, "1"), "share": 100}
    held = {**live, "share": 100}
    assert provider.read(ENDPOINT, held).outs == held
    cloud.endpoint(ENDPOINT)
    found = provider.read(ENDPOINT, held).outs
    assert provider.diff(ENDPOINT, found, wanted).changes
    assert found["share"] == 0
    assert (provider.update(ENDPOINT, found, wanted).outs or {})["share"] == 100
    assert traffic(cloud) == {live["deployment"]: 100}
    assert provider.read(ENDPOINT, {**held, "deployment": "m9-gone"}).outs["share"] == 0
    assert provider.read("elsewhere", {**held, "endpoint_name": "elsewhere"}).id == ""


def of_model(it: Any) -> None:
    it.model = it.model.replace("/versions/1", "/versions/2")


def of_image(it: Any) -> None:
    it.environment = it.environment.replace("/versions/2", "/versions/1")


def of_engine(it: Any) -> None:
    it.environment_variables["SCORING_ENGINE"] = "spark"


def of_replicas(it: Any) -> None:
    it.scale_settings.max_instances = 2


def of_load(it: Any) -> None:
    it.request_settings.max_concurrent_requests_per_instance = 8


def of_size(it: Any) -> None:
    it.resources.requests.memory = "64Mi"


@pytest.mark.parametrize(
    ("by_hand", "differs", "value"),
    [
        (of_model, "model_version", "2"),
        (of_image, "environment", "scoring:1"),
        (of_engine, "engine", "spark"),
        (of_replicas, "scale", {"max": 2}),
        (of_load, "scale", {"concurrency": 8}),
        (of_size, "scale", {"memory": "64Mi"}),
    ],
)
def test_deployment_changed_by_hand_is_reported_with_the_difference_and_reset(
    cloud: Cloud, live: dict[str, Any], by_hand: Callable[[Any], None], differs: str, value: Any
) -> None:
    provider, wanted = rollout._RolloutProvider(), {**props(cloud, "1"), "share": 100}
    held = {**live, "share": 100}
    found = cloud.ml.online_deployments.get(live["deployment"], ENDPOINT)
    by_hand(found)
    cloud.ml.online_deployments.begin_create_or_update(found).result()
    read = provider.read(ENDPOINT, held)
    assert [name for name in provider.inputs.changes() if read.outs.get(name) != held.get(name)] == [differs]
    assert (read.inputs or {})[differs] == ({**held["scale"], **value} if differs == "scale" else value)
    assert provider.diff(ENDPOINT, read.outs, wanted).changes
    provider.update(ENDPOINT, read.outs, wanted)
    assert provider.read(ENDPOINT, held).outs == held
    assert traffic(cloud) == {live["deployment"]: 100}


def test_equal_quantities_in_another_notation_are_the_same(cloud: Cloud, live: dict[str, Any]) -> None:
    """Kubernetes writes 1000m as 1."""
    held = {**live, "share": 100, "scale": {**live["scale"], "cpu": "0.1", "memory": "131072Ki"}}
    assert rollout._RolloutProvider().read(ENDPOINT, held).outs == held


def test_rollback_to_the_warm_deployment_takes_no_steps(cloud: Cloud, live: dict[str, Any]) -> None:
    forth = rolled_out(cloud, "2", live)
    back = rolled_out(cloud, "1", forth)
    assert [(check["share"], check["requests"] > 0) for check in back["checks"]] == [(0, False), (100, True)]
    assert (back["deployment"], back["previous"]) == (live["deployment"], forth["deployment"])
    assert deployments(cloud) == {live["deployment"], forth["deployment"]}


def test_deployment_tags_name_model_image_and_engine(cloud: Cloud, live: dict[str, Any]) -> None:
    made_of = {"dataset": "movielens", "snapshot": "2026-11-26", "code": "c0de", "run_id": "run-2"}
    uri = "azureml://datastores/lake/paths/run-2"
    tags = {**made_of, "auc": "0.7"}
    cloud.put(f"{cloud.workspace}/models/clicks/versions/2", properties={"modelUri": uri, "tags": tags})
    found = cloud.ml.online_deployments.get(rolled_out(cloud, "2", live)["deployment"], ENDPOINT)
    tags = {**made_of, "model_version": "2", "engine": "native", "image": "2"}
    assert found.tags == {**tags, "incarnation": live["incarnation"]}


def test_changed_scale_keeps_the_warm_deployment(cloud: Cloud, live: dict[str, Any]) -> None:
    forth = rolled_out(cloud, "2", live)
    scaled = rolled_out(cloud, "2", forth, scale={**props(cloud, "2")["scale"], "max": 2})
    assert (scaled["deployment"], scaled["previous"]) == (forth["deployment"], forth["previous"])
    assert deployments(cloud) == {live["deployment"], forth["deployment"]}


def test_traffic_removed_by_a_write_of_the_endpoint_is_restored_first(cloud: Cloud, live: dict[str, Any]) -> None:
    cloud.endpoint(ENDPOINT)
    assert traffic(cloud) == {}
    with pytest.raises(rollout.RolloutFailed):
        rolled_out(cloud, "3", live)
    assert traffic(cloud) == {live["deployment"]: 100}


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        pytest.param(ProbeResult(100, 0.01, 5000), True, id="at the limits"),
        pytest.param(ProbeResult(100, 0.02, 10), False, id="errors"),
        pytest.param(ProbeResult(100, 1, None), False, id="no answer"),
        pytest.param(ProbeResult(100, 0, 5001), False, id="slow"),
        pytest.param(ProbeResult(100, 0, 9000, live_p99_ms=6000), True, id="far away, as the live deployment"),
        pytest.param(ProbeResult(100, 0, 9001, live_p99_ms=6000), False, id="far away, and slower"),
        pytest.param(ProbeResult(100, 0, 10, 10, drift=0.5), True, id="drift at the limit"),
        pytest.param(ProbeResult(100, 0, 10, 10, drift=0.51), False, id="drift"),
    ],
)
def test_limits_are_kept_or_named(found: ProbeResult, holds: bool) -> None:
    reasons = broken(found, Limits(**LIMITS))
    assert (reasons == []) is holds
    assert all("release:" in reason for reason in reasons)


def test_rollout_prints_nothing_between_the_messages_of_the_engine(
    cloud: Cloud, live: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    rolled_out(cloud, "2", live)
    assert capfd.readouterr() == ("", "")


def test_forced_replacement_keeps_the_deployment_and_its_traffic(cloud: Cloud, live: dict[str, Any]) -> None:
    provider = rollout._RolloutProvider()
    with users(cloud) as seen:
        replacement = rolled_out(cloud, "1")
        provider.delete(ENDPOINT, live)
        eventually(lambda: seen[200], lambda answered: answered > 20, 10)
    assert set(seen) == {200}
    assert replacement["deployment"] == live["deployment"]
    assert traffic(cloud) == {live["deployment"]: 100}
    provider.delete(ENDPOINT, replacement)
    assert (traffic(cloud), deployments(cloud)) == ({}, set())
    live |= rolled_out(cloud, "1")


def test_interrupted_replacement_leaves_the_deployment_to_the_old_resource(cloud: Cloud, live: dict[str, Any]) -> None:
    provider = rollout._RolloutProvider()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout._RolloutProvider, "claim", lambda *_: None)
        rolled_out(cloud, "1")
    provider.delete(ENDPOINT, live)
    assert deployments(cloud) == set()
    live |= rolled_out(cloud, "1")
