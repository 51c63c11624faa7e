"""Unity Catalog, files and job definitions of the sandbox's Databricks, with the unmodified SDK."""

import base64
import io
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import (
    AlreadyExists,
    BadRequest,
    DatabricksError,
    InvalidParameterValue,
    NotFound,
    PermissionDenied,
)
from databricks.sdk.service import compute, iam, jobs
from databricks.sdk.service.jobs import RunLifeCycleState as Life
from databricks.sdk.service.jobs import RunResultState as Result
from databricks.sdk.service.workspace import ImportFormat, Language, ObjectType

from sandbox.identity import entra
from testing.sandbox.data import Served, put_as_written
from testing.sandbox.databricks import (
    cluster,
    connect,
    create,
    finished,
    identity,
    lake_workspace,
    task,
    trusted,
    url,
    volume,
)
from testing.waiting import eventually


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture(scope="module")
def workspace(cloud: Served) -> WorkspaceClient:
    return lake_workspace(cloud)


def test_token_is_needed_and_must_be_for_databricks(cloud: Served, workspace: WorkspaceClient) -> None:
    assert workspace.current_user.me().user_name == cloud.sandbox.identity.client_id
    with pytest.raises(PermissionDenied, match="audience"):
        WorkspaceClient(host=cloud.sandbox.url, token=cloud.token(entra.STORAGE), auth_type="pat").current_user.me()
    answer = requests.get(f"{cloud.sandbox.url}/api/2.2/jobs/list", timeout=10)
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")


def test_request_must_name_one_of_two_workspaces(tmp_path: Path) -> None:
    with trusted(tmp_path) as cloud:
        first = cloud.put("Microsoft.Databricks/workspaces/one", properties={})
        cloud.put("Microsoft.Databricks/workspaces/two", properties={})
        with pytest.raises(InvalidParameterValue, match="X-Databricks-Azure-Workspace-Resource-Id"):
            list(connect(cloud).jobs.list())
        header = {
            "X-Databricks-Azure-Workspace-Resource-Id": first,
            "Authorization": f"Bearer {cloud.token(entra.DATABRICKS)}",
        }
        assert requests.get(f"{cloud.sandbox.url}/api/2.2/jobs/list", headers=header, timeout=10).json() == {
            "jobs": [],
            "has_more": False,
        }


def test_external_location_needs_a_role_for_the_access_connector(cloud: Served, workspace: WorkspaceClient) -> None:
    account = cloud.account("other", "raw")
    connector = cloud.connector("second", "22222222-2222-2222-2222-222222222222")
    workspace.storage_credentials.create("second", azure_managed_identity=identity(connector))
    with pytest.raises(PermissionDenied, match="Storage Blob Data Contributor"):
        workspace.external_locations.create("other", url(cloud, "raw", "other"), "second")
    cloud.assign(account, "22222222-2222-2222-2222-222222222222")
    workspace.external_locations.create("other", url(cloud, "raw", "other"), "second")
    with pytest.raises(BadRequest, match="in use by: other"):
        workspace.storage_credentials.delete("second")
    workspace.external_locations.delete("other")
    workspace.storage_credentials.delete("second")


def test_catalog_refuses_locations_that_the_lake_lacks(cloud: Served, workspace: WorkspaceClient) -> None:
    with pytest.raises(InvalidParameterValue, match="is not an access connector"):
        workspace.storage_credentials.create("x", azure_managed_identity=identity(f"{cloud.group}/nowhere"))
    with pytest.raises(InvalidParameterValue, match="does not exist"):
        workspace.external_locations.create("x", url(cloud, "absent"), "lake")
    with pytest.raises(NotFound, match="Storage Credential 'absent'"):
        workspace.external_locations.create("x", url(cloud, "raw"), "absent")
    with pytest.raises(NotFound, match="Catalog 'absent'"):
        workspace.schemas.create("x", "absent")
    with pytest.raises(NotFound, match="Volume"):
        workspace.files.upload("/Volumes/main/clicks/absent/x", io.BytesIO(b""))


