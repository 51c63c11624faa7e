"""Refresh of dynamic resources: it detects changes, deleted objects, and another parent under the same id."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound
from databricks.sdk.service.workspace import ImportFormat
from pulumi.runtime import rpc

from infra.aks.node_pools import pool_name
from infra.components.placement import _PlacementProvider
from infra.dynamic.drift import agrees, observed
from infra.dynamic.inputs import Change, Inputs
from infra.dynamic.resource import DynamicResource
from infra.release import release  # noqa: F401  (declares every resource below)
from infra.release.interactive_access.cluster import _PolicyProvider
from infra.release.training_stage.experiment import _ExperimentProvider
from infra.release.training_stage.job import _JobProvider
from infra.release.training_stage.training_run import _TrainingRunProvider
from infra.release.training_stage.workload import _WorkloadProvider
from testing.sandbox.data import Served
from testing.sandbox.databricks import lake_workspace, trusted
from testing.stack.infra_graph import Graph, graph

UNKNOWN = rpc.deserialize_property(rpc.UNKNOWN, keep_unknowns=True)
NUMBER = "4201"


@pytest.fixture(scope="module")
def program() -> Graph:
    return graph()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.login.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def workspace(cloud: Served) -> WorkspaceClient:
    client = lake_workspace(cloud)
    cloud.put("Microsoft.Databricks/workspaces/ws", location="westeurope", properties={"workspaceId": NUMBER})
    return client


def props(cloud: Served, program: Graph, resource: str, **changed: Any) -> dict[str, Any]:
    """Inputs of a resource as the program declares them, in the workspace that there is."""
    (found,) = program.of(f"databricks:{resource}")
    workspace_id = f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
    here = {"workspace_url": cloud.sandbox.authority, "workspace_id": workspace_id, "workspace_uid": NUMBER}
    return {**found.inputs, **here, **changed}


@pytest.mark.parametrize("changed", ["workspace_uid", "workspace_id", "lake_uid", "blob_endpoint", "input_digest"])
def test_training_run_is_identified_by_its_rows_workspace_and_lake(changed: str) -> None:
    olds = dict.fromkeys(("workspace_uid", "workspace_id", "lake_uid", "blob_endpoint", "input_digest"), "before")
    found = _TrainingRunProvider().diff("1", olds, {**olds, changed: "after"})
    assert found.replaces == [changed]


def test_unknown_parent_id_of_a_preview_is_not_a_change_and_a_new_one_is_recorded() -> None:
    olds = {"workspace_id": "w", "workspace_uid": "1", "path": "/p", "experiment_id": "7"}
    provider = _ExperimentProvider()
    assert not provider.diff("7", olds, {**olds, "workspace_uid": UNKNOWN}).changes
    assert provider.diff("7", olds, {**olds, "workspace_id": UNKNOWN, "workspace_uid": UNKNOWN}).replaces
    unrecorded = {**olds, "workspace_uid": None}
    found = provider.diff("7", unrecorded, olds)
    assert (found.changes, found.replaces) == (True, [])
    recorded = _TrainingRunProvider().update("7", {"run_id": "7"}, {"workspace_uid": "1"}).outs or {}
    assert {name: value for name, value in recorded.items() if value is not None} == {
        "run_id": "7",
        "workspace_uid": "1",
    }


PARENTS = {"workspace_id": "workspace_uid", "registry_id": "registry_uid", "cluster_id": "cluster_uid"}
RESOURCES = [found for found in DynamicResource.__subclasses__() if found.__module__.startswith("infra.")]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_resource_is_identified_by_the_id_that_azure_gave_its_parent(
    resource: type[DynamicResource[Inputs]],
) -> None:
    changes = resource.provider.inputs.changes()
    parents = PARENTS.keys() & changes.keys()
    assert {changes.get(PARENTS[parent]) for parent in parents} <= {Change.REPLACES}
    assert parents or resource.__name__ in ("Snapshot", "Placement", "RolesInEffect")


def test_change_of_all_names_is_refused_with_the_remedy() -> None:
    olds = {"subscription": "s", "location": "westeurope", "environment": "dev", "generation": "1"}
    provider = _PlacementProvider()
    assert provider.check({}, olds).failures == provider.check(olds, olds).failures == []
    for name, after in (("location", "northeurope"), ("environment", "qa"), ("generation", "2")):
        (failure,) = provider.check(olds, {**olds, name: after}).failures
        assert f"was {olds[name]} when this stack was deployed and is {after} now" in failure.reason
        assert "make down" in failure.reason


def test_drift_ignores_defaults_of_a_service_and_finds_other_values() -> None:
    declared = {"tasks": [{"key": "a", "retries": 0}, {"key": "b", "arguments": ["1", "2"]}], "tags": {"x": "y"}}
    held = {"tasks": [{"key": "b", "arguments": ["1", "2"], "email": {}}, {"key": "a"}], "tags": {"x": "y", "z": "1"}}
    assert agrees(declared, held)
    assert observed(json.dumps(declared), held) == json.dumps(declared)
    for otherwise in (
        {**held, "tasks": held["tasks"][:1]},
        {**held, "tasks": [*held["tasks"], {"key": "c"}]},
        {**held, "tasks": [{"key": "b", "arguments": ["2", "1"]}, {"key": "a"}]},
        {**held, "tags": {"x": "z"}},
        {},
    ):
        assert not agrees(declared, otherwise), otherwise
        assert json.loads(observed(json.dumps(declared), otherwise)) == otherwise


def test_manual_change_of_a_job_is_read_and_reverted(cloud: Served, workspace: WorkspaceClient, program: Graph) -> None:
    provider, wanted = _JobProvider(), props(cloud, program, "TrainingJob")
    made = provider.create(wanted)
    assert provider.read(made.id, made.outs).outs == made.outs
    schedule = {"quartz_cron_expression": "0 * * * * ?", "timezone_id": "UTC", "pause_status": "UNPAUSED"}
    body = {"job_id": int(made.id), "new_settings": {"schedule": schedule}}
    workspace.api_client.do("POST", "/api/2.2/jobs/update", body=body)
    found = provider.read(made.id, made.outs)
    change = provider.diff(made.id, found.outs, wanted)
    assert (change.changes, change.replaces) == (True, [])
    provider.update(made.id, found.outs, wanted)
    assert provider.read(made.id, made.outs).outs == made.outs
    workspace.jobs.delete(int(made.id))
    assert provider.read(made.id, made.outs).id == ""


def test_wheel_that_was_overwritten_or_deleted_is_uploaded_again(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    provider, wanted = _WorkloadProvider(), props(cloud, program, "Workload")
    made = provider.create(wanted)
    assert provider.read(made.id, made.outs).id == made.id
    workspace.workspace.upload(made.id.removeprefix("/Workspace"), b"another", format=ImportFormat.AUTO, overwrite=True)
    assert provider.read(made.id, made.outs).id == ""
    again = provider.create(wanted)
    assert provider.read(again.id, again.outs).id == made.id
    provider.delete(again.id, again.outs)
    assert provider.read(again.id, again.outs).id == ""


def test_manual_change_or_deletion_of_a_policy_is_read(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    provider = _PolicyProvider()
    wanted = props(cloud, program, "ClusterPolicy", team="data-science")
    made = provider.create(wanted)
    assert provider.read(made.id, made.outs).outs == made.outs
    workspace.permissions.set("cluster-policies", made.id, access_control_list=[])
    assert provider.diff(made.id, provider.read(made.id, made.outs).outs, wanted).changes
    provider.update(made.id, made.outs, wanted)
    workspace.cluster_policies.edit(made.id, name=wanted["policy_name"], definition="{}")
    assert provider.diff(made.id, provider.read(made.id, made.outs).outs, wanted).changes
    workspace.cluster_policies.delete(made.id)
    assert provider.read(made.id, made.outs).id == ""


def test_first_client_of_a_process_goes_to_its_workspace(cloud: Served, workspace: WorkspaceClient) -> None:
    host, workspace_id = cloud.sandbox.authority, f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
    script = f"""
