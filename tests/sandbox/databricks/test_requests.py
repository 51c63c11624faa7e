"""Requests to Databricks that the current SDK does not send: older versions, access lists, node types."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import DatabricksError, InvalidParameterValue, NotFound
from databricks.sdk.service import catalog, compute, iam, jobs
from databricks.sdk.service import workspace as objects

from testing.sandbox.data import Served
from testing.sandbox.databricks import cluster, create, lake_workspace, task, trusted

OWNER = iam.PermissionLevel.IS_OWNER


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture(scope="module")
def client(cloud: Served) -> WorkspaceClient:
    return lake_workspace(cloud)


@pytest.fixture(scope="module")
def job(client: WorkspaceClient) -> int:
    return create(client, task("count"))


def ask(client: WorkspaceClient, path: str, **query: Any) -> Any:
    return client.api_client.do("GET", path, query=query)


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
def test_jobs_are_found_by_each_version_of_the_api(client: WorkspaceClient, job: int, version: str) -> None:
    (listed,) = ask(client, f"/api/{version}/jobs/list", expand_tasks="true", limit=1, offset=0)["jobs"]
    found = ask(client, f"/api/{version}/jobs/get", job_id=job)
    assert listed["job_id"] == found["job_id"] == job
    assert ("tasks" in found["settings"]) is ("tasks" in listed["settings"]) is (version != "2.0")


def test_jobs_api_2_0_cannot_define_a_job(client: WorkspaceClient) -> None:
    with pytest.raises(InvalidParameterValue, match=r"takes definitions of 2\.1 and 2\.2"):
        client.api_client.do("POST", "/api/2.0/jobs/create", body={"name": "one"})


@pytest.mark.parametrize(("version", "queued"), [("2.1", False), ("2.2", True)])
def test_runs_of_a_job_are_queued_by_default_from_version_2_2_on(
    client: WorkspaceClient, version: str, queued: bool
) -> None:
    shared = {"job_cluster_key": "main", "new_cluster": cluster().as_dict()}
    body = {"name": "queue", "tasks": [task("count").as_dict()], "job_clusters": [shared]}
    made = client.api_client.do("POST", f"/api/{version}/jobs/create", body=body)["job_id"]
    settings = client.jobs.get(made).settings
    assert settings.queue.enabled is queued
    assert settings.tasks[0].run_if == jobs.RunIf.ALL_SUCCESS
    client.jobs.delete(made)


def test_empty_job_list_is_refused(client: WorkspaceClient) -> None:
    with pytest.raises(InvalidParameterValue, match="limit must be"):
        ask(client, "/api/2.2/jobs/list", limit=0)
    assert "runs" in ask(client, "/api/2.2/jobs/runs/list", limit=0)


def test_dedicated_cluster_belongs_to_its_creator_and_has_no_default_autotermination(
    cloud: Served, client: WorkspaceClient
) -> None:
    shape = cluster().as_shallow_dict() | {"data_security_mode": compute.DataSecurityMode.SINGLE_USER}
    made = client.clusters.get(client.clusters.create(**shape).response.cluster_id)
    assert made.single_user_name == cloud.sandbox.identity.client_id
    assert (made.autotermination_minutes, made.driver_node_type_id) == (0, made.node_type_id)
    client.clusters.permanent_delete(made.cluster_id)


def test_scope_is_limited_to_a_thousand_secrets(cloud: Served, client: WorkspaceClient) -> None:
    client.secrets.create_scope("full")
    client.secrets.put_secret("full", "first", string_value="x")
    (folder,) = (cloud.sandbox.folder / "databricks").glob("*/secrets/full")
    for number in range(999):
        (folder / f"key{number}").write_text("x")
    client.secrets.put_secret("full", "first", string_value="again")
    with pytest.raises(DatabricksError, match="1000 secrets"):
        client.secrets.put_secret("full", "more", string_value="x")
    client.secrets.delete_scope("full")


def test_clusters_are_found_by_each_version_of_the_api(client: WorkspaceClient) -> None:
    shape = cluster().as_shallow_dict()
    made = client.clusters.create(**shape, autotermination_minutes=10).response.cluster_id
    for version in ("2.0", "2.1"):
        assert ask(client, f"/api/{version}/clusters/get", cluster_id=made)["cluster_id"] == made


def test_runtimes_and_node_types_are_listed(client: WorkspaceClient) -> None:
    assert "16.4.x-scala2.12" in [version.key for version in client.clusters.spark_versions().versions]
    assert client.clusters.select_spark_version(spark_version="3.5.2", scala="2.12") == "16.4.x-scala2.12"
    node = next(it for it in client.clusters.list_node_types().node_types if it.node_type_id == "Standard_D4s_v5")
    assert (node.num_cores, node.memory_mb) == (4, 16 * 1024)


def test_usage_counts_the_machines_of_a_cluster_while_it_runs(cloud: Served, client: WorkspaceClient) -> None:
    shape = cluster().as_shallow_dict() | {"node_type_id": "Standard_D8s_v5", "num_workers": 2, "is_single_node": None}
    before = used(cloud)
    made = client.clusters.create(**shape, autotermination_minutes=10).response.cluster_id
    assert used(cloud) - before == 8 * (2 + 1)
    client.clusters.delete(made).result()
    assert used(cloud) == before


def used(cloud: Served) -> int:
    """vCPU in use in the region of the workspace."""
    who, headers = cloud.sandbox.identity, {"Authorization": f"Bearer {cloud.token(cloud.sandbox.url)}"}
    path = f"/subscriptions/{who.subscription_id}/providers/Microsoft.Compute/locations/westeurope/usages"
    answer = httpx.get(f"{cloud.sandbox.url}{path}?api-version=2024-07-01", headers=headers, verify=cloud.tls)
    return next(usage["currentValue"] for usage in answer.json()["value"] if usage["name"]["value"] == "cores")


def test_secret_access_lists_are_kept_and_go_with_their_scope(cloud: Served, client: WorkspaceClient) -> None:
    secrets, me = client.secrets, cloud.sandbox.identity.client_id
    secrets.create_scope("listed")
    secrets.put_acl("listed", "team", objects.AclPermission.READ)
    assert {acl.principal: acl.permission.value for acl in secrets.list_acls("listed")} == {
        me: "MANAGE",
        "team": "READ",
    }
    assert secrets.get_acl("listed", "team").permission == objects.AclPermission.READ
    secrets.delete_acl("listed", "team")
    with pytest.raises(NotFound, match="team"):
        secrets.get_acl("listed", "team")
    secrets.delete_scope("listed")
    secrets.create_scope("listed")
    assert [acl.principal for acl in secrets.list_acls("listed")] == [me]


def test_job_has_exactly_one_owner_which_is_not_a_group(cloud: Served, client: WorkspaceClient, job: int) -> None:
    (creator,) = client.permissions.get("jobs", str(job)).access_control_list
    assert creator.service_principal_name == cloud.sandbox.identity.client_id
    viewer = iam.AccessControlRequest(group_name="team", permission_level=iam.PermissionLevel.CAN_VIEW)
    client.permissions.update("jobs", str(job), access_control_list=[viewer])
    assert len(client.permissions.get("jobs", str(job)).access_control_list) == 2
    with pytest.raises(InvalidParameterValue, match="exactly one owner"):
        client.permissions.set("jobs", str(job), access_control_list=[viewer])
    group = iam.AccessControlRequest(group_name="team", permission_level=OWNER)
    with pytest.raises(InvalidParameterValue, match="Groups can not be owners"):
        client.permissions.update("jobs", str(job), access_control_list=[group])


def test_every_user_may_manage_objects_in_the_shared_folder(client: WorkspaceClient) -> None:
    client.workspace.mkdirs("/Shared/wheels")
    client.workspace.mkdirs("/Users/somebody")
    managers = {}
    for path in ("/Shared/wheels", "/Users/somebody"):
        folder = str(client.workspace.get_status(path).object_id)
        entries = client.permissions.get("directories", folder).access_control_list or []
        managers[path] = [(entry.group_name, entry.all_permissions[0].inherited) for entry in entries]
    assert managers == {"/Shared/wheels": [("users", True)], "/Users/somebody": []}


@pytest.mark.parametrize(
    ("path", "described"),
    [
        ("/api/2.1/unity-catalog/catalogs", catalog.CatalogInfo),
        ("/api/2.1/unity-catalog/external-locations", catalog.ExternalLocationInfo),
        ("/api/2.1/unity-catalog/schemas?catalog_name=main", catalog.SchemaInfo),
        ("/api/2.1/unity-catalog/storage-credentials", catalog.StorageCredentialInfo),
        ("/api/2.1/unity-catalog/volumes?catalog_name=main&schema_name=clicks", catalog.VolumeInfo),
        ("/api/2.1/clusters/list", compute.ClusterDetails),
        ("/api/2.1/clusters/list-node-types", compute.NodeType),
        ("/api/2.2/jobs/list", jobs.BaseJob),
    ],
)
def test_answers_have_no_fields_unknown_to_the_sdk(
    client: WorkspaceClient, job: int, path: str, described: type[Any]
) -> None:
    grant = catalog.PermissionsChange(add=[catalog.Privilege.USE_CATALOG], principal="team")
    client.grants.update("catalog", "main", changes=[grant])
    (answers,) = (value for value in ask(client, path).values() if isinstance(value, list))
    assert answers
    known = {field.name for field in dataclasses.fields(described)}
    assert {key for answer in answers for key in answer} - known == set()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/2.0/dbfs/list", "leaves out DBFS"),
        ("/api/2.0/preview/scim/v2/Groups", "leaves out users and groups"),
        ("/api/2.1/unity-catalog/tables", "leaves out tables"),
        ("/api/2.0/nothing/at-all", "No API found for 'GET /api/2.0/nothing/at-all'"),
    ],
)
def test_apis_without_an_emulation_are_refused_by_name(client: WorkspaceClient, path: str, says: str) -> None:
    with pytest.raises(DatabricksError, match=says):
        ask(client, path)
