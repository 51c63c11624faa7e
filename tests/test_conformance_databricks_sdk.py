"""databricks-sdk, unmodified, on a bad day: throttling, lost answers, tokens that expire, clusters that do not start.

No task gets as far as Spark. What runs do is tested in `test_sandbox_databricks_runs.py`.
"""

import time
from collections.abc import Iterator

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import PermissionDenied
from databricks.sdk.service import compute, jobs
from databricks.sdk.service.jobs import RunLifeCycleState as Life
from databricks.sdk.service.jobs import RunResultState as Result
from databricks.sdk.service.jobs import TerminationCodeCode as Code
from databricks.sdk.service.jobs import TerminationTypeType as Kind
from databricks_fixtures import connect, create, eventually, finished, task, trusted
from sandbox_data_fixtures import Served

from infra.release.cloud import Cloud
from infra.release.training import TrainingFailed, _TrainingRunProvider
from sandbox import entra

RUN_NOW = "/jobs/run-now$"
QUOTA = {"code": "AZURE_QUOTA_EXCEEDED_EXCEPTION", "message": "Operation could not be completed: 8 cores, 104 needed."}
STOCKOUT = {"code": "CLOUD_PROVIDER_RESOURCE_STOCKOUT", "message": "Standard_L8s_v3 is sold out in westeurope."}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running:
        running.put("Microsoft.Databricks/workspaces/ws", properties={})
        yield running


@pytest.fixture(scope="module")
def workspace(cloud: Served) -> WorkspaceClient:
    return connect(cloud)


@pytest.fixture(scope="module")
def job_id(workspace: WorkspaceClient) -> int:
    """A job that would run if a cluster were given."""
    return create(workspace, task("train", libraries=[]))


def outcome(part: jobs.Run | jobs.RunTask) -> tuple[object, ...]:
    details = part.status.termination_details
    return part.state.life_cycle_state, part.state.result_state, details.code, details.type


def test_a_throttled_call_waits_as_long_as_it_is_told(cloud: Served, workspace: WorkspaceClient) -> None:
    cloud.faults({"path": "/jobs/list$", "status": 429, "headers": {"Retry-After": "1"}})
    began = time.monotonic()
    list(workspace.jobs.list())
    assert time.monotonic() - began >= 1


def test_a_run_whose_first_answer_is_lost_is_started_once(
    cloud: Served, workspace: WorkspaceClient, job_id: int
) -> None:
    cloud.faults({"path": RUN_NOW, "lost": True, "operation_failure": QUOTA})
    run = finished(workspace, workspace.jobs.run_now(job_id, idempotency_token="once").run_id)
    assert [found.run_id for found in workspace.jobs.list_runs(job_id=job_id)] == [run.run_id]


@pytest.mark.parametrize(
    ("failure", "code", "kind"),
    [(QUOTA, Code.CLUSTER_ERROR, Kind.CLIENT_ERROR), (STOCKOUT, Code.CLOUD_FAILURE, Kind.CLOUD_FAILURE)],
)
def test_a_cluster_that_gets_no_machines_is_an_internal_error_that_says_why(
    cloud: Served, workspace: WorkspaceClient, job_id: int, failure: dict[str, str], code: Code, kind: Kind
) -> None:
    cloud.faults({"path": RUN_NOW, "operation_failure": failure})
    run = finished(workspace, workspace.jobs.run_now(job_id).run_id)
    assert outcome(run.tasks[0]) == (Life.INTERNAL_ERROR, Result.FAILED, code, kind)
    assert outcome(run) == (Life.INTERNAL_ERROR, Result.FAILED, Code.RUN_EXECUTION_ERROR, Kind.CLIENT_ERROR)
    for message in (run.state.state_message, workspace.jobs.get_run_output(run.tasks[0].run_id).error):
        assert f"was terminated. Reason: {failure['code']}" in message
        assert failure["message"] in message


