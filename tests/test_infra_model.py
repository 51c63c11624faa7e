"""What the gate leaves behind: its verdict in the lake, whether or not the model is registered."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient
from sandbox_data_fixtures import Served, served_lake
from test_infra_gate import FLOORS, GOOD

from infra.release import artefact, model
from sandbox import authority


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_lake(tmp_path_factory.mktemp("sandbox"), "models") as running:
        yield running


@pytest.fixture
def props(cloud: Served, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a model version, in a cloud that has a lake alone: whoever asks for the registry fails."""
    bundle = str(authority.ca_bundle(cloud.sandbox.folder))

    def blobs(endpoint: str) -> BlobServiceClient:
        return BlobServiceClient(endpoint, credential=cloud.credential, connection_verify=bundle)

    monkeypatch.setattr(artefact.Cloud, "discover", lambda: SimpleNamespace(blobs=blobs))
    endpoint = f"{cloud.sandbox.url}/blob/lake"
    return {"run_id": "7", "floors": FLOORS, "blob_endpoint": endpoint, "models_container": "models", "metrics": GOOD}


def kept(cloud: Served) -> dict[str, Any]:
    return json.loads((cloud.sandbox.container_folder("lake", "models") / "7" / "verdict.json").read_text())


def test_a_refused_model_leaves_its_verdict_and_touches_nothing_else(cloud: Served, props: dict[str, Any]) -> None:
    with pytest.raises(
        model.ModelRefused, match=r"is refused, what serves now keeps serving:\n  - AUC 0.5500 is below"
    ):
        model._ModelVersionProvider().create({**props, "metrics": {**GOOD, "auc": 0.55}})
    found = kept(cloud)
    assert found["passed"] is False
    assert [rule["name"] for rule in found["rules"] if not rule["passed"]] == ["auc"]
    assert all(rule.keys() == {"name", "value", "limit", "passed", "says"} for rule in found["rules"])


def test_a_changed_floor_writes_the_verdict_anew(cloud: Served, props: dict[str, Any]) -> None:
    provider = model._ModelVersionProvider()
    assert provider.update("clicks:3", {"version": "3"}, props).outs["version"] == "3"
    assert kept(cloud)["passed"] is True
    with pytest.raises(model.ModelRefused, match=r"AUC 0\.7100 is below the floor 0\.7500"):
        provider.update("clicks:3", {"version": "3"}, {**props, "floors": FLOORS | {"auc_min": 0.75}})
    assert kept(cloud)["passed"] is False
