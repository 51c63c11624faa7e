"""The file in the lake that names the live model, written through Azure ML's and the lake's own clients."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.local_run.sandbox import deployer
from infra.components.roles import Role
from infra.release.serving_stage import live_record
from infra.release.serving_stage.rollout import deployment_name
from testing.sandbox.machine_learning import Cloud, environment, ml_sandbox
from testing.sandbox.process import in_environment
from workloads import live_model, spec


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ml_sandbox(tmp_path_factory.mktemp("reference")) as cloud, in_environment(cloud.environment):
        lake = f"{cloud.group}/providers/Microsoft.Storage/storageAccounts/lake"
        role = Role.STORAGE_BLOB_DATA_CONTRIBUTOR
        definition = f"{cloud.subscription}/providers/Microsoft.Authorization/roleDefinitions/{role}"
        cloud.put(
            f"{lake}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}",
            properties={"principalId": deployer(), "roleDefinitionId": definition, "principalType": "ServicePrincipal"},
        )
        environment(cloud, "2", f"sha256:{'0' * 64}")
        for version in ("1", "2"):
            path = f"{cloud.workspace}/models/clicks/versions/{version}"
            uri = f"azureml://datastores/lake/paths/run-{version}"
            cloud.put(path, properties={"modelUri": uri, "tags": {"run_id": f"run-{version}"}})
        yield cloud


@pytest.fixture
def file(cloud: Cloud) -> Path:
    path = cloud.folder / "accounts" / "lake" / "models" / live_record.REFERENCE
    path.unlink(missing_ok=True)
    return path


def props(cloud: Cloud, version: str, **changed: Any) -> dict[str, Any]:
    return {
        "workspace_id": cloud.workspace,
        "workspace_uid": None,
        "endpoint_name": "score",
        "blob_endpoint": f"{cloud.url}/blob/lake",
        "models_container": "models",
        "model_name": "clicks",
        "model_version": version,
        "environment": "scoring:1",
        "engine": "native",
        **changed,
    }


def test_live_model_comes_first_and_earlier_ones_have_the_rollback_settings(cloud: Cloud, file: Path) -> None:
    provider = live_record._ReferenceProvider()
    first = provider.create(props(cloud, "1"))
    assert provider.read(first.id, first.outs).outs == first.outs
    provider.update(first.id, first.outs, props(cloud, "2", environment="scoring:2", engine="spark"))
    provider.update(first.id, first.outs, props(cloud, "2", environment="scoring:2", engine="spark"))
    found = json.loads(file.read_text())
    assert found["run_id"] == "run-2"
    kept = [{name: value for name, value in each.items() if name != "since"} for each in found["deployments"]]
    image = f"{cloud.authority}/crtest/scoring@sha256:"
    assert kept[0] == {
        "deployment": deployment_name(
            live_record.LiveReferenceInputs.of(props(cloud, "2", environment="scoring:2", engine="spark"))
        ),
        "model_version": "2",
        "image": f"{image}{'0' * 64}",
        "engine": "spark",
        "run_id": "run-2",
    }
    assert (kept[1]["model_version"], kept[1]["engine"], kept[1]["run_id"]) == ("1", "native", "run-1")
    assert kept[1]["image"].startswith(image)
    assert len(kept) == 2


def test_training_run_finds_the_live_model_by_the_file(cloud: Cloud, file: Path) -> None:
    live_record._ReferenceProvider().create(props(cloud, "2"))
    found = live_model.load(file, spec.load("movielens"))
    assert found == live_model.Live("run-2", skipped="its artefact is no longer in the lake")


@pytest.mark.parametrize(
    "content", [None, "", "[]", '{"run_id": "run-1"}', '{"deployments": [{"deployment": "other"}]}']
)
def test_missing_or_foreign_live_record_is_written_again(cloud: Cloud, file: Path, content: str | None) -> None:
    provider = live_record._ReferenceProvider()
    made = provider.create(props(cloud, "1"))
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert provider.read(made.id, made.outs).id == ""
    provider.create(props(cloud, "1"))
    assert json.loads(file.read_text())["run_id"] == "run-1"
    assert provider.read(made.id, made.outs).id == made.id
