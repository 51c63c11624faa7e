"""Rollback to an image: the second one passes every check of its rollout and then fails for users."""

import inspect
import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.mgmt.containerregistrytasks.models import Run

from cli.local_run.sandbox import deployer
from infra.components.roles import Role
from infra.config.loading import load
from infra.release.serving_stage import environment, image, rollout
from testing.sandbox.machine_learning import CONTEXT, Cloud, ml_sandbox
from testing.sandbox.process import in_environment

ENDPOINT = "ep-rollback"
# A busy test machine answers late, which must not refuse an image here.
LIMITS = {"error_share_max": 0.5, "p99_ms_max": 5000, "probe_rps": 60, "probe_seconds": 0.5}
SERVICE = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

name = os.environ["MODEL_NAME"] + ":" + os.environ["MODEL_VERSION"]

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
        if BROKEN and any(row["x"] > 50 for row in rows):
            return self.answer(500, {"title": "no luck"})
        self.answer(200, {"model": name, "probabilities": [row["x"] / 100 for row in rows]})
    def log_message(self, *args): pass

ThreadingHTTPServer((os.environ["SCORING_HOST"], int(os.environ["SCORING_PORT"])), Handler).serve_forever()
"""
COMMON, RARE = {"x": 1}, {"x": 60}
"""Rows of users. The golden rows are like the first."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ml_sandbox(tmp_path_factory.mktemp("rollback")) as cloud, in_environment(cloud.environment):
        lake = f"{cloud.group}/providers/Microsoft.Storage/storageAccounts/lake"
        role = f"{cloud.subscription}/providers/Microsoft.Authorization/roleDefinitions/{Role.STORAGE_BLOB_DATA_READER}"
        cloud.put(
            f"{lake}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}",
            properties={"principalId": deployer(), "roleDefinitionId": role, "principalType": "ServicePrincipal"},
        )
        golden = [{"row": {"x": x}, "probability": x / 100} for x in range(10)]
        folder = cloud.folder / "accounts" / "lake" / "models" / "run-1"
        (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))
        yield cloud


