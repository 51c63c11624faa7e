"""Clients of the release: cloud from the metadata service, and login."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.cloud.clients import AzureClients

WORKSPACE = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/mlw"


def _cloud(address: str) -> AzureClients:
    return AzureClients("Sandbox", address, f"{address}/login", address, "suffix", f"{address}/management")


def test_two_clouds_of_one_name_keep_their_own_addresses_in_one_process() -> None:
    addresses = ["https://127.0.0.1:1", "https://127.0.0.1:2"]
    clouds = [_cloud(address) for address in addresses]
    assert [cloud.machine_learning(WORKSPACE)._base_url for cloud in clouds] == addresses


def test_process_logs_in_once_per_cloud_and_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ARM_TENANT_ID", "ARM_CLIENT_ID", "ARM_CLIENT_SECRET"):
        monkeypatch.setenv(name, name.replace("_", "-"))
    first = _cloud("https://127.0.0.1:1").credential()
    assert _cloud("https://127.0.0.1:1").credential() is first
    assert _cloud("https://127.0.0.1:2").credential() is not first
    monkeypatch.setenv("ARM_CLIENT_SECRET", "another")
    assert _cloud("https://127.0.0.1:1").credential() is not first


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A shell without a variable that decides the login."""
    for name in os.environ:
        if name.startswith(("ARM_", "AZURE_", "DATABRICKS_")):
            monkeypatch.delenv(name)
    return monkeypatch


def _azure_cli(folder: Path, patch: pytest.MonkeyPatch, seconds: float) -> Path:
    """An `az` on the path whose tokens are valid for this number of seconds; returns the file of its calls."""
    calls, az = folder / "calls", folder / "az"
    expires = int(time.time() + seconds)
    answer = json.dumps({"accessToken": "from-az", "expires_on": expires, "expiresOn": "", "tokenType": "Bearer"})
    az.write_text(f"#!/bin/sh\necho \"$*\" >> {calls}\necho '{answer}'\n")
    az.chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    calls.touch()
    return calls


def test_azure_cli_is_started_once_per_service_however_many_threads_ask(
    tmp_path: Path, arm: pytest.MonkeyPatch
) -> None:
    calls = _azure_cli(tmp_path, arm, seconds=3600)
    arm.setenv("ARM_SUBSCRIPTION_ID", "11111111-1111-1111-1111-111111111111")
    credential = _cloud("https://127.0.0.1:31").credential()
    scopes = ["https://one.example/.default", "https://two.example/.default"] * 8
    with ThreadPoolExecutor(8) as threads:
        tokens = {token.token for token in threads.map(credential.get_token, scopes)}
    started = calls.read_text().splitlines()
    assert (tokens, len(started)) == ({"from-az"}, 2)
    assert all("--subscription 11111111" in line and "--tenant" not in line for line in started)


def test_token_that_expires_in_five_minutes_is_fetched_again(tmp_path: Path, arm: pytest.MonkeyPatch) -> None:
    calls = _azure_cli(tmp_path, arm, seconds=290)
    credential = _cloud("https://127.0.0.1:32").credential()
    for _ in range(2):
        credential.get_token("https://one.example/.default")
    assert len(calls.read_text().splitlines()) == 2


def test_variables_of_other_azure_programs_do_not_choose_the_login(tmp_path: Path, arm: pytest.MonkeyPatch) -> None:
    calls = _azure_cli(tmp_path, arm, seconds=3600)
    for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET"):
        arm.setenv(f"AZURE_{name}", "another-programs")
    assert _cloud("https://127.0.0.1:33").credential().get_token("https://one.example/.default").token == "from-az"
    assert calls.read_text()


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({}, "AzureCliCredential"),
        ({"ARM_USE_MSI": "true"}, "ManagedIdentityCredential"),
        ({"ARM_TENANT_ID": "t", "ARM_CLIENT_ID": "c", "ARM_USE_OIDC": "true"}, "ClientAssertionCredential"),
        ({"ARM_TENANT_ID": "t", "ARM_CLIENT_ID": "c", "ARM_CLIENT_SECRET": "s"}, "ClientSecretCredential"),
        ({"ARM_USE_DEFAULT_AZURE_CREDENTIAL": "true"}, "DefaultAzureCredential"),
    ],
)
def test_login_is_the_one_of_azure_native(variables: dict[str, str], kind: str, arm: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        arm.setenv(name, value)
    assert type(_cloud("https://127.0.0.1:34").credential().credential).__name__ == kind
