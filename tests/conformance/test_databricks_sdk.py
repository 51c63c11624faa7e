"""The unmodified databricks-sdk with faults: throttling, lost answers, expired tokens, clusters that do not start.

No task gets as far as Spark. What runs do is tested in `tests/sandbox/databricks/test_runs.py`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, PermissionDenied
from databricks.sdk.service import compute, jobs
from databricks.sdk.service.jobs import RunLifeCycleState as Life
from databricks.sdk.service.jobs import RunResultState as Result
from databricks.sdk.service.jobs import TerminationCodeCode as Code
from databricks.sdk.service.jobs import TerminationTypeType as Kind

from infra.cloud.clients import AzureClients
from infra.release.interactive_access.cluster import policy_definition
from infra.release.training_stage.job import JobSpec
from infra.release.training_stage.training_run import TrainingFailed, TrainingRunInputs, _TrainingRunProvider
from sandbox.identity import entra
from testing.sandbox.data import Served
from testing.sandbox.databricks import cluster, connect, create, finished, task, trusted
from testing.waiting import eventually

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
    """A job that is valid once a cluster is added."""
    return create(workspace, task("train", libraries=[]))


def outcome(part: jobs.Run | jobs.RunTask) -> tuple[object, ...]:
    details = part.status.termination_details
    return part.state.life_cycle_state, part.state.result_state, details.code, details.type


def test_throttled_call_waits_for_retry_after(cloud: Served, workspace: WorkspaceClient) -> None:
    cloud.faults({"path": "/jobs/list$", "status": 429, "headers": {"Retry-After": "1"}})
    began = time.monotonic()
    list(workspace.jobs.list())
    assert time.monotonic() - began >= 1


def test_a_run_whose_first_answer_is_lost_is_started_once(cloud: Served, workspace: WorkspaceClient) -> None:
    job_id = create(workspace, task("train", libraries=[]))
    cloud.faults({"path": RUN_NOW, "lost": True, "operation_failure": QUOTA})
    run = finished(workspace, workspace.jobs.run_now(job_id, idempotency_token="once").run_id)
    assert [found.run_id for found in workspace.jobs.list_runs(job_id=job_id)] == [run.run_id]


@pytest.mark.parametrize(
    ("failure", "code", "kind"),
    [(QUOTA, Code.CLUSTER_ERROR, Kind.CLIENT_ERROR), (STOCKOUT, Code.CLOUD_FAILURE, Kind.CLOUD_FAILURE)],
)
def test_cluster_without_machines_is_an_internal_error_with_the_reason(
    cloud: Served, workspace: WorkspaceClient, job_id: int, failure: dict[str, str], code: Code, kind: Kind
) -> None:
    cloud.faults({"path": RUN_NOW, "operation_failure": failure})
    run = finished(workspace, workspace.jobs.run_now(job_id).run_id)
    assert outcome(run.tasks[0]) == (Life.INTERNAL_ERROR, Result.FAILED, code, kind)
    assert outcome(run) == (Life.INTERNAL_ERROR, Result.FAILED, Code.RUN_EXECUTION_ERROR, Kind.CLIENT_ERROR)
    for message in (run.state.state_message, workspace.jobs.get_run_output(run.tasks[0].run_id).error):
        assert f"was terminated. Reason: {failure['code']}" in message
        assert failure["message"] in message


def test_slow_cluster_start_times_out_the_task_or_run_with_the_limit(cloud: Served, workspace: WorkspaceClient) -> None:
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


def test_failed_library_installation_has_its_own_termination_code(workspace: WorkspaceClient) -> None:
    absent = compute.Library(pypi=compute.PythonPyPiLibrary("no-such-package==1"))
    run_id = workspace.jobs.run_now(create(workspace, task("train", libraries=[absent]))).run_id
    ended = outcome(finished(workspace, run_id).tasks[0])
    assert ended == (Life.INTERNAL_ERROR, Result.FAILED, Code.LIBRARY_INSTALLATION_ERROR, Kind.CLIENT_ERROR)


@pytest.fixture(scope="module")
def policy_id(workspace: WorkspaceClient) -> str:
    """The program's policy for manually created clusters."""
    spec = JobSpec(
        *("train", "movielens", "s1", "/Volumes/c/s", "/Workspace/w.whl", "c0de", "/Shared/c/t", "16.4.x-scala2.12"),
        *("Standard_L8s_v3", 3, False, "0 0 3 * * ?", False, 60, {}),
    )
    definition = json.dumps(policy_definition(spec, minutes=30))
    return str(workspace.cluster_policies.create(name="interactive", definition=definition).policy_id)


BY_HAND = {"data_security_mode": "SINGLE_USER", "autotermination_minutes": 20, "spark_conf": {}}