def test_catalog_requires_a_storage_root(workspace: WorkspaceClient) -> None:
    with pytest.raises(DatabricksError, match="Metastore storage root URL does not exist"):
        workspace.catalogs.create("rootless")


def test_locations_may_not_overlap(cloud: Served, workspace: WorkspaceClient) -> None:
    for container in ("raw", "managed"):
        with pytest.raises(InvalidParameterValue, match="LOCATION_OVERLAP"):
            volume(workspace, cloud, container, "again")
    with pytest.raises(InvalidParameterValue, match="LOCATION_OVERLAP"):
        workspace.external_locations.create("inside", url(cloud, "raw") + "sub", "lake")


def test_catalog_objects_are_listed_changed_and_deleted_only_when_empty(
    cloud: Served, workspace: WorkspaceClient
) -> None:
    cloud.container("lake", "spare")
    workspace.external_locations.create("spare", url(cloud, "spare"), "lake")
    workspace.catalogs.create("brief", storage_root=url(cloud, "spare"))
    with pytest.raises(BadRequest, match="already exists"):
        workspace.catalogs.create("Brief", storage_root=url(cloud, "spare"))
    assert workspace.catalogs.update("brief", comment="c").comment == "c" == workspace.catalogs.get("brief").comment
    assert [found.name for found in workspace.schemas.list("brief")] == ["default"]
    with pytest.raises(BadRequest, match=r"brief\.default"):
        workspace.catalogs.delete("brief")
    workspace.catalogs.delete("brief", force=True)
    workspace.external_locations.delete("spare")
    with pytest.raises(NotFound):
        workspace.catalogs.get("brief")
    assert [found.full_name for found in workspace.volumes.list("main", "clicks")] == [
        "main.clicks.features",
        "main.clicks.raw",
    ]


def test_volume_is_the_container(cloud: Served, workspace: WorkspaceClient) -> None:
    path = "/Volumes/main/clicks/raw/movielens/2024/ml.inter"
    workspace.files.upload(path, io.BytesIO(b"rows"))
    assert (cloud.sandbox.container_folder("lake", "raw") / "movielens/2024/ml.inter").read_bytes() == b"rows"
    with pytest.raises(AlreadyExists):
        workspace.files.upload(path, io.BytesIO(b"other"), overwrite=False)
    contents = workspace.files.download(path).contents
    assert contents is not None
    assert contents.read() == b"rows"
    assert workspace.files.get_metadata(path).content_length == 4
    listed = list(workspace.files.list_directory_contents("/Volumes/main/clicks/raw/movielens"))
    assert [(found.path, found.is_directory) for found in listed] == [("/Volumes/main/clicks/raw/movielens/2024", True)]
    removed = cloud.sandbox.container_folder("lake", "raw") / "movielens/2024/removed-while-one-looks"
    removed.symlink_to("nowhere")
    assert [found.path for found in workspace.files.list_directory_contents(path.rpartition("/")[0])] == [path]
    removed.unlink()
    with pytest.raises(BadRequest, match="not empty"):
        workspace.files.delete_directory("/Volumes/main/clicks/raw/movielens/2024")
    workspace.files.delete(path)
    workspace.files.delete_directory("/Volumes/main/clicks/raw/movielens/2024")
    workspace.files.create_directory("/Volumes/main/clicks/raw/new/deep")
    workspace.files.get_directory_metadata("/Volumes/main/clicks/raw/new/deep")
    for call in (workspace.files.get_metadata, workspace.files.download):
        with pytest.raises(NotFound):
            call(path)
    outside = put_as_written(cloud, "/api/2.0/fs/files/Volumes/main/clicks/raw/%2e%2e/%2e%2e/x", entra.DATABRICKS)
    assert outside.startswith(b"HTTP/1.1 400")


def test_file_too_large_for_one_part_arrives_whole(cloud: Served, workspace: WorkspaceClient) -> None:
    content = os.urandom(1 << 20) * 51
    workspace.files.upload("/Volumes/main/clicks/raw/big", io.BytesIO(content))
    assert (cloud.sandbox.container_folder("lake", "raw") / "big").read_bytes() == content


