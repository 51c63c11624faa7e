"""The cloud that the release's clients talk to is the one its metadata names."""

import pytest

from infra.release.cloud import Cloud

WORKSPACE = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/mlw"


def _cloud(address: str) -> Cloud:
    return Cloud("Sandbox", address, f"{address}/login", address, "suffix")


def test_two_clouds_of_one_name_keep_their_own_addresses_in_one_process() -> None:
    addresses = ["https://127.0.0.1:1", "https://127.0.0.1:2"]
    clouds = [_cloud(address) for address in addresses]
    assert [cloud.machine_learning(WORKSPACE)._base_url for cloud in clouds] == addresses


def test_a_process_logs_in_once_at_a_cloud_and_as_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ARM_TENANT_ID", "ARM_CLIENT_ID", "ARM_CLIENT_SECRET"):
        monkeypatch.setenv(name, name.replace("_", "-"))
    first = _cloud("https://127.0.0.1:1").credential()
    assert _cloud("https://127.0.0.1:1").credential() is first
    assert _cloud("https://127.0.0.1:2").credential() is not first
    monkeypatch.setenv("ARM_CLIENT_SECRET", "another")
    assert _cloud("https://127.0.0.1:1").credential() is not first