def test_a_cluster_that_does_not_start_in_time_ends_what_had_the_time_limit_as_timed_out(
    cloud: Served, workspace: WorkspaceClient
) -> None:
    cloud.faults({"path": RUN_NOW, "operation_delay": 60, "times": 2})
    of_task = create(workspace, task("train", libraries=[], timeout_seconds=1))
    of_run = create(workspace, task("train", libraries=[]), timeout_seconds=1)
    started = [workspace.jobs.run_now(job).run_id for job in (of_task, of_run)]
    task_ended, run_ended = (finished(workspace, run_id) for run_id in started)
    timed_out = (Life.TERMINATED, Result.TIMEDOUT, Code.CANCELED, Kind.CLIENT_ERROR)
    assert outcome(task_ended.tasks[0]) == outcome(run_ended.tasks[0]) == outcome(run_ended) == timed_out
    assert run_ended.state.user_cancelled_or_timedout
    assert task_ended.state.result_state == Result.FAILED


def test_a_cluster_that_is_still_starting_is_pending_and_can_be_cancelled(
    cloud: Served, workspace: WorkspaceClient, job_id: int
) -> None:
    cloud.faults({"path": RUN_NOW, "operation_delay": 60})
    started = workspace.jobs.run_now(job_id).run_id
    eventually(
        lambda: workspace.jobs.get_run(started).tasks[0].state.life_cycle_state,
        lambda state: state == Life.PENDING,
        seconds=20,
    )
    run = workspace.jobs.cancel_run(started).result()
    cancelled = (Life.TERMINATED, Result.CANCELED, Code.USER_CANCELED, Kind.CLIENT_ERROR)
    assert outcome(run) == outcome(run.tasks[0]) == cancelled


def test_a_library_that_cannot_be_installed_is_told_apart_from_a_task_that_fails(workspace: WorkspaceClient) -> None:
    absent = compute.Library(pypi=compute.PythonPyPiLibrary("no-such-package==1"))
    run_id = workspace.jobs.run_now(create(workspace, task("train", libraries=[absent]))).run_id
    ended = outcome(finished(workspace, run_id).tasks[0])
    assert ended == (Life.INTERNAL_ERROR, Result.FAILED, Code.LIBRARY_INSTALLATION_ERROR, Kind.CLIENT_ERROR)


def test_a_failed_training_run_is_not_started_again_and_names_its_task_its_reason_and_its_page(
    cloud: Served, workspace: WorkspaceClient, job_id: int
) -> None:
    known = len(list(workspace.jobs.list_runs(job_id=job_id)))
    cloud.faults({"path": RUN_NOW, "operation_failure": QUOTA})
    asked = {"job_id": job_id, "input_digest": "d", "snapshot": "s", "timeout_minutes": 1}
    with pytest.raises(TrainingFailed) as failed:
        _TrainingRunProvider._run_to_end(workspace, asked, "")
    assert "/databricks/runs/" in str(failed.value)
    assert f"task train: Cluster 'main' was terminated. Reason: {QUOTA['code']}" in str(failed.value)
    assert len(list(workspace.jobs.list_runs(job_id=job_id))) == known + 1


def test_a_token_that_has_expired_is_refused_and_the_programs_client_outlasts_it(
    cloud: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = cloud.sandbox.identity
    login = {"TENANT_ID": who.tenant_id, "CLIENT_ID": who.client_id, "CLIENT_SECRET": who.client_secret}
    hosts = {"METADATA_HOSTNAME": cloud.sandbox.authority, "DISABLE_INSTANCE_DISCOVERY": "true"}
    for name, value in (login | hosts).items():
        monkeypatch.setenv(f"ARM_{name}", value)
    workspace_id = f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
    with cloud.settings(token_lifetime=2):
        program = Cloud.discover().databricks(cloud.sandbox.authority, workspace_id)
        token = Cloud.discover().credential().get_token(f"{entra.DATABRICKS}/.default").token
        held = WorkspaceClient(host=cloud.sandbox.url, token=token, auth_type="pat")
        for client in (program, held):
            client.current_user.me()
        time.sleep(2)
        assert program.current_user.me().user_name == who.client_id
        with pytest.raises(PermissionDenied, match="expired"):
            held.current_user.me()