@pytest.mark.parametrize(
    ("asked", "rules"),
    [
        (
            {"autoscale": {"min_workers": 1, "max_workers": 3}, "num_workers": None},
            ("autoscale.min_workers, the value cannot be present (is 1)", "autoscale.max_workers", "num_workers"),
        ),
        (
            {"azure_attributes": {"availability": "SPOT_WITH_FALLBACK_AZURE"}},
            ('azure_attributes.availability, the value must be ON_DEMAND_AZURE (is "SPOT_WITH_FALLBACK_AZURE")',),
        ),
        ({"spark_version": "15.4.x-scala2.12"}, ('spark_version, the value must be 16.4.x-scala2.12 (is "15.4',)),
        ({"runtime_engine": "PHOTON"}, ("runtime_engine, the value must be STANDARD",)),
        ({"docker_image": {"url": "acr.azurecr.io/own"}}, ("docker_image.url, the value cannot be present",)),
        ({"num_workers": 4}, ("num_workers, the value must be at most 3 (is 4)",)),
        ({"autotermination_minutes": 0}, ("autotermination_minutes, the value must be at least 10",)),
        ({"data_security_mode": "USER_ISOLATION"}, ("data_security_mode, the value must be one of SINGLE_USER",)),
        ({"spark_conf": {"spark.speculation": "true"}}, ("spark_conf.spark.speculation, the value must be false",)),
    ],
)
def test_manual_cluster_is_refused_with_the_broken_policy_rules(
    workspace: WorkspaceClient, policy_id: str, asked: dict[str, object], rules: tuple[str, ...]
) -> None:
    known = len(list(workspace.clusters.list()))
    wanted = cluster(**BY_HAND | asked).as_shallow_dict()
    with pytest.raises(InvalidParameterValue, match=r"^Cluster validation error: ") as refused:
        workspace.clusters.create(**wanted, policy_id=policy_id)
    assert [rule for rule in rules if f"Validation failed for {rule}" not in str(refused.value)] == []
    assert len(list(workspace.clusters.list())) == known


def test_manual_cluster_gets_the_fixed_values_of_the_policy(workspace: WorkspaceClient, policy_id: str) -> None:
    made = workspace.clusters.create(**cluster(**BY_HAND).as_shallow_dict(), policy_id=policy_id).result()
    assert made.spark_conf["spark.dynamicAllocation.enabled"] == "false"
    assert (made.azure_attributes.availability.value, made.runtime_engine.value) == ("ON_DEMAND_AZURE", "STANDARD")
    assert made.state == compute.State.RUNNING


def test_a_failed_training_run_is_not_started_again_and_names_its_task_its_reason_and_its_page(
    cloud: Served, workspace: WorkspaceClient, job_id: int
) -> None:
    known = len(list(workspace.jobs.list_runs(job_id=job_id)))
    cloud.faults({"path": RUN_NOW, "operation_failure": QUOTA})
    asked = {"job_id": job_id, "lake_uid": "l", "input_digest": "d", "snapshot": "s", "timeout_minutes": 1}
    with pytest.raises(TrainingFailed) as failed:
        _TrainingRunProvider._run_to_end(workspace, TrainingRunInputs.of(asked), "")
    assert "/databricks/runs/" in str(failed.value)
    assert f"task train: Cluster 'main' was terminated. Reason: {QUOTA['code']}" in str(failed.value)
    assert len(list(workspace.jobs.list_runs(job_id=job_id))) == known + 1


def test_programs_databricks_client_renews_an_expired_token(cloud: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    who = cloud.sandbox.identity
    for name, value in cloud.login.items():
        monkeypatch.setenv(name, value)
    workspace_id = f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
    with cloud.settings(token_lifetime=2):
        program = AzureClients.discover().databricks(cloud.sandbox.authority, workspace_id)
        token = AzureClients.discover().credential().get_token(f"{entra.DATABRICKS}/.default").token
        held = WorkspaceClient(host=cloud.sandbox.url, token=token, auth_type="pat")
        for client in (program, held):
            client.current_user.me()
        time.sleep(2)
        assert program.current_user.me().user_name == who.client_id
        with pytest.raises(PermissionDenied, match="expired"):
            held.current_user.me()


@pytest.mark.parametrize(
    "variables",
    [
        {"DATABRICKS_TOKEN": "dapi0"},
        {"DATABRICKS_CLIENT_ID": "c", "DATABRICKS_CLIENT_SECRET": "s", "DATABRICKS_TOKEN": "dapi0"},
        {"DATABRICKS_HOST": "https://other.example", "DATABRICKS_AUTH_TYPE": "pat"},
        {"DATABRICKS_CONFIG_PROFILE": "absent", "DATABRICKS_CONFIG_FILE": __file__},
        {"DATABRICKS_WORKSPACE_ID": "1", "DATABRICKS_ACCOUNT_ID": "a", "DATABRICKS_CLOUD": "AWS"},
    ],
    ids=lambda it: "-".join(it),
)
def test_variables_of_other_databricks_programs_do_not_change_the_login(
    cloud: Served, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    who = cloud.sandbox.identity
    for name, value in cloud.login.items():
        monkeypatch.setenv(name, value)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    workspace_id = f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
    client = AzureClients.discover().databricks(cloud.sandbox.authority, workspace_id)
    assert client.current_user.me().user_name == who.client_id
    assert "X-Databricks-Workspace-Id" not in client.config.authenticate()
    assert client.config.workspace_id is None


def test_the_programs_client_works_as_the_first_of_its_process(cloud: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    who = cloud.sandbox.identity
    for name, value in cloud.login.items():
        monkeypatch.setenv(name, value)
    workspace_id = f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
    program = f"""
from infra.cloud.clients import AzureClients
client = AzureClients.discover().databricks("{cloud.sandbox.authority}", "{workspace_id}")
print(client.current_user.me().user_name)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == who.client_id, done.stderr[-2000:]
