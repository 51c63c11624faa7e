"""The MLflow experiment of the training job's runs, in the workspace's own tracking.

Created before the first run, so that its owner is the deployer and not a run. Found by its name, also if it was
deleted: then it is restored with its runs. Does not register models: Azure ML's registry is the registry of record.
"""

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.clients import databricks_of
from infra.dynamic.ownership import WorkspaceProvider
from infra.dynamic.provider import gone


class _ExperimentProvider(WorkspaceProvider):
    object_name = ("path",)
    identity = ("workspace_id", "workspace_uid", "path")
    inputs = ("workspace_url",)

    def create(self, props: dict[str, Any]) -> CreateResult:
        outputs = _ensure(props)
        return CreateResult(outputs["experiment_id"], {**props, **outputs})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from databricks.sdk.errors import NotFound

        try:
            experiment = databricks_of(props).experiments.get_by_name(props["path"]).experiment
        except NotFound:
            return gone()
        is_same = (experiment.experiment_id, experiment.lifecycle_stage) == (id_, "active")
        return ReadResult(id_, props) if is_same else gone()

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({**news, **_ensure(news)})

    def delete(self, id: str, props: dict[str, Any]) -> None:
        from databricks.sdk.errors import NotFound

        try:
            databricks_of(props).experiments.delete_experiment(id)
        except NotFound:
            return


def _ensure(props: dict[str, Any]) -> dict[str, str]:
    """Find, restore or create the experiment. Return its outputs."""
    from databricks.sdk.errors import NotFound

    client, path = databricks_of(props), props["path"]
    try:
        experiment = client.experiments.get_by_name(path).experiment
        experiment_id = experiment.experiment_id
        if experiment.lifecycle_stage == "deleted":
            client.experiments.restore_experiment(experiment_id)
    except NotFound:
        client.workspace.mkdirs(path.rpartition("/")[0])
        experiment_id = client.experiments.create_experiment(path).experiment_id
    return {"experiment_id": experiment_id, "page": f"https://{props['workspace_url']}/ml/experiments/{experiment_id}"}


class Experiment(Resource, module="databricks", name="Experiment"):
    path: pulumi.Output[str]
    experiment_id: pulumi.Output[str]
    page: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        path: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`path`: the experiment's path in the workspace, such as `/Shared/shop/training`."""
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "path": path,
        }
        super().__init__(_ExperimentProvider(), name, {**props, "experiment_id": None, "page": None}, opts)
