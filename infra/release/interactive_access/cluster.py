"""The interactive cluster, and the policy for clusters that users create themselves.

The cluster has the job's definition (`job.py`), so that a notebook that works on it also works in the job. It is
dedicated to the team's group, or without a team to the user that runs `up`. Code on it has the rights of that group or
user, so the team gets read access to the catalog's volumes. `up` leaves the cluster terminated, or running if it was
running before. Libraries can only be changed on an active cluster, so `up` starts it, without waiting for its machines,
and stops it.

The policy does not install libraries, because users could then not add their own. It does not restrict admins, who may
create clusters without a policy.
"""

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pulumi

from infra.dynamic.drift import agrees
from infra.dynamic.inputs import InputField, Outputs, replaces, updates
from infra.dynamic.ownership import WorkspaceProvider, permit
from infra.dynamic.provider import Creation, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.dynamic.workspace import WorkspaceInputs, databricks_of
from infra.release.training_stage.job import ON_DEMAND, JobSpec, cluster, spark_conf

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

# Databricks accepts no shorter time of inactivity before a cluster terminates.
# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (`autotermination_minutes`)
_MIN_MINUTES = 10
_READ = {"USE_CATALOG", "USE_SCHEMA", "READ_VOLUME"}
"""The team's privileges on the catalog."""


def interactive_settings(spec: JobSpec, *, policy_id: str, minutes: int, team: str | None) -> dict[str, object]:
    """The cluster in the form of the Clusters API 2.1, without its name; without a team also without a user."""
    settings = cluster(replace(spec, spot=False)) | {"policy_id": policy_id, "autotermination_minutes": minutes}
    if team:
        # Only the newer kind of definition accepts the name of a group; its name of the mode is newer, too.
        settings |= {"kind": "CLASSIC_PREVIEW", "data_security_mode": "DATA_SECURITY_MODE_DEDICATED"}
        settings |= {"single_user_name": team}
    return settings


def policy_definition(spec: JobSpec, *, minutes: int) -> dict[str, object]:
    """Rules for a cluster that a user creates, in Databricks' policy language: those that LightGBM's ring needs."""
    shape = cluster(replace(spec, spot=False))
    any_size = dict(spark_conf(1).items() & spark_conf(2).items())
    fixed = {
        "cluster_type": "all-purpose",
        "spark_version": shape["spark_version"],
        "runtime_engine": shape["runtime_engine"],
        "azure_attributes.availability": ON_DEMAND,
        **{f"spark_conf.{name}": value for name, value in sorted(any_size.items())},
    }
    # A pool may hold spot machines, and an image is another runtime.
    forbidden = ("autoscale.min_workers", "autoscale.max_workers", "instance_pool_id", "driver_instance_pool_id")
    return {
        **{path: {"type": "fixed", "value": value} for path, value in fixed.items()},
        **{path: {"type": "forbidden"} for path in (*forbidden, "docker_image.url")},
        "data_security_mode": {"type": "allowlist", "values": ["SINGLE_USER", "DATA_SECURITY_MODE_DEDICATED"]},
        "num_workers": {"type": "range", "minValue": 0, "maxValue": spec.workers, "defaultValue": spec.workers},
        "autotermination_minutes": {
            "type": "range",
            "minValue": _MIN_MINUTES,
            "maxValue": minutes,
            "defaultValue": minutes,
        },
    }


class PolicyInputs(WorkspaceInputs):
    policy_name: InputField[str] = replaces()
    definition: InputField[str] = updates()
    """JSON text, from `policy_definition`."""
    team: InputField[str | None] = updates()


class PolicyOutputs(Outputs):
    policy_id: str


class _PolicyProvider(WorkspaceProvider[PolicyInputs, PolicyOutputs]):
    object_name = ("policy_name",)

    def create_object(self, inputs: PolicyInputs) -> Creation[PolicyOutputs]:
        client = databricks_of(inputs)
        # Names are unique: an interrupted `up` created a policy with this name and did not record it.
        policy = next((each for each in client.cluster_policies.list() if each.name == inputs.policy_name), None)
        if policy is None:
            policy = client.cluster_policies.create(name=inputs.policy_name, definition=inputs.definition)
        return Creation(policy.policy_id, self._put(client, policy.policy_id, inputs))

    def read_object(self, state: ResourceState[PolicyInputs, PolicyOutputs]) -> PolicyInputs | None:
        from databricks.sdk.errors import NotFound

        inputs = state.inputs
        try:
            client = databricks_of(inputs)
            definition = client.cluster_policies.get(state.id).definition
            team = _permitted(client, "cluster-policies", state.id, "CAN_USE", inputs.team)
        except NotFound:
            return None
        same = json.loads(definition) == json.loads(inputs.definition)
        return replace(inputs, definition=inputs.definition if same else definition, team=team)

    def update_object(self, state: ResourceState[PolicyInputs, PolicyOutputs], inputs: PolicyInputs) -> PolicyOutputs:
        return self._put(databricks_of(inputs), state.id, inputs)

    def delete_object(self, state: ResourceState[PolicyInputs, PolicyOutputs]) -> None:
        from databricks.sdk.errors import NotFound

        with contextlib.suppress(NotFound):
            databricks_of(state.inputs).cluster_policies.delete(state.id)

    @staticmethod
    def _put(client: "WorkspaceClient", policy_id: str, inputs: PolicyInputs) -> PolicyOutputs:
        client.cluster_policies.edit(policy_id, name=inputs.policy_name, definition=inputs.definition)
        permit(client, "cluster-policies", policy_id, "CAN_USE", inputs.team)
        return PolicyOutputs(policy_id=policy_id)


