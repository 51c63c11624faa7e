"""The MLflow experiment of the training job's runs, in the workspace's own tracking.

Made before the first run, so that it belongs to whoever deploys and not to a run; found again by its name, also where
it was deleted: with it come back its runs. Registers no model: the registry of record is Azure ML's.
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
        found = _ensure(props)
        return CreateResult(found["experiment_id"], {**props, **found})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from databricks.sdk.errors import NotFound

        try:
            found = databricks_of(props).experiments.get_by_name(props["path"]).experiment
        except NotFound:
            return gone()
        return ReadResult(id_, props) if (found.experiment_id, found.lifecycle_stage) == (id_, "active") else gone()

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({**news, **_ensure(news)})

    def delete(self, id: str, props: dict[str, Any]) -> None:
        from databricks.sdk.errors import NotFound

        try:
            databricks_of(props).experiments.delete_experiment(id)
        except NotFound:
            return


def _ensure(props: dict[str, Any]) -> dict[str, str]:
    from databricks.sdk.errors import NotFound

    client, path = databricks_of(props), props["path"]
    try:
        found = client.experiments.get_by_name(path).experiment
        experiment_id = found.experiment_id
        if found.lifecycle_stage == "deleted":
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
        """`path`: of the experiment in the workspace, such as `/Shared/shop/training`."""
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "path": path,
        }
        super().__init__(_ExperimentProvider(), name, {**props, "experiment_id": None, "page": None}, opts)
