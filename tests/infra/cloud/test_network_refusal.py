"""A release of a private stack from outside its network: each part reports the refusal and its remedy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.cloud.network_refusal import OutsideNetwork, network_refusal
from infra.dynamic.provider import ReleaseProvider
from infra.release.training_stage import experiment, snapshot
from testing.sandbox.network import LAKE, WORKSPACE, Azure, private_azure

SAYS = r"this machine is outside the stack's private network.*{}.*Run `up` with a release on a machine inside"


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    with private_azure(tmp_path_factory.mktemp("outside")) as azure, azure.caller(None):
        yield azure


def parts(azure: Azure, rows: Path) -> dict[str, tuple[ReleaseProvider, dict[str, Any]]]:
    lake = {"blob_endpoint": f"{azure.sandbox.url}/blob/privatelake/", "lake_id": azure.id(LAKE), "container": "raw"}
    return {
        "AuthorizationFailure": (
            snapshot._SnapshotProvider(),
            {**lake, "dataset": "shop", "data": str(rows), "snapshot": "one"},
        ),
        "Unauthorized network access to workspace": (
            experiment._ExperimentProvider(),
            {"workspace_id": azure.id(WORKSPACE), "workspace_url": azure.sandbox.authority, "path": "/Shared/training"},
        ),
    }


@pytest.mark.parametrize("refusal", ["AuthorizationFailure", "Unauthorized network access to workspace"])
def test_release_outside_its_network_fails_at_once_with_the_remedy(azure: Azure, tmp_path: Path, refusal: str) -> None:
    (tmp_path / "rows.csv").write_text("1,2")
    provider, props = parts(azure, tmp_path)[refusal]
    with pytest.raises(OutsideNetwork, match=SAYS.format(refusal)):
        provider.create(props)


def test_refresh_from_outside_the_network_warns_and_changes_nothing(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr("pulumi.log.warn", warned.append)
    for provider, props in parts(azure, tmp_path).values():
        assert provider.read("id", props).id == "id"
    assert len(warned) == 2
    assert all("this machine is outside its network" in message for message in warned)


def test_refusal_among_the_causes_of_an_error_is_found() -> None:
    error = RuntimeError("the deployment did not pass")
    error.__cause__ = PermissionError("Unauthorized network access to workspace: 12")
    assert network_refusal(error) == "Unauthorized network access to workspace: 12"
    assert network_refusal(RuntimeError("Unauthorized")) is None
