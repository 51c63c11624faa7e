"""The file `live.json` of the models container: the live model's training run and the earlier live deployments.

It is written after each rollout. A scheduled run reads it (`workloads/live_model.py`) to find the live model, with
which it compares its own. `personalization lineage` reads the model version, image and engine of an
earlier deployment from it, which are the settings of a rollback. It is not authoritative: `candidate.py` asks Azure ML
which model is live. Does not move traffic: `rollout.py` does. Does not delete the file: without a live model it still
names the last one.
"""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypedDict

from infra.cloud.clients import AzureClients, has_lake
from infra.dynamic.inputs import InputField, Outputs, not_compared, replaces
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.release.serving_stage.rollout import DeploymentInputs, deployment_name

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

REFERENCE = "live.json"
_KEPT = 100
"""Number of rollouts in the file, newest first."""


class LiveDeployment(TypedDict):
    """One rollout in the file."""

    deployment: str
    since: str
    model_version: str
    image: str
    engine: str
    run_id: str


class Reference(TypedDict):
    """Content of the file."""

    run_id: str
    deployments: list[LiveDeployment]


def read_reference(blob_endpoint: str, container: str) -> Reference | None:
    """Return the file's content; None if it is missing or was not written by this module."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        content = json.loads(_blob(blob_endpoint, container).download_blob().readall())
    except (ResourceNotFoundError, ValueError):
        return None
    is_reference = isinstance(content, dict) and content.get("deployments")
    return content if is_reference else None


class LiveReferenceInputs(DeploymentInputs):
    """The rollout's values. The resource depends on the rollout."""

    workspace_id: InputField[str] = replaces()
    workspace_uid: InputField[str] = replaces()
    endpoint_name: InputField[str] = replaces()
    blob_endpoint: InputField[str] = replaces()
    lake_id: InputField[str] = not_compared()
    lake_uid: InputField[str] = replaces()
    models_container: InputField[str] = replaces()


class _ReferenceProvider(ReleaseProvider[LiveReferenceInputs, Outputs]):
    def create_object(self, inputs: LiveReferenceInputs) -> Creation[Outputs]:
        _write(inputs)
        return Creation(f"{inputs.models_container}/{REFERENCE}", Outputs())

    def read_object(self, state: ResourceState[LiveReferenceInputs, Outputs]) -> LiveReferenceInputs | None:
        """Gone if the file is missing or names another deployment."""
        inputs = state.inputs
        if not has_lake(inputs.lake_id, inputs.lake_uid):
            return None
        content = read_reference(inputs.blob_endpoint, inputs.models_container)
        same = content and content["deployments"][0]["deployment"] == deployment_name(inputs)
        return inputs if same else None

    def update_object(self, state: ResourceState[LiveReferenceInputs, Outputs], inputs: LiveReferenceInputs) -> Outputs:
        _write(inputs)
        return state.outputs


def _write(inputs: LiveReferenceInputs) -> None:
    """Put the deployment in front of the earlier ones, unless it is the first already."""
    client = AzureClients.discover().machine_learning(inputs.workspace_id)
    name, _, version = inputs.environment.rpartition(":")
    newest: LiveDeployment = {
        "deployment": deployment_name(inputs),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_version": inputs.model_version,
        "image": client.environments.get(name, version).image,
        "engine": inputs.engine,
        "run_id": client.models.get(inputs.model_name, inputs.model_version).tags.get("run_id", ""),
    }
    content = read_reference(inputs.blob_endpoint, inputs.models_container)
    deployments = content["deployments"] if content else []
    if not deployments or deployments[0]["deployment"] != newest["deployment"]:
        deployments = [newest, *deployments][:_KEPT]
    document = json.dumps({"run_id": newest["run_id"], "deployments": deployments}, indent=1)
    _blob(inputs.blob_endpoint, inputs.models_container).upload_blob(document, overwrite=True)


def _blob(blob_endpoint: str, container: str) -> "BlobClient":
    return AzureClients.discover().blobs(blob_endpoint).get_blob_client(container, REFERENCE)


class LiveReference(
    DynamicResource[LiveReferenceInputs], module="lake", name="LiveReference", provider=_ReferenceProvider
):
    """The file `live.json`."""