class ClusterInputs(WorkspaceInputs):
    cluster_name: InputField[str] = replaces()
    settings: InputField[str] = updates()
    """JSON text, from `interactive_settings`."""
    libraries: InputField[str] = updates()
    """JSON text, from `job.libraries`."""
    team: InputField[str | None] = updates()
    catalog: InputField[str] = updates()


class ClusterOutputs(Outputs):
    cluster_id: str
    page: str


class _ClusterProvider(WorkspaceProvider[ClusterInputs, ClusterOutputs]):
    object_name = ("cluster_name",)

    def create_object(self, inputs: ClusterInputs) -> Creation[ClusterOutputs]:
        client = databricks_of(inputs)
        # Names are not unique, and a creation has no idempotency token: an interrupted `up` may have left a cluster.
        if existing := self._named(client, inputs):
            cluster_id = existing[0]
            self._converge(client, cluster_id, inputs)
        else:
            created = client.api_client.do("POST", "/api/2.1/clusters/create", body=self._body(client, inputs))
            cluster_id = str(created["cluster_id"])
            # The SDK repeats a request without an answer, which may have created a second cluster.
            for other in self._named(client, inputs):
                if other != cluster_id:
                    client.clusters.permanent_delete(other)
            self._install(client, cluster_id, inputs)
            client.clusters.delete(cluster_id)
        return Creation(cluster_id, self._admit(client, cluster_id, inputs, before=None))

    def read_object(self, state: ResourceState[ClusterInputs, ClusterOutputs]) -> ClusterInputs | None:
        from databricks.sdk.errors import InvalidParameterValue, NotFound

        inputs, cluster_id = state.inputs, state.id
        try:
            client = databricks_of(inputs)
            held = client.clusters.get(cluster_id).as_dict()
            libraries = [status.library.as_dict() for status in client.libraries.cluster_status(cluster_id)]
            team = _permitted(client, "clusters", cluster_id, "CAN_RESTART", inputs.team)
            team = team and _granted(client, inputs.catalog, team)
        except (NotFound, InvalidParameterValue):  # each means that it is gone
            return None
        declared = json.loads(inputs.settings)
        # An alias of SINGLE_USER (databricks-sdk, `DataSecurityMode`), and the kind that it requires.
        compared = {name: value for name, value in declared.items() if name not in ("kind", "data_security_mode")}
        observed = replace(inputs, team=team)
        if not agrees(compared, held):
            settings = json.dumps({name: held.get(name) for name in declared}, sort_keys=True)
            observed = replace(observed, settings=settings)
        if any(library not in libraries for library in json.loads(inputs.libraries)):
            observed = replace(observed, libraries=json.dumps(libraries, sort_keys=True))
        return observed

    def update_object(
        self, state: ResourceState[ClusterInputs, ClusterOutputs], inputs: ClusterInputs
    ) -> ClusterOutputs:
        client = databricks_of(inputs)
        self._converge(client, state.id, inputs)
        return self._admit(client, state.id, inputs, before=state.inputs.team)

    def delete_object(self, state: ResourceState[ClusterInputs, ClusterOutputs]) -> None:
        from databricks.sdk.errors import InvalidParameterValue, NotFound

        inputs = state.inputs
        with contextlib.suppress(NotFound, InvalidParameterValue):  # each means that it is gone
            databricks_of(inputs).clusters.permanent_delete(state.id)
        if inputs.team:
            with contextlib.suppress(NotFound):
                _grant(databricks_of(inputs), inputs.catalog, revoked=inputs.team)

    @classmethod
    def _converge(cls, client: "WorkspaceClient", cluster_id: str, inputs: ClusterInputs) -> None:
        """Install libraries on the active cluster and stop it, which removes stale ones.

        Then edit it, and start it if it was in use.
        """
        from databricks.sdk.service.compute import State

        state = client.clusters.get(cluster_id).state
        if state == State.TERMINATING:
            client.clusters.wait_get_cluster_terminated(cluster_id)
        in_use = state not in (State.TERMINATING, State.TERMINATED, State.ERROR)
        if not in_use:
            cls._start(client, cluster_id)
        cls._install(client, cluster_id, inputs)
        client.clusters.delete(cluster_id).result()
        client.api_client.do(
            "POST", "/api/2.1/clusters/edit", body={"cluster_id": cluster_id, **cls._body(client, inputs)}
        )
        if in_use:
            cls._start(client, cluster_id)

    @staticmethod
    def _start(client: "WorkspaceClient", cluster_id: str) -> None:
        from databricks.sdk.errors import InvalidState
        from databricks.sdk.service.compute import State

        try:
            client.clusters.start(cluster_id)
        except InvalidState:  # the SDK repeated a request without an answer, and the cluster is already starting
            if client.clusters.get(cluster_id).state not in (State.PENDING, State.RUNNING):
                raise

    @staticmethod
    def _named(client: "WorkspaceClient", inputs: ClusterInputs) -> list[str]:
        return [str(each.cluster_id) for each in client.clusters.list() if each.cluster_name == inputs.cluster_name]

    @staticmethod
    def _body(client: "WorkspaceClient", inputs: ClusterInputs) -> dict[str, object]:
        body: dict[str, object] = {"cluster_name": inputs.cluster_name, **json.loads(inputs.settings)}
        if "single_user_name" not in body:
            body["single_user_name"] = client.current_user.me().user_name
        return body

    @staticmethod
    def _install(client: "WorkspaceClient", cluster_id: str, inputs: ClusterInputs) -> None:
        from databricks.sdk.service.compute import Library

        wanted = [Library.from_dict(library) for library in json.loads(inputs.libraries)]
        installed = [status.library for status in client.libraries.cluster_status(cluster_id)]
        if stale := [library for library in installed if library not in wanted]:
            client.libraries.uninstall(cluster_id, stale)
        client.libraries.install(cluster_id, wanted)

    @staticmethod
    def _admit(
        client: "WorkspaceClient", cluster_id: str, inputs: ClusterInputs, *, before: str | None
    ) -> ClusterOutputs:
        """Let the team use the cluster and read the catalog; revoke what the team `before` had."""
        team = inputs.team
        client.clusters.pin(cluster_id)  # Databricks deletes a cluster a month after its end unless it is pinned
        permit(client, "clusters", cluster_id, "CAN_RESTART", team)
        if before and before != team:
            _grant(client, inputs.catalog, revoked=before)
        if team:
            _grant(client, inputs.catalog, admitted=team)
        page = f"https://{inputs.workspace_url}/compute/clusters/{cluster_id}"
        return ClusterOutputs(cluster_id=cluster_id, page=page)


