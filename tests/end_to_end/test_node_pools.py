"""Pools of a deployed stack change in number, size and zones: no request is lost, and AKS gets one write at a time."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from testing.sandbox import machine_learning as fixtures
from testing.sandbox.machine_learning import DOCKERFILE, INSTALL, Cloud
from testing.sandbox.process import in_environment
from testing.stack.infra_stack import InfraStacks, infra_stacks

pytestmark = pytest.mark.stack

STACK = "prod-westeurope"
CONFIG: dict[str, Any] = {
    "network:mode": "public",
    "serving:system_nodes": 2,
    "serving:nodes_min": 3,
    "serving:nodes_max": 4,
}
SERVICE = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        data = json.dumps({"pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_GET = do_POST = answer
    def log_message(self, *args): pass

ThreadingHTTPServer((os.environ["SCORING_HOST"], int(os.environ["SCORING_PORT"])), Handler).serve_forever()
"""


@dataclass
class Standing:
    stacks: InfraStacks
    cloud: Cloud
    endpoint: str
    key: str

    @property
    def pools(self) -> dict[str, dict[str, Any]]:
        listed = self.cloud.arm("GET", f"{self.cloud.cluster}/agentPools").json()["value"]
        return {pool["name"]: pool["properties"] for pool in listed}

    @property
    def replicas(self) -> set[int]:
        return {self.ask().json()["pid"] for _ in range(30)}

    def ask(self) -> Any:
        return self.cloud.score(self.endpoint, key=self.key)

    def up(self, **changed: Any) -> None:
        self.stacks.configure(STACK, **{**CONFIG, **changed})
        self.stacks.pulumi(STACK, "up", "--yes", "--skip-preview")


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with infra_stacks(tmp_path_factory.mktemp("pools")) as stacks, in_environment(stacks.environment):
        stacks.up(STACK, **CONFIG)
        with pytest.MonkeyPatch.context() as patch:
            cloud = Cloud(stacks.folder / "sandbox", stacks.environment)
            endpoint = adopt(cloud, stacks, patch)
            serve(cloud, endpoint)
            yield Standing(stacks, cloud, endpoint, cloud.key(endpoint))
            cloud.http.close()


def adopt(cloud: Cloud, stacks: InfraStacks, patch: pytest.MonkeyPatch) -> str:
    """Give the fixtures the names of this stack; returns its endpoint's."""
    held = {found["type"].rpartition(":")[2]: found.get("id", "") for found in stacks.resources(STACK)}
    group, workspace = held["ResourceGroup"], held["OnlineEndpoint"].split("/")[8]
    names = {"GROUP": group, "WORKSPACE": workspace, "REGISTRY": held["Registry"], "CLUSTER": held["ManagedCluster"]}
    for name, resource_id in names.items():
        patch.setattr(fixtures, name, resource_id.rpartition("/")[2])
    return str(held["OnlineEndpoint"].rpartition("/")[2])


def serve(cloud: Cloud, endpoint: str) -> None:
    run = cloud.build({"Dockerfile": DOCKERFILE, "install.sh": INSTALL, "service.py": SERVICE})
    assert run.status == "Succeeded", cloud.log(run)
    fixtures.environment(cloud, "1", run.output_images[0].digest)
    body = cloud.deployment_body(replicas=3)
    properties = {key: value for key, value in body["properties"].items() if key not in ("model", "instanceType")}
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}"
    cloud.put(f"{path}/deployments/blue", **{**body, "properties": properties})
    held = cloud.arm("GET", path).json()
    cloud.put(path, **{**held, "properties": {**held["properties"], "traffic": {"blue": 100}}})


@contextmanager
def users(standing: Standing) -> Iterator[Counter[int]]:
    """20 requests a second for as long as the block lasts, counted by status; 0 for one without an answer."""
    seen, over = Counter[int](), threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                seen[standing.ask().status_code] += 1
            except httpx.HTTPError:
                seen[0] += 1

    asking, began = threading.Thread(target=ask), time.monotonic()
    asking.start()
    try:
        yield seen
    finally:
        over.set()
        asking.join()
    assert seen.total() > 5 * (time.monotonic() - began), "users were hardly there"


def test_the_first_up_waited_for_its_roles_and_met_no_busy_cluster(standing: Standing) -> None:
    """Otherwise `up` would have failed: azure-native repeats neither refusal."""
    standing.stacks.pulumi(STACK, "preview", "--expect-no-changes")
    assert sorted(pool["count"] for pool in standing.pools.values()) == [2, 3]


def test_several_writes_of_the_cluster_in_an_up_follow_each_other(standing: Standing) -> None:
    """Changes the cluster, both pools' bounds and an upgrade window in one run; the endpoint keeps its traffic."""
    with users(standing) as seen:
        standing.up(**{"tags:owner": "somebody", "serving:nodes_max": 5, "reliability:maintenance_hour": 5})
    assert set(seen) == {200}
    standing.stacks.pulumi(STACK, "preview", "--expect-no-changes")


@pytest.mark.parametrize(
    "changed",
    [
        {"serving:system_nodes": 3},
        {"serving:node_size": "Standard_D8s_v5"},
        {"serving:system_node_size": "Standard_D2s_v5", "serving:system_nodes": 4},
        {"reliability:zones": ["1", "2"]},
    ],
    ids=lambda changed: "-".join(key.partition(":")[2] for key in changed),
)
def test_users_lose_no_request_while_pools_change(standing: Standing, changed: dict[str, Any]) -> None:
    before = standing.pools
    with users(standing) as seen:
        standing.up(**changed)
        time.sleep(1)
    assert set(seen) == {200}
    after = standing.pools
    wanted = {"serving:system_nodes": 2, "serving:node_size": "Standard_D4s_v5", **changed}
    (system,) = (pool for pool in after.values() if pool["mode"] == "System")
    (scoring,) = (pool for pool in after.values() if pool["mode"] == "User")
    assert scoring["vmSize"] == wanted["serving:node_size"]
    assert system["vmSize"] == wanted.get("serving:system_node_size", wanted["serving:node_size"])
    assert (system["count"], scoring["count"]) == (wanted["serving:system_nodes"], 3)
    if zones := changed.get("reliability:zones"):
        assert system["availabilityZones"] == scoring["availabilityZones"] == zones
        assert not before.keys() & after.keys()


def test_a_pool_that_goes_without_a_drain_loses_requests(standing: Standing) -> None:
    """Rule that the other tests rely on: the sandbox ends replicas with their nodes, as AKS does."""
    (scoring,) = (name for name, pool in standing.pools.items() if pool["mode"] == "User")
    with users(standing) as seen:
        standing.cloud.delete(f"{standing.cloud.cluster}/agentPools/{scoring}")
        time.sleep(1)
    assert set(seen) > {200}
    standing.stacks.pulumi(STACK, "up", "--yes", "--skip-preview", "--refresh")


def test_a_teardown_meets_no_busy_cluster(standing: Standing) -> None:
    standing.stacks.configure(STACK, **CONFIG)
    standing.stacks.pulumi(STACK, "state", "unprotect", "--all", "--yes")
    standing.stacks.pulumi(STACK, "destroy", "--yes", "--skip-preview")