def test_workspace_files_keep_what_was_imported(workspace: WorkspaceClient) -> None:
    files = workspace.workspace
    with pytest.raises(NotFound, match="parent folder"):
        files.upload("/Workspace/Shared/a/x.whl", b"1", format=ImportFormat.AUTO)
    files.mkdirs("/Workspace/Shared/a")
    files.upload("/Workspace/Shared/a/x.whl", b"1", format=ImportFormat.AUTO)
    with pytest.raises(DatabricksError, match="already exists"):
        files.upload("/Shared/a/x.whl", b"2", format=ImportFormat.AUTO)
    with pytest.raises(DatabricksError, match="format AUTO"):
        files.upload("/Shared/a/y", b"2", format=ImportFormat.JUPYTER)
    with pytest.raises(DatabricksError, match="language PYTHON"):
        files.upload("/Shared/a/y", b"2", format=ImportFormat.SOURCE, language=Language.SCALA)
    files.upload("/Shared/a/x.whl", b"2", format=ImportFormat.AUTO, overwrite=True)
    assert files.download("/Workspace/Shared/a/x.whl").read() == b"2"
    assert [found.path for found in files.list("/Shared/a")] == ["/Shared/a/x.whl"]
    assert files.get_status("/Shared/a/x.whl").size == 1
    with pytest.raises(BadRequest, match="not empty"):
        files.delete("/Shared/a")
    files.delete("/Shared/a", recursive=True)
    with pytest.raises(NotFound):
        files.get_status("/Shared/a")


def test_notebook_is_distinguished_from_a_file_and_has_no_extension(workspace: WorkspaceClient) -> None:
    files, source = workspace.workspace, b"# Databricks notebook source\nprint(1)\n"
    files.mkdirs("/Shared/n")
    files.upload("/Shared/n/given", source, format=ImportFormat.SOURCE, language=Language.PYTHON)
    files.upload("/Shared/n/plain", b"print(1)\n", format=ImportFormat.SOURCE, language=Language.PYTHON)
    files.upload("/Shared/n/found.py", source, format=ImportFormat.AUTO)
    files.upload("/Shared/n/module.py", b"print(1)\n", format=ImportFormat.AUTO)
    kinds = {found.path.rpartition("/")[2]: found.object_type for found in files.list("/Shared/n")}
    notebooks = dict.fromkeys(("given", "plain", "found"), ObjectType.NOTEBOOK)
    assert kinds == notebooks | {"module.py": ObjectType.FILE}
    assert files.download("/Shared/n/plain").read() == source


def test_secrets_are_stored_by_scope_and_lists_do_not_contain_them(cloud: Served, workspace: WorkspaceClient) -> None:
    secrets = workspace.secrets
    with pytest.raises(NotFound, match="Scope shop does not exist"):
        secrets.put_secret("shop", "key", string_value="x")
    secrets.create_scope("shop")
    with pytest.raises(DatabricksError, match="already exists"):
        secrets.create_scope("shop")
    secrets.put_secret("shop", "key", string_value="old")
    secrets.put_secret("shop", "key", string_value="grün")
    assert base64.b64decode(secrets.get_secret("shop", "key").value).decode() == "grün"
    assert [scope.name for scope in secrets.list_scopes()] == ["shop"]
    (listed,) = secrets.list_secrets("shop")
    assert set(listed.as_dict()) == {"key", "last_updated_timestamp"}
    (kept,) = (cloud.sandbox.folder / "databricks").glob("*/secrets/shop/key")
    assert kept.stat().st_mode & 0o077 == 0
    with pytest.raises(DatabricksError, match="is not a name of"):
        secrets.create_scope("..")
    secrets.delete_secret("shop", "key")
    with pytest.raises(NotFound, match="Secret does not exist"):
        secrets.get_secret("shop", "key")
    secrets.delete_scope("shop")
    assert list(secrets.list_scopes()) == []