def released(cloud: Cloud, sources: Path | str, olds: dict[str, Any] | None = None) -> dict[str, Any]:
    """Image, environment and rollout as the engine would release them; the rollout's state.

    sources: folder to build the image from, or the digest that `release:image` names.
    """
    existing = sources if isinstance(sources, str) else None
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(sources, Path):
            patch.setattr(image, "_CONTEXT", sources)
        built = image._ImageProvider().create(
            {
                "registry_id": cloud.registry,
                "login_server": f"{cloud.authority}/crtest",
                "engine": "native",
                "digest": None if existing else image.context_digest(),
                "existing": existing,
            }
        )
    made = environment._EnvironmentProvider().create(
        {"workspace_id": cloud.workspace, "environment_name": "scoring-native", "image": (built.outs or {})["image"]}
    )
    news = {
        "workspace_id": cloud.workspace,
        "endpoint_name": ENDPOINT,
        "model_name": "clicks",
        "model_version": "1",
        "environment": made.id,
        "engine": "native",
        "instance_type": "",
        "scale": {"min": 1, "max": 1, "cpu": "100m", "memory": "128Mi", "concurrency": 64, "utilisation": 70},
        "rollout": [10, 100],
        "limits": LIMITS,
        "blob_endpoint": f"{cloud.url}/blob/lake",
        "models_container": "models",
    }
    provider = rollout._RolloutProvider()
    done = provider.create(news) if olds is None else provider.update(ENDPOINT, olds, news)
    return {**(done.outs or {}), "image_digest": built.id}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The build context before and after the change that breaks the image."""
    folders = {}
    for name in ("sound", "broken"):
        folders[name] = tmp_path_factory.mktemp(name)
        for file, text in {**CONTEXT, "service.py": f"BROKEN = {name == 'broken'}\n{SERVICE}"}.items():
            (folders[name] / file).write_text(text)
        (folders[name] / "install.sh").chmod(0o755)
        (folders[name] / "requirements-native.txt").write_text("")
    return folders


@pytest.fixture
def broken(cloud: Cloud, sources: dict[str, Path]) -> dict[str, Any]:
    """State of the rollout whose image fails users; `sound` is the digest of the image before."""
    cloud.endpoint(ENDPOINT)
    for found in cloud.ml.online_deployments.list(ENDPOINT):
        cloud.delete(f"{cloud.workspace}/onlineEndpoints/{ENDPOINT}/deployments/{found.name}")
    first = released(cloud, sources["sound"])
    assert status(cloud, RARE) == 200
    second = released(cloud, sources["broken"], first)
    assert second["image_digest"] != first["image_digest"]
    assert [check["share"] for check in second["checks"]] == [0, 10, 100]
    assert status(cloud, RARE) == 500
    return {**second, "sound": first["image_digest"]}


def status(cloud: Cloud, row: dict[str, int], key: str | None = None) -> int:
    return cloud.score(ENDPOINT, {"rows": [row]}, key=key).status_code


@contextmanager
def users(cloud: Cloud) -> Iterator[Counter[int]]:
    """Requests that both images answer, as long as the block lasts; counted by status."""
    key, seen, over = cloud.key(ENDPOINT), Counter[int](), threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            seen[status(cloud, COMMON, key)] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seen
    finally:
        over.set()
        asking.join()


def builds(cloud: Cloud) -> int:
    return len(list((cloud.folder / "registries").glob("*/runs/*.log")))


@pytest.mark.parametrize("warm", [True, False])
def test_rollback_by_digest_replaces_an_image_that_fails_users(
    cloud: Cloud, broken: dict[str, Any], warm: bool
) -> None:
    """Nothing is built, and users lose nothing, whether the earlier deployment is still warm or long gone."""
    if not warm:
        cloud.delete(f"{cloud.workspace}/onlineEndpoints/{ENDPOINT}/deployments/{broken['previous']}")
    before = builds(cloud)
    with users(cloud) as seen:
        back = released(cloud, broken["sound"], broken)
    assert set(seen) == {200}
    assert status(cloud, RARE) == 200
    assert back["deployment"] == broken["previous"]
    assert [check["share"] for check in back["checks"]] == ([0, 100] if warm else [0, 10, 100])
    assert builds(cloud) == before


def test_digest_missing_in_the_registry_gets_no_traffic(cloud: Cloud, broken: dict[str, Any]) -> None:
    with users(cloud) as seen, pytest.raises(rollout.RolloutFailed, match="has no image"):
        released(cloud, f"sha256:{'0' * 64}", broken)
    assert set(seen) == {200}


def test_build_uses_the_pinned_sdk_without_fallbacks() -> None:
    run = Run({"properties": {"runId": "c1", "status": "Succeeded", "outputImages": [{"digest": "sha256:1"}]}})
    assert (run.run_id, run.status, run.output_images[0].digest) == ("c1", "Succeeded", "sha256:1")
    assert "hasattr" not in inspect.getsource(image)


def test_refused_build_names_the_setting_for_an_existing_image(cloud: Cloud, sources: dict[str, Path]) -> None:
    """The refusal is worded as in Azure-Samples/azure-search-openai-demo#2592."""
    message = "ACR Tasks requests for the registry crtest and x are not permitted."
    error = {"error": {"code": "TasksOperationsNotAllowed", "message": message, "target": "request"}}
    rule = {"path": "/scheduleRun$", "status": 400, "body": error}
    cloud.http.post("/sandbox/faults", json=[rule]).raise_for_status()
    with pytest.raises(image.ImageBuildFailed, match=r"not permitted\. Or build .* set release:image to its digest"):
        released(cloud, sources["sound"])


def test_image_digest_in_the_settings_turns_the_drift_limit_off() -> None:
    enough = {
        "azure-native:location": "westeurope",
        "personalization:environment": "dev",
        "personalization:production": "false",
    }
    release = {"release:enabled": "false", "release:image": f"sha256:{'a' * 64}"}
    found = load({**enough, **release}, "personalization").release
    assert found.image == release["release:image"]
    assert "drift_max" not in found.limits
