"""Job runs of the sandbox's Databricks, with real Spark in local processes, through the unmodified SDK."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service import compute, jobs
from databricks.sdk.service.jobs import RunLifeCycleState as Life
from databricks.sdk.service.jobs import RunResultState as Result
from databricks.sdk.service.workspace import ImportFormat, Language

from testing.sandbox.data import Served
from testing.sandbox.databricks import (
    WHEEL,
    cluster,
    connect,
    create,
    finished,
    lake_workspace,
    task,
    trusted,
    upload_wheel,
)
from testing.waiting import eventually

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture(scope="module")
def workspace(cloud: Served) -> WorkspaceClient:
    client = lake_workspace(cloud)
    upload_wheel(client)
    return client


def outputs(workspace: WorkspaceClient, run: jobs.Run) -> dict[str, jobs.RunOutput]:
    return {task.task_key: workspace.jobs.get_run_output(task.run_id) for task in run.tasks}


def states(run: jobs.Run) -> dict[str, tuple[Life, Result]]:
    return {task.task_key: (task.state.life_cycle_state, task.state.result_state) for task in run.tasks}


def waiting(workspace: WorkspaceClient, folder: Path, **options: object) -> tuple[int, int]:
    """A run with a waiting task, and the process id of its driver, which is also its process group's."""
    mark = folder / "pid"
    run_id = workspace.jobs.run_now(create(workspace, task("wait", str(mark), **options))).run_id
    return run_id, int(eventually(lambda: mark.read_text() if mark.exists() else "", seconds=240))


NOTEBOOK = """# Databricks notebook source
# MAGIC %md
# MAGIC # Count
# COMMAND ----------
dbutils.widgets.text("rows", "1")
dbutils.widgets.text("colour", "red")
print(dbutils.widgets.get("rows"), spark.range(7).count(), dbutils.widgets.get("colour"), open("beside.txt").read())
# COMMAND ----------
print(dbutils.secrets.get("shop", "key"))
display(spark.range(2).selectExpr("id", "'<b>' AS text"))
# COMMAND ----------
dbutils.notebook.exit(dbutils.widgets.get("rows")) if dbutils.widgets.get("colour") == "blue" else {}["absent"]
# COMMAND ----------
raise RuntimeError("after the end")
"""


def test_notebooks_run_in_a_kernel_on_the_clusters_spark(workspace: WorkspaceClient) -> None:
    """Widgets, secrets and files of its folder work as on Databricks; a run ends with `exit` or the failed cell."""
    files = workspace.workspace
    files.mkdirs("/Shared/notebooks")
    files.upload("/Shared/notebooks/count", NOTEBOOK.encode(), format=ImportFormat.SOURCE, language=Language.PYTHON)
    files.upload("/Shared/notebooks/beside.txt", b"found", format=ImportFormat.AUTO)
    workspace.secrets.create_scope("shop")
    workspace.secrets.put_secret("shop", "key", string_value="do-not-show")

    def notebook(name: str, **parameters: str) -> jobs.Task:
        of = jobs.NotebookTask("/Shared/notebooks/count", {"rows": "/Volumes/main/clicks/raw/x", **parameters})
        return jobs.Task(name, job_cluster_key="main", notebook_task=of)

    run_id = workspace.jobs.run_now(create(workspace, notebook("ends", colour="blue"), notebook("fails"))).run_id
    run = finished(workspace, run_id)
    ended = outputs(workspace, run)
    assert {key: result for key, (_, result) in states(run).items()} == {"ends": Result.SUCCESS, "fails": Result.FAILED}
    assert ended["ends"].notebook_output.result.endswith("accounts/lake/raw/x")
    assert ended["fails"].error == "KeyError: 'absent'"
    assert '{}["absent"]' in ended["fails"].error_trace
    for task_run in run.tasks:
        (view,) = workspace.jobs.export_run(task_run.run_id).views
        assert view.name == "count"
        for shown in ("Count", " 7 ", "found", "[REDACTED]", "&lt;b&gt;"):
            assert shown in view.content
        assert "do-not-show" not in view.content
        assert "RuntimeError: after" not in view.content


def all_ended(group: int) -> None:
    """Assert that no process of the group is left, neither Python nor its JVM."""

    def gone() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    eventually(gone)


def test_cluster_sends_requests_from_the_network_of_its_workspace(cloud: Served, workspace: WorkspaceClient) -> None:
    vnet = cloud.put("Microsoft.Network/virtualNetworks/vnet", properties={})
    parameters = {"customVirtualNetworkId": {"value": vnet}}
    cloud.put("Microsoft.Databricks/workspaces/ws", location="westeurope", properties={"parameters": parameters})
    run = finished(workspace, workspace.jobs.run_now(create(workspace, task("network"))).run_id)
    cloud.put("Microsoft.Databricks/workspaces/ws", location="westeurope", properties={})
    assert outputs(workspace, run)["network"].logs.startswith("by http://vnet:")