def unrunnable() -> jobs.Task:
    """A task that fails at once, before any Spark starts."""
    return task("absent", libraries=[compute.Library(pypi=compute.PythonPyPiLibrary("no-such-package==1"))])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spark_version": "16.4.x-scala9"}, "Invalid spark version 16.4.x-scala9"),
        ({"spark_version": "17.3.x-scala2.13"}, "the sandbox has 3.5"),
        ({"num_workers": 0}, "single node"),
        ({"num_workers": None}, "exactly one of num_workers and autoscale"),
        ({"node_type_id": None}, "Missing required field 'node_type_id'"),
    ],
)
def test_invalid_cluster_definition_is_refused(
    workspace: WorkspaceClient, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidParameterValue, match=reason):
        create(workspace, task("prepare"), cluster=cluster(**changes))


def test_job_with_invalid_tasks_is_refused(workspace: WorkspaceClient) -> None:
    query = jobs.Task("n", job_cluster_key="main", sql_task=jobs.SqlTask("warehouse"))
    for tasks, reason in (
        ([], "at least one"),
        ([task("prepare"), task("prepare")], "a unique task_key"),
        ([task("prepare", after=("absent",))], "absent"),
        ([task("prepare", after=("count",)), task("count", after=("prepare",))], "cycle"),
        ([query], "sql_task"),
    ):
        with pytest.raises(InvalidParameterValue, match=reason):
            create(workspace, *tasks)


def test_jobs_are_found_by_name_changed_and_deleted(workspace: WorkspaceClient) -> None:
    schedule = jobs.CronSchedule("0 0 5 * * ?", "UTC")
    job_id = create(workspace, task("prepare"), schedule=schedule)
    workspace.jobs.update(job_id, new_settings=jobs.JobSettings(name="Nightly", tasks=[task("count")]))
    settings = workspace.jobs.get(job_id).settings
    assert settings is not None
    assert ([t.task_key for t in settings.tasks or []], settings.schedule) == (["prepare", "count"], schedule)
    workspace.jobs.reset(job_id, jobs.JobSettings.from_dict(settings.as_dict() | {"max_concurrent_runs": 3}))
    assert [found.job_id for found in workspace.jobs.list(name="nightly")] == [job_id]
    workspace.jobs.delete(job_id)
    assert list(workspace.jobs.list(name="Nightly")) == []
    with pytest.raises(NotFound):
        workspace.jobs.get(job_id)
    with pytest.raises(NotFound):
        workspace.jobs.get_run(1)


def test_lists_are_paged_newest_first(workspace: WorkspaceClient) -> None:
    made = [create(workspace, unrunnable()) for _ in range(5)]
    found = [job.job_id for job in workspace.jobs.list(limit=2)]
    assert [job_id for job_id in found if job_id in made] == made[::-1]
    runs = [workspace.jobs.run_now(made[0]).run_id for _ in range(3)]
    assert [run.run_id for run in workspace.jobs.list_runs(job_id=made[0], limit=2)] == runs[::-1]
    for job_id in made:
        workspace.jobs.delete(job_id)


def test_idempotency_token_returns_its_run_even_if_it_failed(workspace: WorkspaceClient) -> None:
    job_id = create(workspace, unrunnable())
    first = workspace.jobs.run_now(job_id, idempotency_token="digest").run_id
    assert finished(workspace, first).state.result_state == Result.FAILED
    assert workspace.jobs.run_now(job_id, idempotency_token="digest").run_id == first
    assert workspace.jobs.run_now(job_id, idempotency_token="other").run_id != first
    workspace.jobs.delete_run(first)
    with pytest.raises(InvalidParameterValue, match="deleted"):
        workspace.jobs.run_now(job_id, idempotency_token="digest")
    with pytest.raises(InvalidParameterValue, match="at most 64"):
        workspace.jobs.run_now(job_id, idempotency_token="x" * 65)


