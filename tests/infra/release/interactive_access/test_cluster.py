"""The interactive cluster and its policy: when they are declared, and their requests to Databricks."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, NotFound
from databricks.sdk.service.catalog import PermissionsChange, Privilege
from databricks.sdk.service.compute import LibraryInstallStatus, State
from pulumi.dynamic import ResourceProvider

from infra.config.loading import ConfigError
from infra.release.interactive_access.cluster import _ClusterProvider, _PolicyProvider
from infra.release.training_stage.job import _JobProvider
from infra.release.training_stage.workload import _WorkloadProvider
from testing.sandbox.data import Served
from testing.sandbox.databricks import lake_workspace, trusted
from testing.stack.infra_graph import Graph, graph, settings
from testing.waiting import eventually

CLUSTER, POLICY = _ClusterProvider(), _PolicyProvider()


@pytest.fixture(scope="module")
def program() -> Graph:
    return graph(training__workers="1", training__spot="true", access__team="data-science")


@pytest.fixture(scope="module")
def without_team() -> Graph:
    return graph(training__workers="1", training__autotermination_minutes="45")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.login.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def workspace(cloud: Served) -> WorkspaceClient:
    return lake_workspace(cloud)


def props(cloud: Served, program: Graph, resource: str, **changed: Any) -> dict[str, Any]:
    """Inputs of a resource as the program declares them, in the workspace and catalog of this test."""
    (found,) = program.of(f"databricks:{resource}")
    here = {"workspace_url": cloud.sandbox.authority, "catalog": "main"}
    workspace_id = f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
    return {**found.inputs, **here, "workspace_id": workspace_id, **changed}


def named(cloud: Served, program: Graph, name: str, **changed: Any) -> dict[str, Any]:
    """Inputs of a cluster of that name, with the program's policy."""
    policy = POLICY.create(props(cloud, program, "ClusterPolicy"))
    wanted = props(cloud, program, "InteractiveCluster", cluster_name=name)
    return wanted | {"settings": json.dumps(json.loads(wanted["settings"]) | {"policy_id": policy.id})} | changed


def libraries(workspace: WorkspaceClient, cluster_id: str) -> list[dict[str, Any]]:
    there = workspace.libraries.cluster_status(cluster_id)
    return [each.library.as_dict() for each in there if each.status != LibraryInstallStatus.UNINSTALL_ON_RESTART]


def readers(workspace: WorkspaceClient) -> dict[str | None, list[str]]:
    granted = workspace.grants.get("catalog", "main").privilege_assignments or []
    return {each.principal: [privilege.value for privilege in each.privileges or []] for each in granted}


def may(workspace: WorkspaceClient, kind: str, object_id: str) -> list[tuple[str | None, str]]:
    entries = workspace.permissions.get(kind, object_id).access_control_list or []
    return [(each.group_name, level.permission_level.value) for each in entries for level in each.all_permissions]


def test_interactive_cluster_exists_with_a_release_outside_production_or_by_its_setting(program: Graph) -> None:
    for config, exists in (
        ({}, True),
        ({"release:enabled": "false"}, False),
        ({"personalization:production": "true"}, False),
        ({"personalization:production": "true", "training:interactive_cluster": "true"}, True),
        ({"training:interactive_cluster": "false"}, False),
    ):
        assert settings(**config).has_interactive_cluster is exists, config
    for declared, exists in ((program, True), (graph(personalization__production="true"), False)):
        assert len(declared.of(":InteractiveCluster")) == len(declared.of(":ClusterPolicy")) == exists
        assert ({"interactive_cluster_page", "cluster_policy_id"} <= set(declared.outputs)) is exists


def test_private_network_needs_addresses_for_interactive_cluster_and_job() -> None:
    small = {"network:mode": "private", "network:address_space": "10.40.0.0/24", "training:workers": "40"}
    settings(**small, **{"training:interactive_cluster": "false"})
    with pytest.raises(ConfigError, match=r"82 machines want one"):
        settings(**small)


