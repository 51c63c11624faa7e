"""The training run of a stack: a successful one is found again, and a failed one is repeated."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient

from infra.release.training_stage import training_run
from sandbox.databricks.execution.cluster import TaskFailed
from testing.sandbox.data import Served
from testing.sandbox.databricks import connect, create, task, trusted
from testing.sandbox.instant_runs import instant_runs
from testing.sandbox.live_model import ml_workspace_id
from testing.sandbox.process import in_environment

NUMBER = "4201"


class Training:
    """The work of each run: it writes an artefact into the lake, or fails."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self.fails = False

    def __call__(self, run_id: str) -> None:
        if self.fails:
            raise TaskFailed("no such folder")
        (self.models / run_id).mkdir()
        for name in ("metrics.json", "MANIFEST.json"):
            (self.models / run_id / name).write_text("{}")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, in_environment(running.login):
        running.put("Microsoft.Databricks/workspaces/ws", location="westeurope", properties={"workspaceId": NUMBER})
        running.assign(running.account("lake", "raw", "models"), running.sandbox.identity.object_id)
        rows = running.sandbox.container_folder("lake", "raw") / "movielens" / "day" / "rows"
        rows.parent.mkdir(parents=True)
        rows.write_text("1")
        yield running


@pytest.fixture
def training(cloud: Served) -> Iterator[Training]:
    work = Training(cloud.sandbox.container_folder("lake", "models"))
    with instant_runs(work):
        yield work


@pytest.fixture(scope="module")
def workspace(cloud: Served) -> WorkspaceClient:
    return connect(cloud)


@pytest.fixture
def job(workspace: WorkspaceClient) -> int:
    return create(workspace, task("train"))


def trained(cloud: Served, job_id: int, lake_uid: str = "2026-11-01") -> str:
    """Id of the run that the resource adopts or starts."""
    props = {
        "workspace_url": cloud.sandbox.authority,
        "workspace_id": f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws",
        "workspace_uid": NUMBER,
        "job_id": str(job_id),
        "blob_endpoint": f"{cloud.sandbox.url}/blob/lake",
        "lake_uid": lake_uid,
        "models_container": "models",
        "raw_container": "raw",
        "dataset": "movielens",
        "snapshot": "day",
        "input_digest": "d" * 64,
        "volumes": "/Volumes/main/clicks",
        "ml_workspace_id": ml_workspace_id(cloud),
        "endpoint_name": "score",
        "timeout_minutes": 1,
    }
    return training_run._TrainingRunProvider().create(props).id


def runs(workspace: WorkspaceClient, job_id: int) -> list[str]:
    return [str(run.run_id) for run in workspace.jobs.list_runs(job_id=job_id)]


def test_run_that_succeeded_is_found_again(
    cloud: Served, workspace: WorkspaceClient, training: Training, job: int
) -> None:
    run_id = trained(cloud, job)
    assert trained(cloud, job) == run_id
    assert runs(workspace, job) == [run_id]


def test_run_that_databricks_has_deleted_is_repeated(
    cloud: Served, workspace: WorkspaceClient, training: Training, job: int
) -> None:
    deleted = trained(cloud, job)
    workspace.jobs.delete_run(int(deleted))
    repeated = trained(cloud, job)
    assert repeated != deleted
    assert runs(workspace, job) == [repeated]


def test_failed_run_is_repeated_by_the_same_job_and_by_a_recreated_one(
    cloud: Served, workspace: WorkspaceClient, training: Training, job: int
) -> None:
    recreated = create(workspace, task("train"))
    training.fails = True
    for job_id in (job, job, recreated):
        with pytest.raises(training_run.TrainingFailed, match=r"ended as .*FAILED(.|\n)*task train: no such folder"):
            trained(cloud, job_id)
    assert len(runs(workspace, job)) == 2
    training.fails = False
    repeated = trained(cloud, recreated)
    assert runs(workspace, recreated)[0] == repeated
    assert len(runs(workspace, recreated)) == 2


def test_run_whose_artefact_is_gone_is_repeated_and_so_is_one_of_another_lake(
    cloud: Served, training: Training, job: int
) -> None:
    first, of_another_lake = trained(cloud, job), trained(cloud, job, lake_uid="2026-11-02")
    assert first != of_another_lake
    shutil.rmtree(training.models / first)
    assert trained(cloud, job) not in (first, of_another_lake)


def test_failed_training_run_is_not_restarted_and_names_its_task_reason_and_page(
    cloud: Served, workspace: WorkspaceClient
) -> None:
    """The run ends before Spark: its cluster gets no machines."""
    code = "AZURE_QUOTA_EXCEEDED_EXCEPTION"
    quota = {"code": code, "message": "Operation could not be completed: 8 cores, 104 needed."}
    job_id = create(workspace, task("train", libraries=[]))
    cloud.faults({"path": "/jobs/run-now$", "operation_failure": quota})
    with pytest.raises(training_run.TrainingFailed) as failed:
        trained(cloud, job_id)
    assert "/databricks/runs/" in str(failed.value)
    assert f"task train: Cluster 'main' was terminated. Reason: {code}" in str(failed.value)
    assert len(runs(workspace, job_id)) == 1