def test_library_that_this_machine_lacks_fails_the_task_by_name(workspace: WorkspaceClient) -> None:
    run = finished(workspace, workspace.jobs.run_now(create(workspace, unrunnable())).run_id)
    assert run.tasks[0].state.life_cycle_state == Life.INTERNAL_ERROR
    assert "no-such-package" in run.tasks[0].state.state_message
    with pytest.raises(InvalidParameterValue, match="each individual task run"):
        workspace.jobs.get_run_output(run.run_id)
    assert "no-such-package" in workspace.jobs.get_run_output(run.tasks[0].run_id).error


def test_deleted_workspace_deletes_its_jobs_and_files_and_leaves_the_lake(tmp_path: Path) -> None:
    with trusted(tmp_path) as cloud:
        workspace = lake_workspace(cloud)
        workspace.files.upload("/Volumes/main/clicks/raw/x", io.BytesIO(b"1"))
        create(workspace, unrunnable())
        address = f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
        header = {"Authorization": f"Bearer {cloud.token(cloud.sandbox.url)}"}
        gone = requests.delete(f"{cloud.sandbox.url}{address}?api-version=2026-01-01", headers=header, timeout=10)
        assert gone.status_code in (200, 202)
        eventually(lambda: cloud.sandbox.store.get(address), lambda found: found is None, 20)
        with pytest.raises(NotFound, match="no Databricks workspace"):
            list(workspace.jobs.list())
        cloud.put("Microsoft.Databricks/workspaces/ws", properties={})
        assert list(workspace.jobs.list()) == list(workspace.catalogs.list()) == []
        assert (cloud.sandbox.container_folder("lake", "raw") / "x").exists()


def test_cluster_is_edited_only_if_not_starting_and_accepts_libraries_at_any_time(workspace: WorkspaceClient) -> None:
    shape = cluster().as_shallow_dict()
    cluster_id = workspace.clusters.create(**shape, autotermination_minutes=10).response.cluster_id
    with pytest.raises(BadRequest, match=f"Cluster {cluster_id} is in unexpected state Pending"):
        workspace.clusters.edit(cluster_id, **shape)
    workspace.libraries.install(cluster_id, [compute.Library(whl="/Workspace/a.whl")])
    workspace.libraries.uninstall(cluster_id, [compute.Library(whl="/Workspace/a.whl")])
    (leaving,) = workspace.libraries.cluster_status(cluster_id)
    assert leaving.status == compute.LibraryInstallStatus.UNINSTALL_ON_RESTART
    workspace.clusters.delete(cluster_id).result()
    assert list(workspace.libraries.cluster_status(cluster_id)) == []
    workspace.libraries.install(cluster_id, [compute.Library(whl="/Workspace/a.whl")])
    (waiting,) = workspace.libraries.cluster_status(cluster_id)
    assert waiting.status == compute.LibraryInstallStatus.PENDING
    assert workspace.clusters.get(cluster_id).state == compute.State.TERMINATED
    workspace.libraries.uninstall(cluster_id, [compute.Library(whl="/Workspace/a.whl")])
    assert list(workspace.libraries.cluster_status(cluster_id)) == []
    workspace.clusters.edit(cluster_id, **shape, autotermination_minutes=20)
    assert workspace.clusters.start(cluster_id).result().autotermination_minutes == 20
    with pytest.raises(InvalidParameterValue, match="from 10 to 10000"):
        workspace.clusters.create(**shape, autotermination_minutes=5)
    workspace.clusters.permanent_delete(cluster_id)
    with pytest.raises(NotFound, match="does not exist"):
        workspace.clusters.get(cluster_id)