def test_tasks_of_a_job_cluster_run_in_order_on_one_driver_with_its_definition(
    cloud: Served, workspace: WorkspaceClient
) -> None:
    features = "/Volumes/main/clicks/features/{{job.parameters.snapshot}}-{{job.run_id}}"
    job_id = create(
        workspace,
        task("count", features, after=("prepare",)),
        task("prepare", f"--out={features}", "{{job.id}} {{task.name}} {{job.start_time.iso_date}}"),
        parameters=[jobs.JobParameterDefinition("s0", "snapshot")],
    )
    run = finished(workspace, workspace.jobs.run_now(job_id, job_parameters={"snapshot": "s1"}).run_id)
    assert (run.state.life_cycle_state, run.state.result_state) == (Life.TERMINATED, Result.SUCCESS)
    logs = {key: output.logs.split() for key, output in outputs(workspace, run).items()}
    assert logs["prepare"][2:5] == ["7", "blue", str(job_id)]
    assert logs["count"][1] == "100"
    assert logs["prepare"][1] == logs["count"][3]
    written = cloud.sandbox.container_folder("lake", "features") / f"s1-{run.run_id}"
    assert {found.suffix for found in written.iterdir()} == {".parquet", ""}
    # A driver's temporary files may vanish while a page is rendered, so the page must not search them for logs.
    (cloud.sandbox.folder / "runs" / str(run.run_id) / "main/1/warehouse/not-ours.log").write_text("a table's own")
    page = requests.get(run.run_page_url, timeout=10).text
    assert "TERMINATED SUCCESS" in page
    assert "rows 100" in page
    assert [line for line in page.splitlines() if line.startswith("---")] == [
        "--- count.log (its end)",
        "--- driver.log (its end)",
        "--- prepare.log (its end)",
    ]
    all_ended(int(logs["count"][3]))


def test_run_on_an_existing_cluster_has_its_definition_and_libraries_and_starts_it(
    workspace: WorkspaceClient,
) -> None:
    made = workspace.clusters.create(**cluster().as_shallow_dict(), cluster_name="interactive").response.cluster_id
    workspace.libraries.install(made, [compute.Library(whl=WHEEL)])
    workspace.clusters.delete(made).result()
    features = "/Volumes/main/clicks/features/{{job.run_id}}"
    tasks = [task("prepare", f"--out={features}", "x"), task("count", features, after=("prepare",))]
    for each in tasks:
        each.job_cluster_key, each.existing_cluster_id, each.libraries = None, made, None
    run = finished(workspace, workspace.jobs.run_now(create(workspace, *tasks)).run_id)
    logs = {key: output.logs.split() for key, output in outputs(workspace, run).items()}
    assert logs["prepare"][2:4] == ["7", "blue"]
    assert logs["count"][:2] == ["rows", "100"]
    assert logs["prepare"][1] == logs["count"][3]
    assert workspace.clusters.get(made).state == compute.State.RUNNING
    workspace.clusters.permanent_delete(made)
    with pytest.raises(InvalidParameterValue, match=f"Cluster {made} does not exist"):
        create(workspace, *tasks)
    gone = finished(workspace, workspace.jobs.run_now(run.job_id).run_id)
    assert f"Cluster {made} does not exist" in gone.state.state_message


def test_failing_task_reports_its_reason_and_stops_dependent_tasks(workspace: WorkspaceClient, tmp_path: Path) -> None:
    job_id = create(
        workspace,
        task("refuse"),
        task("code"),
        task("crash"),
        task("once", str(tmp_path / "mark"), max_retries=1),
        task("count", after=("refuse",)),
    )
    run = finished(workspace, workspace.jobs.run_now(job_id).run_id)
    assert (run.state.life_cycle_state, run.state.result_state) == (Life.INTERNAL_ERROR, Result.FAILED)
    assert "Task refuse failed with message: Workload failed" in run.state.state_message
    assert states(run) == {
        "refuse": (Life.TERMINATED, Result.FAILED),
        "code": (Life.TERMINATED, Result.FAILED),
        "crash": (Life.TERMINATED, Result.FAILED),
        "once": (Life.TERMINATED, Result.SUCCESS),
        "count": (Life.SKIPPED, Result.UPSTREAM_FAILED),
    }
    found = outputs(workspace, run)
    assert found["refuse"].error == "no such dataset: foo"
    assert found["code"].error.splitlines() == ["the disk is full", "SystemExit: 3"]
    assert found["crash"].error == "KeyError: 'absent'"
    assert "tiny.py" in found["crash"].error_trace
    assert found["once"].error is None


