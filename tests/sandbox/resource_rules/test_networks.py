"""Private endpoints and public access, for callers outside and inside a virtual network.

Clients are the unmodified SDKs; the two callers differ in `HTTPS_PROXY`.
"""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from infra.cloud.clients import AzureClients
from sandbox.caller_network import environment
from testing.sandbox.network import LAKE, NETWORK, PROVIDERS, VAULT, VNET, WORKSPACE, Azure, private_azure
from testing.sandbox.process import ROOT
from testing.waiting import eventually


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    with private_azure(tmp_path_factory.mktemp("networks")) as azure:
        yield azure


@pytest.fixture
def azure(started: Azure) -> Iterator[Azure]:
    yield started
    started.remove_endpoints()


def upload(azure: Azure, network: str | None) -> str:
    """Code of storage's refusal of an upload by azure-storage-blob; empty if it succeeds."""
    from azure.core.exceptions import HttpResponseError

    with azure.caller(network):
        blobs = AzureClients.discover().blobs(f"{azure.sandbox.url}/blob/privatelake/")
        try:
            blobs.get_container_client("raw").upload_blob("rows.csv", b"1,2", overwrite=True)
        except HttpResponseError as error:
            return str(getattr(error.error_code, "value", error.error_code))
    return ""


def list_jobs(azure: Azure, network: str | None) -> str:
    """Text of Databricks' refusal of a call by databricks-sdk; empty if it succeeds."""
    from databricks.sdk.errors import PermissionDenied

    with azure.caller(network):
        client = AzureClients.discover().databricks(azure.sandbox.authority, azure.id(WORKSPACE))
        try:
            list(client.jobs.list())
        except PermissionDenied as error:
            return str(error)
    return ""


def test_account_without_public_access_answers_only_inside_its_network(azure: Azure) -> None:
    assert azure.endpoint("lake-blob", LAKE, "blob") == {}
    azure.zone("lake-blob", "blob")
    assert upload(azure, None) == "AuthorizationFailure"
    assert upload(azure, NETWORK) == ""


def test_private_endpoint_without_dns_zone_is_unreachable(azure: Azure) -> None:
    assert azure.endpoint("lake-blob", LAKE, "blob") == {}
    assert upload(azure, NETWORK) == "AuthorizationFailure"
    azure.zone("lake-blob", "blob", linked=False)
    assert upload(azure, NETWORK) == "AuthorizationFailure"
    azure.zone("lake-blob", "blob")
    assert upload(azure, NETWORK) == ""


def test_endpoint_to_another_group_of_an_account_does_not_reach_its_blobs(azure: Azure) -> None:
    assert azure.endpoint("lake-dfs", LAKE, "dfs") == {}
    azure.zone("lake-dfs", "dfs")
    assert upload(azure, NETWORK) == "AuthorizationFailure"


def test_another_network_does_not_reach_the_endpoint(azure: Azure) -> None:
    azure.network("other")
    assert azure.endpoint("lake-blob", LAKE, "blob") == {}
    azure.zone("lake-blob", "blob")
    assert upload(azure, "other") == "AuthorizationFailure"


def test_workspace_without_public_access_refuses_callers_outside_with_its_number(azure: Azure) -> None:
    number = azure.sandbox.arm("GET", WORKSPACE).json()["properties"]["workspaceId"]
    assert azure.endpoint("databricks", WORKSPACE, "databricks_ui_api") == {}
    azure.zone("databricks", "databricks_ui_api")
    assert f"Unauthorized network access to workspace: {number}" in list_jobs(azure, None)
    assert list_jobs(azure, NETWORK) == ""


def test_vault_without_public_access_refuses_callers_outside(azure: Azure) -> None:
    answer = azure.sandbox.http.get("/vault/kv-private/secrets/a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "Forbidden")
    assert "ForbiddenByConnection" in answer.text


def test_resource_manager_answers_from_everywhere(azure: Azure) -> None:
    for network in (None, NETWORK):
        with azure.caller(network):
            assert AzureClients.discover().resource(azure.id(LAKE), "2024-01-01") is not None


def test_caller_cannot_enter_a_missing_network(azure: Azure) -> None:
    import requests

    with azure.caller("nowhere"), pytest.raises(requests.ConnectionError, match="407"):
        AzureClients.discover()


def test_sandbox_prints_the_environment_of_a_caller_inside(azure: Azure) -> None:
    command = [sys.executable, "-m", "sandbox", "env", "--folder", str(azure.sandbox.folder), "--network", NETWORK]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert f"export HTTPS_PROXY=http://{NETWORK}:" in printed


@pytest.mark.parametrize(
    ("target", "groups", "code"),
    [
        (LAKE, ("blob", "dfs"), "StorageAccountOperationInProgress"),
        (WORKSPACE, ("databricks_ui_api", "browser_authentication"), "ConcurrentUpdateError"),
        (VAULT, ("vault", "vault"), "ConflictError"),
    ],
)
def test_second_simultaneous_endpoint_to_one_target_fails_after_acceptance(
    azure: Azure, target: str, groups: tuple[str, str], code: str
) -> None:
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(lambda each: azure.endpoint(f"pe-{each[0]}", target, each[1]), enumerate(groups)))
    assert sorted(error.get("code", "") for error in errors) == ["", code]