def test_unknown_policy_rules_and_permission_levels_are_refused(
    workspace: WorkspaceClient,
) -> None:
    for definition in (
        '{"node_type_id": {"type": "regex", "pattern": "."}}',
        '{"spark_conf.*": {"type": "forbidden"}}',
    ):
        with pytest.raises(InvalidParameterValue, match="the sandbox has rules of type"):
            workspace.cluster_policies.create(name="odd", definition=definition)
    with pytest.raises(InvalidParameterValue, match="not a JSON document"):
        workspace.cluster_policies.create(name="odd", definition="{")
    listed = workspace.cluster_policies.create(name="listed", definition="[]").policy_id
    with pytest.raises(InvalidParameterValue, match="malformed policy definition"):
        workspace.clusters.create(**cluster(policy_id=listed).as_shallow_dict())
    fixed = '{"cluster_type": {"type": "fixed", "value": "all-purpose"}}'
    policy_id = workspace.cluster_policies.create(name="people", definition=fixed).policy_id
    with pytest.raises(InvalidParameterValue, match="already exists"):
        workspace.cluster_policies.create(name="people", definition=fixed)
    with pytest.raises(InvalidParameterValue, match='cluster_type, the value must be all-purpose \\(is "job"\\)'):
        create(workspace, task("count"), cluster=cluster(policy_id=policy_id))
    grant = iam.AccessControlRequest("team", iam.PermissionLevel.CAN_RESTART)
    with pytest.raises(
        InvalidParameterValue, match="CAN_RESTART is not a permission level of a cluster-policy: CAN_USE"
    ):
        workspace.permissions.set("cluster-policies", str(policy_id), access_control_list=[grant])


def test_killed_mlflow_answers_again_at_its_address(cloud: Served, workspace: WorkspaceClient) -> None:
    page = requests.get(f"{cloud.sandbox.url}/ml/experiments/1", allow_redirects=False, timeout=10)
    port = int(page.headers["location"].partition("/#")[0].rpartition(":")[2])

    def tracking_server() -> psutil.Process | None:
        for process in psutil.Process().children():
            with suppress(psutil.Error):
                if "mlflow.server.fastapi_app:app" in process.cmdline():
                    return process
        return None

    socket.create_connection(("127.0.0.1", port)).close()
    first = eventually(tracking_server)
    assert first is not None
    first.kill()
    eventually(lambda: first.is_running() and first.status() != psutil.STATUS_ZOMBIE, lambda alive: not alive)

    def connected() -> bool:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    assert eventually(connected)


@pytest.mark.parametrize("content", ["", "99999"])
def test_unreadable_tracking_port_is_chosen_again(tmp_path: Path, content: str) -> None:
    with trusted(tmp_path) as cloud:
        lake_workspace(cloud)
        requests.get(f"{cloud.sandbox.url}/ml/experiments/1", allow_redirects=False, timeout=10)
    (file,) = tmp_path.glob("databricks/*/tracking/port")
    file.write_text(content)
    with trusted(tmp_path, port=cloud.sandbox.port) as again:
        page = requests.get(f"{again.sandbox.url}/ml/experiments/1", allow_redirects=False, timeout=10)
    assert f"//127.0.0.1:{file.read_text()}/" in page.headers["location"]


def test_folder_inherits_permissions(workspace: WorkspaceClient) -> None:
    def permissions(path: str) -> list[tuple[str | None, str | None, bool | None]]:
        found = workspace.permissions.get("directories", str(workspace.workspace.get_status(path).object_id))
        return [
            (entry.group_name, level.permission_level and level.permission_level.value, level.inherited)
            for entry in found.access_control_list or []
            for level in entry.all_permissions or []
        ]

    for path in ("/code/a", "/Shared/a"):
        workspace.workspace.mkdirs(path)
    folder = str(workspace.workspace.get_status("/code").object_id)
    team = iam.AccessControlRequest(group_name="team", permission_level=iam.PermissionLevel.CAN_READ)
    workspace.permissions.set("directories", folder, access_control_list=[team])
    assert permissions("/code") == [("team", "CAN_READ", None)]
    assert permissions("/code/a") == [("team", "CAN_READ", True)]
    assert permissions("/Shared/a") == [("users", "CAN_MANAGE", True)]
    wrong = iam.AccessControlRequest(group_name="team", permission_level=iam.PermissionLevel.CAN_USE)
    with pytest.raises(InvalidParameterValue, match="CAN_USE is not a permission level of a directory: CAN_READ"):
        workspace.permissions.set("directories", folder, access_control_list=[wrong])
    with pytest.raises(NotFound, match="1 does not exist"):
        workspace.permissions.get("directories", "1")
