"""Changes of the node pools' number, size and zones lose no request, and AKS gets one write at a time.

One stack for all tests, which run in the order of the file: each changes the pools of the same deployed stack, and the
last one destroys it. A test does not need the result of another one, except that it must run before the teardown.
"""

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
class PoolStack:
    """A deployed stack with an endpoint that answers, whose node pools the tests change."""

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
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolStack]:
    with infra_stacks(tmp_path_factory.mktemp("pools")) as stacks, in_environment(stacks.environment):
        stacks.up(STACK, **CONFIG)
        with pytest.MonkeyPatch.context() as patch:
            cloud = Cloud(stacks.folder / "sandbox", stacks.environment)
            endpoint = adopt(cloud, stacks, patch)
            serve(cloud, endpoint)
            yield PoolStack(stacks, cloud, endpoint, cloud.key(endpoint))
            cloud.http.close()


def adopt(cloud: Cloud, stacks: InfraStacks, patch: pytest.MonkeyPatch) -> str:
    """Set the names in the shared fixtures to those of this stack; returns the name of its endpoint."""
    ids = {resource["type"].rpartition(":")[2]: resource.get("id", "") for resource in stacks.resources(STACK)}
    group, workspace = ids["ResourceGroup"], ids["OnlineEndpoint"].split("/")[8]
    names = {"GROUP": group, "WORKSPACE": workspace, "REGISTRY": ids["Registry"], "CLUSTER": ids["ManagedCluster"]}
    for name, resource_id in names.items():
        patch.setattr(fixtures, name, resource_id.rpartition("/")[2])
    return str(ids["OnlineEndpoint"].rpartition("/")[2])


def serve(cloud: Cloud, endpoint: str) -> None:
    run = cloud.build({"Dockerfile": DOCKERFILE, "install.sh": INSTALL, "service.py": SERVICE})
    assert run.status == "Succeeded", cloud.log(run)
    fixtures.environment(cloud, "1", run.output_images[0].digest)
    body = cloud.deployment_body(replicas=3)
    properties = {key: value for key, value in body["properties"].items() if key not in ("model", "instanceType")}
    path = f"{cloud.workspace}/onlineEndpoints/{endpoint}"
    cloud.put(f"{path}/deployments/blue", **{**body, "properties": properties})
    resource = cloud.arm("GET", path).json()
    cloud.put(path, **{**resource, "properties": {**resource["properties"], "traffic": {"blue": 100}}})


@contextmanager
def users(stack: PoolStack) -> Iterator[Counter[int]]:
    """Send 20 requests per second during the block; counts them by status, 0 for a request without an answer."""
    seen, over = Counter[int](), threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                seen[stack.ask().status_code] += 1
            except httpx.HTTPError:
                seen[0] += 1

    asking, began = threading.Thread(target=ask), time.monotonic()
    asking.start()
    try:
        yield seen
    finally:
        over.set()
        asking.join()
    assert seen.total() > 5 * (time.monotonic() - began), "too few requests were sent"


def test_first_up_waits_for_roles_and_for_the_cluster(stack: PoolStack) -> None:
    """Otherwise `up` would have failed: azure-native does not retry after either refusal."""
    stack.stacks.pulumi(STACK, "preview", "--expect-no-changes")
    assert sorted(pool["count"] for pool in stack.pools.values()) == [2, 3]


def test_writes_to_the_cluster_in_one_up_are_serialised(stack: PoolStack) -> None:
    """Changes the cluster, the bounds of both pools and an upgrade window in one run; the endpoint keeps answering."""
    with users(stack) as seen:
        stack.up(**{"tags:owner": "somebody", "serving:nodes_max": 5, "reliability:maintenance_hour": 5})
    assert set(seen) == {200}
    stack.stacks.pulumi(STACK, "preview", "--expect-no-changes")


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
def test_no_request_is_lost_while_pools_change(stack: PoolStack, changed: dict[str, Any]) -> None:
    before = stack.pools
    with users(stack) as seen:
        stack.up(**changed)
        time.sleep(1)
    assert set(seen) == {200}
    after = stack.pools
    wanted = {"serving:system_nodes": 2, "serving:node_size": "Standard_D4s_v5", **changed}
    (system,) = (pool for pool in after.values() if pool["mode"] == "System")
    (scoring,) = (pool for pool in after.values() if pool["mode"] == "User")
    assert scoring["vmSize"] == wanted["serving:node_size"]
    assert system["vmSize"] == wanted.get("serving:system_node_size", wanted["serving:node_size"])
    assert (system["count"], scoring["count"]) == (wanted["serving:system_nodes"], 3)
    if zones := changed.get("reliability:zones"):
        assert system["availabilityZones"] == scoring["availabilityZones"] == zones
        assert not before.keys() & after.keys()


def test_deleting_a_pool_without_a_drain_loses_requests(stack: PoolStack) -> None:
    """The other tests rely on this: the sandbox ends replicas together with their nodes, as AKS does."""
    (scoring,) = (name for name, pool in stack.pools.items() if pool["mode"] == "User")
    with users(stack) as seen:
        stack.cloud.delete(f"{stack.cloud.cluster}/agentPools/{scoring}")
        time.sleep(1)
    assert set(seen) > {200}
    stack.stacks.pulumi(STACK, "up", "--yes", "--skip-preview", "--refresh")


def test_teardown_waits_for_the_cluster(stack: PoolStack) -> None:
    stack.stacks.configure(STACK, **CONFIG)
    stack.stacks.pulumi(STACK, "state", "unprotect", "--all", "--yes")
    stack.stacks.pulumi(STACK, "destroy", "--yes", "--skip-preview")