def test_endpoints_to_different_targets_are_made_at_once(azure: Azure) -> None:
    made = [("pe-lake", LAKE, "blob"), ("pe-dbw", WORKSPACE, "databricks_ui_api"), ("pe-kv", VAULT, "vault")]
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda each: azure.endpoint(*each), made)) == [{}, {}, {}]


def test_endpoint_needs_a_network_that_no_workspace_is_being_injected_into(azure: Azure) -> None:
    azure.sandbox.faults({"path": "workspaces/injected", "method": "PUT", "operation_delay": 2.0})
    parameters = {"customVirtualNetworkId": {"value": azure.id(VNET)}}
    path = f"{PROVIDERS}/Microsoft.Databricks/workspaces/injected"
    with ThreadPoolExecutor() as pool:
        workspace = pool.submit(azure.attempt, path, {"computeMode": "Hybrid", "parameters": parameters})
        while azure.sandbox.arm("GET", path).status_code == 404:
            pass
        error = azure.endpoint("vault", VAULT, "vault")
        assert (error["code"], "ReferencedResourceNotProvisioned" in error["message"]) == ("RetryableError", True)
        assert workspace.result() == {}
    assert azure.endpoint("vault", VAULT, "vault") == {}
    azure.remove(path)


def test_network_is_not_deleted_while_an_endpoint_or_a_caller_is_in_it(azure: Azure) -> None:
    azure.network("temporary")
    network = f"{PROVIDERS}/Microsoft.Network/virtualNetworks/temporary"
    assert azure.endpoint("pe-temporary", VAULT, "vault", "temporary") == {}
    refused = azure.sandbox.arm("DELETE", network)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "InUseSubnetCannotBeDeleted")
    assert "pe-temporary" in refused.text
    azure.remove_endpoints()
    with (
        azure.caller("temporary"),
        httpx.Client(verify=ssl.create_default_context(cafile=azure.sandbox.ca_bundle)) as http,
    ):
        url, token = f"{azure.sandbox.url}{azure.id(network)}", azure.sandbox.token()
        inside = http.delete(url, params={"api-version": "2024-05-01"}, headers={"Authorization": f"Bearer {token}"})
        assert (inside.status_code, inside.json()["error"]["code"]) == (400, "InUseSubnetCannotBeDeleted")
    removed = eventually(lambda: azure.sandbox.arm("DELETE", network), lambda answer: answer.is_success)
    azure.sandbox.settle(removed)
    assert azure.sandbox.arm("GET", network).status_code == 404


def test_endpoint_needs_an_existing_target_and_one_of_its_groups(azure: Azure) -> None:
    assert azure.endpoint("pe", f"{LAKE}x", "blob")["code"] == "InvalidResourceReference"
    assert azure.endpoint("pe", LAKE, "blobs")["code"] == "PrivateLinkServiceGroupNotFound"
    assert azure.endpoint("pe", LAKE, [])["code"] == "MissingParameterOnPrivateLinkServiceConnection"
    assert azure.endpoint("pe", LAKE, ["blob", "dfs"])["code"] == "OnlyOneGroupIdPermitted"


def test_nodes_without_public_addresses_need_an_endpoint_to_the_workspace(azure: Azure) -> None:
    workspace = f"{PROVIDERS}/Microsoft.MachineLearningServices/workspaces/mlw-private"
    azure.put(workspace, {"keyVault": f"{azure.sandbox.subscription}/{VAULT}"}, identity={"type": "SystemAssigned"})
    nodes = {"vmSize": "Standard_D2s_v5", "enableNodePublicIp": False}
    compute = (f"{workspace}/computes/builds", {"computeType": "AmlCompute", "properties": nodes})
    error = azure.attempt(*compute)
    assert error == {
        "code": "UserError",
        "message": "Provided EnableNodePublicIp 'False' requires workspace private endpoint.",
    }
    assert azure.endpoint("ml-workspace", workspace, "amlworkspace") == {}
    assert azure.attempt(*compute) == {}


def test_proxy_keeps_its_port_after_a_restart(azure: Azure) -> None:
    before = environment(azure.sandbox.folder, NETWORK)
    azure.sandbox.stop()
    azure.sandbox.start()
    assert environment(azure.sandbox.folder, NETWORK) == before
    assert list_jobs(azure, NETWORK)
    assert os.environ.get("HTTPS_PROXY") != before["HTTPS_PROXY"]


def test_damaged_file_of_the_proxy_is_written_again(azure: Azure) -> None:
    azure.sandbox.stop()
    Path(azure.sandbox.folder, "network-proxy.json").write_text("{")
    azure.sandbox.start()
    assert "HTTPS_PROXY" in environment(azure.sandbox.folder, NETWORK)