from infra.cloud.clients import AzureClients
print(AzureClients.discover().databricks({host!r}, {workspace_id!r}).config.host)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"https://{host}"


def test_resource_of_a_recreated_workspace_is_gone_and_its_deletion_does_nothing(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    provider, wanted = _JobProvider(), props(cloud, program, "TrainingJob")
    made = provider.create(wanted)
    elsewhere = {**made.outs, "workspace_uid": "1"}
    assert provider.read(made.id, elsewhere).id == ""
    provider.delete(made.id, elsewhere)
    assert workspace.jobs.get(int(made.id))
    with pytest.raises(NotFound, match=r"number 1\) does not exist"):
        provider.create(elsewhere)


def test_resource_that_the_login_may_not_read_stays_as_recorded(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    provider, wanted = _JobProvider(), props(cloud, program, "TrainingJob")
    refusal = {"error_code": "PERMISSION_DENIED", "message": "Unauthorized network access to workspace"}
    cloud.faults({"path": "/jobs/get$", "status": 403, "body": refusal})
    found = provider.read("7", wanted)
    assert cloud.faults_left() == []
    assert (found.id, {name: found.outs[name] for name in wanted}) == ("7", wanted)


def test_pool_name_depends_on_its_shape_and_keeps_the_limits_of_aks() -> None:
    names = {pool_name("scoring", size, zones) for size in ("D4s", "D8s") for zones in ([], ["1"])}
    assert len(names) == 4
    assert all(name.isalnum() and name.islower() and len(name) == 12 for name in names)