def _permitted(client: "WorkspaceClient", kind: str, object_id: str, level: str, team: str | None) -> str | None:
    """Return `team` if it has the permission `level`, else None."""
    entries = client.permissions.get(kind, object_id).access_control_list or [] if team else []
    levels = {
        permission.permission_level.value
        for entry in entries
        if entry.group_name == team
        for permission in entry.all_permissions or []
        if permission.permission_level
    }
    return team if level in levels else None


def _grant(client: "WorkspaceClient", catalog: str, *, admitted: str | None = None, revoked: str | None = None) -> None:
    """Grant read access to the catalog's volumes to one group, or revoke it from one."""
    from databricks.sdk.service.catalog import PermissionsChange, Privilege

    read = [Privilege(name) for name in _READ]
    change = PermissionsChange(principal=admitted or revoked, **{"add" if admitted else "remove": read})
    client.grants.update("catalog", catalog, changes=[change])


def _granted(client: "WorkspaceClient", catalog: str, team: str) -> str | None:
    """Return `team` if it may read the catalog's volumes, or if the catalog, another resource, is gone; else None.

    Source: databricks-sdk==0.156.0 databricks/sdk/service/catalog.py (`GrantsAPI.get`: a page may be empty, and only
    one without a token is the last)
    """
    from databricks.sdk.errors import NotFound

    held: set[str] = set()
    token = None
    while True:
        try:
            page = client.grants.get("catalog", catalog, max_results=0, page_token=token, principal=team)
        except NotFound:
            return team
        for entry in page.privilege_assignments or []:
            if entry.principal == team:
                held |= {privilege.value for privilege in entry.privileges or []}
        if not (token := page.next_page_token):
            return team if held >= _READ else None


class ClusterPolicy(DynamicResource[PolicyInputs], module="databricks", name="ClusterPolicy", provider=_PolicyProvider):
    policy_id: pulumi.Output[str]


class InteractiveCluster(
    DynamicResource[ClusterInputs], module="databricks", name="InteractiveCluster", provider=_ClusterProvider
):
    cluster_id: pulumi.Output[str]
    page: pulumi.Output[str]
    """Address of the cluster's page."""
