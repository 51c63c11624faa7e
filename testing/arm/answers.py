"""Answers of the sandbox's ARM: to the provider, to a reader of everything it created, and to a release's clients.

`traffic` deploys the production and the development stack once in a test run, for any number of workers, and keeps the
requests to ARM with their answers. Does not check them: the models of Azure's clients do.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest
import requests

from testing.arm import recorder
from testing.sandbox.machine_learning import CONTEXT, GROUP, REGISTRY, Cloud, ml_sandbox
from testing.sandbox.process import RunningSandbox
from tools.commands import one_at_a_time

PRODUCTION, DEVELOPMENT = "prod-westeurope", "dev"
_STORAGE = "Microsoft.Storage/storageAccounts"


@dataclass(frozen=True)
class Exchange:
    origin: str
    """A stack, or the client that sent the request."""
    method: str
    path: str
    """Path of the request, without escapes."""
    api_version: str
    sent: Any
    status: int
    answer: Any
    """Parsed JSON; None if the answer is not JSON."""

    def __str__(self) -> str:
        return f"{self.method} {self.path} ({self.origin}) -> {self.status}"


def exchange(origin: str, method: str, url: str, sent: Any, status: int, answer: Any) -> Exchange:
    parts = urlsplit(url)
    version = parse_qs(parts.query).get("api-version", [""])[0]
    return Exchange(origin, method, unquote(parts.path), version, _json(sent), status, _json(answer))


def traffic(factory: pytest.TempPathFactory) -> list[Exchange]:
    run = factory.getbasetemp()
    run = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    file = run / "arm_traffic.json"
    with one_at_a_time(run):
        if not file.exists():
            file.write_text(json.dumps([asdict(each) for each in _of_stacks()]))
    return [Exchange(**each) for each in json.loads(file.read_text())]


def release_traffic(folder: Path) -> list[Exchange]:
    """Exchanges of a release and its readers: builds, versions, endpoint, deployments, logs, keys."""
    with recorded("release") as record, ml_sandbox(folder) as cloud:
        _release(cloud)
    return record


@contextlib.contextmanager
def recorded(origin: str) -> Iterator[list[Exchange]]:
    """Requests to ARM from this process's HTTP clients, with their answers."""
    record: list[Exchange] = []
    of_httpx, of_requests = httpx.Client.send, requests.Session.send

    def keep(method: str, url: str, sent: Any, status: int, answer: Any) -> None:
        if urlsplit(url).path.lower().startswith(("/subscriptions", "/providers")):
            record.append(exchange(origin, method, url, sent, status, answer))

    def through_httpx(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        answer = of_httpx(client, request, **options)
        keep(request.method, str(request.url), request.content, answer.status_code, answer.content)
        return answer

    def through_requests(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> Any:
        answer = of_requests(session, request, **options)
        keep(str(request.method), str(request.url), request.body, answer.status_code, answer.content)
        return answer

    with (
        mock.patch.object(httpx.Client, "send", through_httpx),
        mock.patch.object(requests.Session, "send", through_requests),
    ):
        yield record


def _of_stacks() -> Iterator[Exchange]:
    from testing.stack.infra_stack import infra_stacks

    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ), infra_stacks(Path(place)) as stacks:
        plugin = Path(place) / "bin" / "pulumi-resource-azure-native"
        plugin.parent.mkdir()
        plugin.write_text(f'#!/bin/sh\nexec python3 {recorder.__file__} "$@"\n')
        plugin.chmod(0o755)
        stacks.environment["PATH"] = f"{plugin.parent}:{stacks.environment['PATH']}"
        exchanges: list[Exchange] = []
        for stack in (PRODUCTION, DEVELOPMENT):
            record = Path(place) / f"{stack}.jsonl"
            stacks.environment[recorder.RECORD] = str(record)
            create = stacks.up_with_runner if stack == PRODUCTION else stacks.up
            create(stack)
            exchanges += [exchange(stack, *json.loads(line)) for line in record.read_text().splitlines()]
        with recorded("reader") as read:
            _read_everything(
                RunningSandbox(Path(place) / "sandbox", stacks.environment),
                {each.path for each in exchanges if each.method == "PUT"},
            )
    yield from exchanges + read


def _read_everything(cloud: RunningSandbox, created: set[str]) -> None:
    """Each resource, each list that contains it, and each action on it that the program or Azure CLI requests."""
    subscription, lists = cloud.subscription, set()
    for path in sorted(created):
        cloud.arm("GET", path)
        lists.add(path.rpartition("/")[0])
        tail = path.rpartition("/providers/")[2].split("/")
        if len(tail) == 3:
            lists.add(f"{subscription}/providers/{tail[0]}/{tail[1]}")
        if tail[:2] == _STORAGE.split("/") and len(tail) == 3:
            cloud.arm("POST", f"{path}/listKeys")
            lists.add(f"{path}/blobServices")
        if tail[:2] == ["Microsoft.ContainerService", "managedClusters"] and len(tail) == 3:
            cloud.arm("POST", f"{path}/listClusterUserCredential")
            cloud.arm("POST", f"{path}/listClusterAdminCredential")
            lists.add(f"{path}/agentPools")
        if tail[:2] == ["Microsoft.ContainerRegistry", "registries"] and len(tail) == 3:
            cloud.arm("POST", f"{path}/listBuildSourceUploadUrl")
        if tail[:2] == ["Microsoft.Network", "virtualNetworks"] and len(tail) == 3:
            lists.add(f"{path}/subnets")
        if tail[0] == "Microsoft.MachineLearningServices" and tail[-2] == "onlineEndpoints":
            for action in ("listKeys", "regenerateKeys"):
                cloud.arm("POST", f"{path}/{action}", {"keyType": "Primary"})
            lists.add(f"{path}/deployments")
    for path in sorted(lists):
        cloud.arm("GET", path)
    _read_subscription(cloud)
    _be_refused(cloud, next(path for path in created if path.rpartition("/")[0].endswith(_STORAGE)))


def _read_subscription(cloud: RunningSandbox) -> None:
    for path in (
        *("", "/resourcegroups", "/resources", "/locations", "/providers", "/providers/Microsoft.Storage"),
        *("/providers/Microsoft.Compute/skus", "/providers/Microsoft.Compute/locations/westeurope/usages"),
        *("/providers/Microsoft.Authorization/permissions", "/providers/Microsoft.Authorization/roleDefinitions"),
        *("/providers/Microsoft.Authorization/roleAssignments", "/providers/Microsoft.KeyVault/deletedVaults"),
        "/providers/Microsoft.Authorization/roleDefinitions/ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    ):
        cloud.arm("GET", f"{cloud.subscription}{path}")
    cloud.arm("GET", "/subscriptions")
    cloud.arm("POST", f"{cloud.subscription}/providers/Microsoft.Storage/register")
    for namespace, kind, name in (
        ("Microsoft.Storage", "storageAccounts", "free"),
        ("Microsoft.Storage", "storageAccounts", "Not A Name"),
        ("Microsoft.ContainerRegistry", "registries", "freename"),
        ("Microsoft.KeyVault", "vaults", "free-name"),
    ):
        asked = {"name": name, "type": f"{namespace}/{kind}"}
        cloud.arm("POST", f"{cloud.subscription}/providers/{namespace}/checkNameAvailability", asked)
    group = cloud.arm("GET", "resourcegroups").json()["value"][0]["id"]
    cloud.arm("GET", f"{group}/resources?$expand=createdTime,changedTime,provisioningState")
    tags = f"{group}/providers/Microsoft.Resources/tags/default"
    cloud.arm("PATCH", tags, {"operation": "Merge", "properties": {"tags": {"a": "b"}}})
    cloud.arm("GET", tags)
    vault = f"{group}/providers/Microsoft.KeyVault/vaults/kv-gone"
    sku = {"family": "A", "name": "standard"}
    properties = {"tenantId": cloud.environment["ARM_TENANT_ID"], "sku": sku, "enableRbacAuthorization": True}
    cloud.arm("PUT", vault, {"location": "westeurope", "properties": properties})
    cloud.arm("DELETE", vault)
    cloud.arm("GET", f"{cloud.subscription}/providers/Microsoft.KeyVault/deletedVaults")
    cloud.arm(
        "POST", f"{cloud.subscription}/providers/Microsoft.KeyVault/locations/westeurope/deletedVaults/kv-gone/purge"
    )


def _be_refused(cloud: RunningSandbox, account: str) -> None:
    """Errors of ARM itself, of a service, of a failed operation, and of request types that the sandbox leaves out."""
    group = account.partition("/providers/")[0]
    refused = (
        ("GET", f"{group}-none", None),
        ("GET", f"{account}none", None),
        ("GET", f"{cloud.subscription}/providers/Microsoft.Resources/operations/none", None),
        ("PUT", f"{group}/providers/{_STORAGE}/new", {"kind": "StorageV2"}),
        ("PUT", f"{group}/providers/{_STORAGE}/Not A Name", {"location": "westeurope"}),
        ("PUT", account, {"location": "japaneast", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}),
        ("POST", f"{account}/failover", {}),
        ("GET", f"{group}/providers/Microsoft.Authorization/locks", None),
        ("PUT", f"{group}/providers/Microsoft.Authorization/roleAssignments/1", {"properties": {}}),
    )
    accepted = [each[:2] for each in refused if cloud.arm(*each).status_code < 400]
    assert not accepted, accepted
    cloud.http.get(f"{cloud.subscription}/resourcegroups?api-version=2021-04-01")  # without a token
    failure = {"code": "ErrCode_InsufficientVCPUQuota", "message": "Insufficient regional vcpu quota left: 4 of 8."}
    cloud.faults({"method": "PUT", "path": f"{_STORAGE}/failing$", "operation_failure": failure})
    made = {"location": "westeurope", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
    begun = cloud.arm("PUT", f"{group}/providers/{_STORAGE}/failing", made)
    assert cloud.settle(begun)["status"] == "Failed"
    cloud.arm("GET", urlsplit(begun.headers["Location"]).path)


def _release(cloud: Cloud) -> None:
    endpoint = f"{cloud.workspace}/onlineEndpoints/shop"
    cloud.endpoint("shop")
    cloud.deploy("shop", "m1-0")
    cloud.endpoint("shop", {"m1-0": 100})
    for container in ("InferenceServer", "StorageInitializer"):
        cloud.arm("POST", f"{endpoint}/deployments/m1-0/getLogs", {"containerType": container, "tail": 5})
    cloud.key("shop")
    cloud.endpoint("token", authMode="AMLToken")
    cloud.arm("POST", f"{cloud.workspace}/onlineEndpoints/token/token")
    for path in (
        *(endpoint, f"{endpoint}/deployments", f"{endpoint}/deployments/m1-0", f"{cloud.workspace}/onlineEndpoints"),
        *(f"{cloud.workspace}/models", f"{cloud.workspace}/models/clicks", f"{cloud.workspace}/models/clicks/versions"),
        *(f"{cloud.workspace}/models/clicks/versions/1", f"{cloud.workspace}/environments/scoring/versions/1"),
        *(f"{cloud.workspace}/environments", f"{cloud.workspace}/environments/scoring"),
        *(f"{cloud.workspace}/environments/scoring/versions", f"{cloud.workspace}/datastores/lake"),
        *(f"{cloud.workspace}/computes", f"{cloud.registry}/runs"),
    ):
        cloud.arm("GET", path)
    failed = cloud.build({**CONTEXT, "install.sh": "exit 3\n"})
    cloud.arm("GET", f"{cloud.registry}/runs/{failed.run_id}")
    assert cloud.tasks.runs.get(GROUP, REGISTRY, failed.run_id).status == "Failed"
    assert cloud.refused(f"{endpoint}/deployments/m1-1", **cloud.deployment_body(model="404"))
    assert cloud.delete(f"{endpoint}/deployments/m1-0")
    assert not cloud.delete(endpoint)


def _json(text: Any) -> Any:
    if not isinstance(text, str | bytes):
        return text
    try:
        return json.loads(text or "null")
    except ValueError:
        return None
