"""The MLflow experiment of the training job's runs, in the workspace's own tracking.

Creation before the first run, so that its owner is the deployer and not a run. Found by its name, also if it was
deleted: then it is restored with its runs. Does not register models: Azure ML's registry is the registry of record.
"""

import pulumi

from infra.dynamic.inputs import InputField, Outputs, replaces
from infra.dynamic.ownership import WorkspaceProvider
from infra.dynamic.provider import Creation, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.dynamic.workspace import WorkspaceInputs, databricks_of


class ExperimentInputs(WorkspaceInputs):
    path: InputField[str] = replaces()
    """Path in the workspace, such as `/Shared/shop/training`."""


class ExperimentOutputs(Outputs):
    experiment_id: str
    page: str


class _ExperimentProvider(WorkspaceProvider[ExperimentInputs, ExperimentOutputs]):
    object_name = ("path",)

    def create_object(self, inputs: ExperimentInputs) -> Creation[ExperimentOutputs]:
        outputs = _ensure(inputs)
        return Creation(outputs.experiment_id, outputs)

    def read_object(self, state: ResourceState[ExperimentInputs, ExperimentOutputs]) -> ExperimentInputs | None:
        from databricks.sdk.errors import NotFound

        inputs = state.inputs
        try:
            experiment = databricks_of(inputs).experiments.get_by_name(inputs.path).experiment
        except NotFound:
            return None
        is_same = (experiment.experiment_id, experiment.lifecycle_stage) == (state.id, "active")
        return inputs if is_same else None

    def update_object(
        self, _state: ResourceState[ExperimentInputs, ExperimentOutputs], inputs: ExperimentInputs
    ) -> ExperimentOutputs:
        return _ensure(inputs)

    def delete_object(self, state: ResourceState[ExperimentInputs, ExperimentOutputs]) -> None:
        from databricks.sdk.errors import NotFound

        try:
            databricks_of(state.inputs).experiments.delete_experiment(state.id)
        except NotFound:
            return


def _ensure(inputs: ExperimentInputs) -> ExperimentOutputs:
    """Find, restore or create the experiment."""
    from databricks.sdk.errors import NotFound

    client, path = databricks_of(inputs), inputs.path
    try:
        experiment = client.experiments.get_by_name(path).experiment
        experiment_id = experiment.experiment_id
        if experiment.lifecycle_stage == "deleted":
            client.experiments.restore_experiment(experiment_id)
    except NotFound:
        client.workspace.mkdirs(path.rpartition("/")[0])
        experiment_id = client.experiments.create_experiment(path).experiment_id
    page = f"https://{inputs.workspace_url}/ml/experiments/{experiment_id}"
    return ExperimentOutputs(experiment_id=experiment_id, page=page)


class Experiment(
    DynamicResource[ExperimentInputs], module="databricks", name="Experiment", provider=_ExperimentProvider
):
    path: pulumi.Output[str]
    experiment_id: pulumi.Output[str]
    page: pulumi.Output[str]
