"""Injected faults, at every service of the sandbox, and of the connection itself."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sandbox.identity import entra
from testing.sandbox.data import Served, served_lake

SERVICES = {
    "Entra": ("/organisation/oauth2/v2.0/token", ""),
    "metadata": ("/metadata/endpoints", ""),
    "ARM": ("/subscriptions", "{url}"),
    "blob": ("/blob/lake/raw/x", entra.STORAGE),
    "Databricks": ("/api/2.2/jobs/list", entra.DATABRICKS),
    "the Azure ML router": ("/api/v1/endpoint/scoring/score", "{url}"),
    "the registry": ("/acr/crtest/sources/x.tar.gz", ""),
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_lake(tmp_path_factory.mktemp("sandbox"), "raw") as running:
        running.put("Microsoft.Databricks/workspaces/ws", properties={})
        yield running


@pytest.fixture
def http(cloud: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cloud.sandbox.url, verify=cloud.tls, trust_env=False, timeout=10) as client:
        yield client


def ask(cloud: Served, http: httpx.Client, method: str, path: str, audience: str, **more: Any) -> httpx.Response:
    headers = {"x-ms-blob-type": "BlockBlob"}
    if audience:
        headers["Authorization"] = f"Bearer {cloud.token(audience.format(url=cloud.sandbox.url))}"
    return http.request(method, f"{path}?api-version=2024-01-01", headers=headers, **more)


@pytest.mark.parametrize("service", SERVICES)
def test_any_service_can_be_made_to_fail_once_in_each_way(cloud: Served, http: httpx.Client, service: str) -> None:
    path, audience = SERVICES[service]
    usual = ask(cloud, http, "GET", path, audience).status_code
    cloud.faults({"path": f"^{path}$", "status": 429, "headers": {"Retry-After": "7"}}, {"path": path, "reset": True})
    throttled = ask(cloud, http, "GET", path, audience)
    assert (throttled.status_code, throttled.headers["Retry-After"]) == (429, "7")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        ask(cloud, http, "GET", path, audience)
    assert ask(cloud, http, "GET", path, audience).status_code == usual


def test_unknown_settings_and_fault_fields_are_refused(http: httpx.Client) -> None:
    for method, path, content in (("PUT", "settings", {"role_delay": 1}), ("POST", "faults", [{"pth": "x"}])):
        assert http.request(method, f"/sandbox/{path}", json=content).status_code == 400
    known = {"role_propagation", "token_lifetime", "container_deletion", "instance_types"}
    assert set(http.get("/sandbox/settings").json()) == known


def test_request_whose_connection_is_reset_was_not_carried_out(cloud: Served, http: httpx.Client) -> None:
    cloud.faults({"path": "^/blob/lake/raw/never$", "method": "PUT", "reset": True})
    with pytest.raises(httpx.TransportError):
        ask(cloud, http, "PUT", "/blob/lake/raw/never", entra.STORAGE, content=b"1" * 1_000_000)
    assert ask(cloud, http, "GET", "/blob/lake/raw/never", entra.STORAGE).status_code == 404


def test_request_whose_answer_is_lost_was_carried_out(cloud: Served, http: httpx.Client) -> None:
    cloud.faults({"path": "^/blob/lake/raw/done$", "method": "PUT", "lost": True})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        ask(cloud, http, "PUT", "/blob/lake/raw/done", entra.STORAGE, content=b"1")
    assert ask(cloud, http, "GET", "/blob/lake/raw/done", entra.STORAGE).content == b"1"


def test_reset_leaves_other_connections_and_the_server_alone(
    cloud: Served, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    ask(cloud, http, "GET", "/metadata/endpoints", "")
    cloud.faults({"path": "^/metadata/endpoints$", "reset": True})
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{cloud.sandbox.url}/metadata/endpoints?api-version=2022-09-01", verify=cloud.tls, trust_env=False)
    assert ask(cloud, http, "GET", "/metadata/endpoints", "").status_code == 200
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []
