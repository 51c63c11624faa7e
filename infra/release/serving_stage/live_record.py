"""The file `live.json` of the models container: the live model's training run and the earlier live deployments.

It is written after each rollout. A scheduled run reads it (`workloads/live_model.py`) to find the live model, with
which it compares its own. `personalization lineage` reads the model version, image and engine of an
earlier deployment from it, which are the settings of a rollback. It is not authoritative: `candidate.py` asks Azure ML
which model is live. Does not move traffic: `rollout.py` does. Does not delete the file: without a live model it still
names the last one.
"""

import json
from datetime import UTC, datetime
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.clients import AzureClients, has_lake
from infra.dynamic.provider import ReleaseProvider, gone
from infra.release.serving_stage.rollout import deployment_name

REFERENCE = "live.json"
_KEPT = 100
"""Number of rollouts in the file, newest first."""


def read_reference(blob_endpoint: str, container: str) -> dict[str, Any] | None:
    """Return the file's content; None if it is missing or was not written by this module."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        content = json.loads(_blob(blob_endpoint, container).download_blob().readall())
    except (ResourceNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("deployments") else None


class _ReferenceProvider(ReleaseProvider):
    identity = (
        *("workspace_id", "workspace_uid", "endpoint_name"),
        *("blob_endpoint", "lake_uid", "models_container"),
    )
    inputs = ("model_name", "model_version", "environment", "engine")
    optional = ("lake_id",)

    def create(self, props: dict[str, Any]) -> CreateResult:
        _write(props)
        return CreateResult(f"{props['models_container']}/{REFERENCE}", props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Gone if the file is missing or names another deployment."""
        content = read_reference(props["blob_endpoint"], props["models_container"]) if has_lake(props) else None
        same = content and content["deployments"][0]["deployment"] == deployment_name(props)
        return ReadResult(id_, props) if same else gone()

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        _write(news)
        return UpdateResult(news)


def _write(props: dict[str, Any]) -> None:
    """Put the deployment in front of the earlier ones, unless it is the first already."""
    client = AzureClients.discover().machine_learning(props["workspace_id"])
    name, _, version = props["environment"].rpartition(":")
    newest = {
        "deployment": deployment_name(props),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_version": str(props["model_version"]),
        "image": client.environments.get(name, version).image,
        "engine": props["engine"],
        "run_id": client.models.get(props["model_name"], str(props["model_version"])).tags.get("run_id", ""),
    }
    content = read_reference(props["blob_endpoint"], props["models_container"]) or {"deployments": []}
    deployments = content["deployments"]
    if not deployments or deployments[0]["deployment"] != newest["deployment"]:
        deployments = [newest, *deployments][:_KEPT]
    document = json.dumps({"run_id": newest["run_id"], "deployments": deployments}, indent=1)
    _blob(props["blob_endpoint"], props["models_container"]).upload_blob(document, overwrite=True)


def _blob(blob_endpoint: str, container: str) -> Any:
    return AzureClients.discover().blobs(blob_endpoint).get_blob_client(container, REFERENCE)


class LiveReference(Resource, module="lake", name="LiveReference"):
    def __init__(
        self,
        name: str,
        *,
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        endpoint_name: pulumi.Input[str],
        blob_endpoint: pulumi.Input[str],
        lake_id: pulumi.Input[str],
        lake_uid: pulumi.Input[str],
        models_container: pulumi.Input[str],
        model_name: str,
        model_version: pulumi.Input[str],
        environment: pulumi.Input[str],
        engine: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`environment`: `<name>:<version>`. Pass the rollout's values, and let this resource depend on the rollout."""
        props = {
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "endpoint_name": endpoint_name,
            "blob_endpoint": blob_endpoint,
            "lake_id": lake_id,
            "lake_uid": lake_uid,
            "models_container": models_container,
            "model_name": model_name,
            "model_version": model_version,
            "environment": environment,
            "engine": engine,
        }
        super().__init__(_ReferenceProvider(), name, props, opts)
