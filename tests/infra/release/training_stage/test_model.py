"""The gate's verdict in the lake, for a registered and for a refused model."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from infra.monitoring import queries
from infra.release.training_stage import model
from testing.gate_metrics import GOOD_METRICS, THRESHOLDS
from testing.sandbox.data import Served
from testing.sandbox.databricks import trusted
from testing.sandbox.process import in_environment

REQUESTS = "azure.core.pipeline.policies.http_logging_policy"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A cloud that has only a lake: a call of the registry fails."""
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, in_environment(running.login):
        running.assign(running.account("lake", "models"), running.sandbox.identity.object_id)
        yield running


@pytest.fixture
def props(cloud: Served) -> dict[str, Any]:
    """Inputs of a model version."""
    return {
        "run_id": "7",
        "floors": THRESHOLDS,
        "blob_endpoint": f"{cloud.sandbox.url}/blob/lake",
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
    cloud: Served, props: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The lake logs an upload in one request as `PutBlob`, one in blocks as others (`monitoring/queries.py`)."""
    refused = cloud.sandbox.container_folder("lake", "models") / "8" / "refused.json"
    provider = model._ModelVersionProvider()
    provider.update("clicks:3", {"version": "3"}, {**props, "run_id": "8"})
    assert not refused.exists()
    with caplog.at_level(logging.INFO, REQUESTS), pytest.raises(model.ModelRefused):
        provider.update(
            "clicks:3", {"version": "3"}, {**props, "run_id": "8", "metrics": {**GOOD_METRICS, "auc": 0.55}}
        )
    assert json.loads(refused.read_text()) == json.loads(refused.with_name("verdict.json").read_text())
    (upload,) = (text for text in caplog.messages if "refused.json" in text)
    assert "Request method: 'PUT'" in upload
    assert "'x-ms-blob-type'" in upload
    assert "comp=" not in upload
    assert 'Uri has "refused.json"' in queries.MODELS_REFUSED


def test_changed_threshold_rewrites_the_verdict(cloud: Served, props: dict[str, Any]) -> None:
    provider = model._ModelVersionProvider()
    assert provider.update("clicks:3", {"version": "3"}, props).outs["version"] == "3"
    assert kept(cloud)["passed"] is True
    with pytest.raises(model.ModelRefused, match=r"AUC 0\.7100 is below the floor 0\.7500"):
        provider.update("clicks:3", {"version": "3"}, {**props, "floors": THRESHOLDS | {"auc_min": 0.75}})
    assert kept(cloud)["passed"] is False