def test_interactive_cluster_and_job_have_the_same_definition(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    job = workspace.jobs.get(int(_JobProvider().create(props(cloud, program, "TrainingJob")).id)).settings
    cluster_id = CLUSTER.create(named(cloud, program, "one")).id
    of_job, of_people = job.job_clusters[0].new_cluster, workspace.clusters.get(cluster_id).spec
    for shared in ("spark_version", "runtime_engine", "spark_conf", "node_type_id", "num_workers", "custom_tags"):
        assert getattr(of_job, shared) == getattr(of_people, shared) is not None, shared
    assert of_job.autoscale is of_people.autoscale is None
    for task in job.tasks:
        assert libraries(workspace, cluster_id) == [library.as_dict() for library in task.libraries]
    # The job may run on spot machines; interactive users would lose their work with them.
    assert of_job.azure_attributes.availability.value.startswith("SPOT")
    assert of_people.azure_attributes.availability.value == "ON_DEMAND_AZURE"


def test_interactive_cluster_is_dedicated_to_the_team_pinned_and_left_terminated(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    made = CLUSTER.create(named(cloud, program, "teams"))
    found = workspace.clusters.get(made.id)
    assert (found.state, found.autotermination_minutes) == (State.TERMINATED, 30)
    assert (found.data_security_mode.value, found.single_user_name) == (
        "DATA_SECURITY_MODE_DEDICATED",
        "data-science",
    )
    assert "pinned_by_user_name" in workspace.api_client.do(
        "GET", "/api/2.1/clusters/get", query={"cluster_id": made.id}
    )
    assert may(workspace, "clusters", made.id) == [("data-science", "CAN_RESTART")]
    assert may(workspace, "cluster-policies", str(found.policy_id)) == [("data-science", "CAN_USE")]
    assert readers(workspace)["data-science"] == ["READ_VOLUME", "USE_CATALOG", "USE_SCHEMA"]
    assert (made.outs or {})["page"] == f"https://{cloud.sandbox.authority}/compute/clusters/{made.id}"


def test_cluster_without_a_team_is_dedicated_to_the_user_of_up(
    cloud: Served, workspace: WorkspaceClient, without_team: Graph
) -> None:
    made = CLUSTER.create(named(cloud, without_team, "mine"))
    found = workspace.clusters.get(made.id)
    assert (found.data_security_mode.value, found.single_user_name) == (
        "SINGLE_USER",
        cloud.sandbox.identity.client_id,
    )
    assert may(workspace, "clusters", made.id) == []


def test_cluster_of_an_interrupted_up_is_adopted(cloud: Served, workspace: WorkspaceClient, program: Graph) -> None:
    wanted = named(cloud, program, "left")
    first, second = (CLUSTER.create(wanted).id for _ in range(2))
    policies = [POLICY.create(props(cloud, program, "ClusterPolicy")).id for _ in range(2)]
    assert first == second
    assert policies[0] == policies[1]
    assert workspace.clusters.get(first).state == State.TERMINATED


def test_lost_answer_leaves_no_second_cluster(cloud: Served, workspace: WorkspaceClient, program: Graph) -> None:
    wanted = named(cloud, program, "lost")
    cloud.faults({"path": "/clusters/create$", "lost": True})
    made = CLUSTER.create(wanted)
    assert [each.cluster_id for each in workspace.clusters.list() if each.cluster_name == "lost"] == [made.id]


def test_start_with_a_lost_answer_succeeds(cloud: Served, workspace: WorkspaceClient, program: Graph) -> None:
    wanted = named(cloud, program, "left asleep")
    left = CLUSTER.create(wanted)
    cloud.faults({"path": "/clusters/start$", "lost": True})
    assert CLUSTER.create(wanted).id == left.id
    assert workspace.clusters.get(left.id).state == State.TERMINATED


@pytest.mark.parametrize("used", [False, True])
def test_update_replaces_the_wheel_and_restores_the_running_state(
    cloud: Served, workspace: WorkspaceClient, program: Graph, without_team: Graph, used: bool
) -> None:
    before = named(cloud, program, f"used-{used}")
    made = CLUSTER.create(before)
    if used:
        workspace.clusters.start(made.id).result()
    after = named(cloud, without_team, before["cluster_name"])
    after |= {"libraries": json.dumps([{"whl": "/Workspace/Shared/new.whl"}])}
    change = CLUSTER.diff(made.id, before, after)
    assert (change.changes, change.replaces) == (True, [])
    CLUSTER.update(made.id, before, after)
    assert libraries(workspace, made.id) == [{"whl": "/Workspace/Shared/new.whl"}]
    found = eventually(lambda: workspace.clusters.get(made.id), lambda it: it.state != State.PENDING, 20)
    assert found.state == (State.RUNNING if used else State.TERMINATED)
    assert found.autotermination_minutes == 45
    assert may(workspace, "clusters", made.id) == []
    assert "data-science" not in readers(workspace)


def test_grant_that_was_removed_by_hand_is_found_and_granted_again(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    wanted = named(cloud, program, "granted")
    made = CLUSTER.create(wanted)
    assert CLUSTER.read(made.id, made.outs).outs == made.outs
    taken = PermissionsChange(principal="data-science", remove=[Privilege.READ_VOLUME])
    workspace.grants.update("catalog", "main", changes=[taken])
    found = CLUSTER.read(made.id, made.outs)
    assert (found.inputs or {}).get("team") is None
    assert CLUSTER.diff(made.id, found.outs, wanted).changes
    CLUSTER.update(made.id, found.outs, wanted)
    assert readers(workspace)["data-science"] == ["READ_VOLUME", "USE_CATALOG", "USE_SCHEMA"]
    assert CLUSTER.read(made.id, made.outs).outs == made.outs


def test_deletion_of_the_cluster_is_permanent_revokes_grants_and_may_be_repeated(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    wanted = named(cloud, program, "gone")
    made = CLUSTER.create(wanted)
    policy = POLICY.create(props(cloud, program, "ClusterPolicy"))
    for _ in range(2):
        CLUSTER.delete(made.id, made.outs or {})
        POLICY.delete(policy.id, policy.outs or {})
    assert "gone" not in [found.cluster_name for found in workspace.clusters.list()]
    assert "data-science" not in readers(workspace)
    with pytest.raises(NotFound):
        workspace.cluster_policies.get(policy.id)


def test_replacement_keeps_the_object_that_the_old_resource_had(
    cloud: Served, workspace: WorkspaceClient, program: Graph
) -> None:
    """The engine creates before it deletes, and both have one name."""
    replaced: list[tuple[ResourceProvider, dict[str, Any]]] = [
        (CLUSTER, named(cloud, program, "replaced")),
        (POLICY, props(cloud, program, "ClusterPolicy", policy_name="replaced")),
        (_JobProvider(), props(cloud, program, "TrainingJob")),
        (_WorkloadProvider(), props(cloud, program, "Workload", digest="replaced")),
    ]
    for provider, wanted in replaced:
        old = provider.create(wanted)
        new = provider.create(wanted)
        provider.delete(old.id, old.outs or {})
        assert (new.id, _exists(workspace, provider, new.id)) == (old.id, True), provider
        provider.delete(new.id, new.outs or {})
        assert not _exists(workspace, provider, new.id), provider


def test_wheel_folder_may_be_changed_by_admins_only(
    cloud: Served, workspace: WorkspaceClient, program: Graph, without_team: Graph
) -> None:
    for declared, expected in ((program, {"data-science": ["CAN_READ"]}), (without_team, {})):
        wheel = _WorkloadProvider().create(props(cloud, declared, "Workload")).id
        folder = workspace.workspace.get_status(wheel.rpartition("/")[0].removeprefix("/Workspace"))
        assert _granted(workspace, str(folder.object_id)) == expected
    shared = workspace.workspace.get_status("/Shared")
    assert _granted(workspace, str(shared.object_id)) == {"users": ["CAN_MANAGE"]}


def _exists(workspace: WorkspaceClient, provider: Any, object_id: str) -> bool:
    look: dict[Any, Callable[[str], Any]] = {
        _ClusterProvider: workspace.clusters.get,
        _PolicyProvider: workspace.cluster_policies.get,
        _JobProvider: lambda it: workspace.jobs.get(int(it)),
        _WorkloadProvider: workspace.workspace.get_status,
    }
    try:
        look[type(provider)](object_id)
    except (NotFound, InvalidParameterValue):
        return False
    return True


def _granted(workspace: WorkspaceClient, folder_id: str) -> dict[str | None, list[str]]:
    entries = workspace.permissions.get("directories", folder_id).access_control_list or []
    permissions = {each.group_name: each.all_permissions or [] for each in entries}
    return {
        group: [str(each.permission_level).rpartition(".")[2] for each in levels]
        for group, levels in permissions.items()
    }


def test_cluster_changed_or_deleted_by_hand_is_found(cloud: Served, workspace: WorkspaceClient, program: Graph) -> None:
    wanted = named(cloud, program, "changed")
    made = CLUSTER.create(wanted)
    assert CLUSTER.read(made.id, made.outs).outs == made.outs
    body = {"cluster_id": made.id, **json.loads(wanted["settings"]), "autotermination_minutes": 25}
    workspace.api_client.do("POST", "/api/2.1/clusters/edit", body={"cluster_name": "changed", **body})
    assert CLUSTER.diff(made.id, CLUSTER.read(made.id, made.outs).outs, wanted).changes
    CLUSTER.update(made.id, made.outs, wanted)
    assert CLUSTER.read(made.id, made.outs).outs == made.outs
    workspace.permissions.set("clusters", made.id, access_control_list=[])
    assert CLUSTER.diff(made.id, CLUSTER.read(made.id, made.outs).outs, wanted).changes
    workspace.clusters.permanent_delete(made.id)
    assert CLUSTER.read(made.id, made.outs).id == ""
