"""A model version in the Azure ML registry, created only for a model that passed the gate.

A refused model fails here, before the live deployment is changed. In both cases the verdict is written next to the
artefact, as `verdict.json`. `create` may be killed: the next one finds the version by its training run. Does not copy
the artefact, which stays in the lake; the version refers to it through the workspace's datastore. Does not delete
versions: a rollback needs them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pulumi

from infra.cloud.artefact import Artefact
from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Inputs, Outputs, not_compared, replaces, updates
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.release.checks.gate import Metrics, verdict

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Model


class ModelRefused(Exception):
    """The gate refused the model; the message lists the broken rules."""


class ModelVersionInputs(Inputs):
    workspace_id: InputField[str] = replaces()
    workspace_uid: InputField[str] = replaces()
    model_name: InputField[str] = replaces()
    datastore: InputField[str] = not_compared()
    run_id: InputField[str] = replaces()
    metrics: InputField[Metrics] = not_compared()
    floors: InputField[Mapping[str, float]] = updates()
    """The gate's thresholds, under their name in existing states."""
    lineage: InputField[Mapping[str, str]] = not_compared()
    blob_endpoint: InputField[str] = not_compared()
    models_container: InputField[str] = not_compared()


class ModelVersionOutputs(Outputs):
    version: str


class _ModelVersionProvider(ReleaseProvider[ModelVersionInputs, ModelVersionOutputs]):
    def create_object(self, inputs: ModelVersionInputs) -> Creation[ModelVersionOutputs]:
        _gate(inputs)
        client = AzureClients.discover().machine_learning(inputs.workspace_id)
        versions = _versions(client, inputs.model_name)
        version = next((v for v, model in versions.items() if model.tags.get("run_id") == inputs.run_id), None)
        if version is None:
            version = max(versions, default=0) + 1
            client.models.create_or_update(_model(inputs, str(version)))
        return Creation(f"{inputs.model_name}:{version}", ModelVersionOutputs(version=str(version)))

    def read_object(self, state: ResourceState[ModelVersionInputs, ModelVersionOutputs]) -> ModelVersionInputs | None:
        from azure.core.exceptions import ResourceNotFoundError

        registry = AzureClients.discover().machine_learning(state.inputs.workspace_id)
        try:
            registry.models.get(state.inputs.model_name, state.outputs.version)
        except ResourceNotFoundError:
            return None
        return state.inputs

    def update_object(
        self, state: ResourceState[ModelVersionInputs, ModelVersionOutputs], inputs: ModelVersionInputs
    ) -> ModelVersionOutputs:
        _gate(inputs)
        return state.outputs


def _gate(inputs: ModelVersionInputs) -> None:
    """Write the verdict. Raises `ModelRefused` if a rule is broken."""
    compared = inputs.metrics.get("live")
    if compared and "skipped" in compared:
        pulumi.log.warn(
            f"the model of training run {inputs.run_id} could not be compared with the live model, of run "
            f"{compared['run_id']}: {compared['skipped']}"
        )
    rules = verdict(inputs.metrics, inputs.floors)
    _artefact(inputs).write_verdict(rules)
    if reasons := [rule["message"] for rule in rules if not rule["passed"]]:
        raise ModelRefused(
            f"the model of training run {inputs.run_id} is refused, and the live model stays live:\n"
            + "\n".join(f"  - {reason}" for reason in reasons)
        )


def _model(inputs: ModelVersionInputs, version: str) -> "Model":
    """The model version as an entity of Azure ML's SDK."""
    from azure.ai.ml.entities import Model

    metrics = inputs.metrics
    tracked = _artefact(inputs).json("lineage.json").get("mlflow_run_id")
    return Model(
        name=inputs.model_name,
        version=version,
        type="custom_model",
        path=f"azureml://datastores/{inputs.datastore}/paths/{inputs.run_id}",
        description="Click probability of a user for an item",
        tags={
            **inputs.lineage,
            "run_id": inputs.run_id,
            "auc": f"{metrics['auc']:.6f}",
            "log_loss": f"{metrics['log_loss']:.6f}",
            **({"mlflow_run_id": tracked} if tracked else {}),
        },
    )


def _artefact(inputs: ModelVersionInputs) -> Artefact:
    return Artefact(inputs.blob_endpoint, inputs.models_container, inputs.run_id)


def _versions(client: "MLClient", name: str) -> "dict[int, Model]":
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return {int(model.version): model for model in client.models.list(name=name) if model.version.isdigit()}
    except ResourceNotFoundError:
        return {}


class ModelVersion(
    DynamicResource[ModelVersionInputs], module="machinelearning", name="ModelVersion", provider=_ModelVersionProvider
):
    version: pulumi.Output[str]
    lineage: pulumi.Output[dict[str, str]]
