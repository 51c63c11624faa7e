"""The gate's verdict in the lake, for a registered and for a refused model."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient

from infra.cloud import artefact
from infra.monitoring import queries
from infra.release.training_stage import model
from sandbox.identity import authority
from testing.gate_metrics import GOOD_METRICS, THRESHOLDS
from testing.sandbox.data import Served, served_lake


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_lake(tmp_path_factory.mktemp("sandbox"), "models") as running:
        yield running


@pytest.fixture
def sent() -> list[Any]:
    """Requests to the lake, as the SDK sends them."""
    return []


@pytest.fixture
def props(cloud: Served, sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Inputs of a model version, with a cloud that has only a lake: a call of the registry fails."""
    bundle = str(authority.ca_bundle(cloud.sandbox.folder))

    def blobs(endpoint: str) -> BlobServiceClient:
        return BlobServiceClient(
            endpoint, credential=cloud.credential, connection_verify=bundle, raw_request_hook=sent.append
        )

    monkeypatch.setattr(artefact.AzureClients, "discover", lambda: SimpleNamespace(blobs=blobs))
    endpoint = f"{cloud.sandbox.url}/blob/lake"
    return {
        "run_id": "7",
        "floors": THRESHOLDS,
        "blob_endpoint": endpoint,
        "models_container": "models",
        "metrics": GOOD_METRICS,
    }


def kept(cloud: Served) -> dict[str, Any]:
    return json.loads((cloud.sandbox.container_folder("lake", "models") / "7" / "verdict.json").read_text())


def test_refused_model_leaves_its_verdict_and_touches_nothing_else(cloud: Served, props: dict[str, Any]) -> None:
    with pytest.raises(
        model.ModelRefused, match=r"is refused, and the live model stays live:\n  - AUC 0.5500 is below"
    ):
        model._ModelVersionProvider().create({**props, "metrics": {**GOOD_METRICS, "auc": 0.55}})
    found = kept(cloud)
    assert found["passed"] is False
    assert [rule["name"] for rule in found["rules"] if not rule["passed"]] == ["auc"]
    assert all(rule.keys() == {"name", "value", "limit", "passed", "message"} for rule in found["rules"])


def test_refused_model_is_marked_by_one_upload_that_the_alert_reads(
    cloud: Served, sent: list[Any], props: dict[str, Any]
) -> None:
    """The lake logs an upload in one request as `PutBlob`, one in blocks as others (`monitoring/queries.py`)."""
    refused = cloud.sandbox.container_folder("lake", "models") / "8" / "refused.json"
    provider = model._ModelVersionProvider()
    provider.update("clicks:3", {"version": "3"}, {**props, "run_id": "8"})
    assert not refused.exists()
    with pytest.raises(model.ModelRefused):
        provider.update(
            "clicks:3", {"version": "3"}, {**props, "run_id": "8", "metrics": {**GOOD_METRICS, "auc": 0.55}}
        )
    assert json.loads(refused.read_text()) == json.loads(refused.with_name("verdict.json").read_text())
    (upload,) = (request.http_request for request in sent if "refused.json" in request.http_request.url)
    assert (upload.method, upload.headers["x-ms-blob-type"]) == ("PUT", "BlockBlob")
    assert "comp=" not in upload.url
    assert 'Uri has "refused.json"' in queries.MODELS_REFUSED


def test_changed_threshold_rewrites_the_verdict(cloud: Served, props: dict[str, Any]) -> None:
    provider = model._ModelVersionProvider()
    assert provider.update("clicks:3", {"version": "3"}, props).outs["version"] == "3"
    assert kept(cloud)["passed"] is True
    with pytest.raises(model.ModelRefused, match=r"AUC 0\.7100 is below the floor 0\.7500"):
        provider.update("clicks:3", {"version": "3"}, {**props, "floors": THRESHOLDS | {"auc_min": 0.75}})
    assert kept(cloud)["passed"] is False