def test_cancelled_run_ends_with_all_its_processes(workspace: WorkspaceClient, tmp_path: Path) -> None:
    run_id, group = waiting(workspace, tmp_path)
    assert workspace.jobs.get_run(run_id).state.life_cycle_state == Life.RUNNING
    assert [run.run_id for run in workspace.jobs.list_runs(active_only=True)] == [run_id]
    run = workspace.jobs.cancel_run_and_wait(run_id)
    assert states(run) == {"wait": (Life.TERMINATED, Result.CANCELED)}
    assert run.state.result_state == Result.CANCELED
    all_ended(group)


SLOW_TO_END = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: time.sleep(600))
(folder / "ready").touch()
while not (folder / "0.json").exists():
    time.sleep(0.02)
if {ends}:
    (folder / "0.result.json").write_text('{{"error": null}}')
time.sleep(600)
"""


@pytest.mark.parametrize("ends", [True, False])
def test_driver_that_records_the_class_archive_delays_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """The driver here is a stand-in: it waits instead of a JVM that writes for a long time."""
    (tmp_path / "driver.py").write_text(SLOW_TO_END.format(ends=ends))
    monkeypatch.setattr("sandbox.databricks.execution.cluster._DRIVER", tmp_path / "driver.py")
    monkeypatch.setattr("sandbox.class_archive.is_missing", lambda: True)
    with trusted(tmp_path / "sandbox") as cloud:
        client = lake_workspace(cloud)
        library = compute.Library(maven=compute.MavenLibrary("group:nothing:1"))
        run_id = client.jobs.run_now(create(client, task("count", libraries=[library]))).run_id
        if ends:
            assert finished(client, run_id).state.result_state == Result.SUCCESS
        else:
            eventually(
                lambda: client.jobs.get_run(run_id).state.life_cycle_state, lambda state: state == Life.RUNNING, 240
            )
        (folder,) = (tmp_path / "sandbox" / "runs").glob("*/main/1")
        assert (folder / "tmp").exists()
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert not (folder / "tmp").exists()


def test_killed_driver_fails_its_task_with_the_reason(workspace: WorkspaceClient, tmp_path: Path) -> None:
    run_id, group = waiting(workspace, tmp_path)
    os.kill(group, signal.SIGKILL)
    run = finished(workspace, run_id)
    assert states(run) == {"wait": (Life.INTERNAL_ERROR, Result.FAILED)}
    assert "was killed by SIGKILL" in run.state.state_message
    all_ended(group)


def test_task_that_outlasts_its_timeout_is_stopped(workspace: WorkspaceClient, tmp_path: Path) -> None:
    job_id = create(workspace, task("wait", str(tmp_path / "pid"), timeout_seconds=1))
    run = finished(workspace, workspace.jobs.run_now(job_id).run_id)
    assert states(run) == {"wait": (Life.TERMINATED, Result.TIMEDOUT)}


def test_run_beyond_the_limit_waits_or_is_skipped(workspace: WorkspaceClient, tmp_path: Path) -> None:
    for queue, second in ((True, Life.QUEUED), (False, Life.SKIPPED)):
        job_id = create(workspace, task("wait", str(tmp_path / "pid")), queue=jobs.QueueSettings(queue))
        runs = [workspace.jobs.run_now(job_id).run_id for _ in range(2)]
        assert workspace.jobs.get_run(runs[1]).state.life_cycle_state == second
        for run_id in runs:
            workspace.jobs.cancel_run(run_id)
            finished(workspace, run_id)


def test_cluster_that_cannot_resolve_its_packages_fails_the_task_with_the_reason(workspace: WorkspaceClient) -> None:
    library = compute.Library(maven=compute.MavenLibrary("no.such.group:nothing:1", repo="https://127.0.0.1:9/maven"))
    run = finished(workspace, workspace.jobs.run_now(create(workspace, task("count", libraries=[library]))).run_id)
    assert states(run) == {"count": (Life.INTERNAL_ERROR, Result.FAILED)}
    assert "unresolved dependency: no.such.group#nothing;1: not found" in run.state.state_message


def test_runs_end_with_the_sandbox_and_their_records_outlive_it(tmp_path: Path) -> None:
    with trusted(tmp_path / "sandbox") as cloud:
        workspace = lake_workspace(cloud)
        upload_wheel(workspace)
        run_id, group = waiting(workspace, tmp_path)
    all_ended(group)
    with trusted(tmp_path / "sandbox", port=cloud.sandbox.port) as again:
        run = connect(again).jobs.get_run(run_id)
        assert states(run) == {"wait": (Life.INTERNAL_ERROR, Result.FAILED)}
        assert run.state.state_message == "the sandbox was stopped while it ran"
