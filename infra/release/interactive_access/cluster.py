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
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.clients import databricks_of
from infra.dynamic.drift import agrees
from infra.dynamic.ownership import WorkspaceProvider, permit
from infra.dynamic.provider import gone
from infra.release.training_stage.job import JobSpec, cluster, spark_conf

# Databricks accepts no shorter time of inactivity before a cluster terminates.
# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (`autotermination_minutes`)
_MIN_MINUTES = 10
_READ = {"USE_CATALOG", "USE_SCHEMA", "READ_VOLUME"}
"""The team's privileges on the catalog."""


def interactive_settings(spec: JobSpec, *, policy_id: str, minutes: int, team: str | None) -> dict[str, Any]:
    """The cluster in the form of the Clusters API 2.1, without its name; without a team also without a user."""
    settings = cluster(replace(spec, spot=False)) | {"policy_id": policy_id, "autotermination_minutes": minutes}
    if team:
        # Only the newer kind of definition accepts the name of a group; its name of the mode is newer, too.
        settings |= {"kind": "CLASSIC_PREVIEW", "data_security_mode": "DATA_SECURITY_MODE_DEDICATED"}
        settings |= {"single_user_name": team}
    return settings


def policy_definition(spec: JobSpec, *, minutes: int) -> dict[str, Any]:
    """Rules for a cluster that a user creates, in Databricks' policy language: those that LightGBM's ring needs."""
    shape = cluster(replace(spec, spot=False))
    any_size = dict(spark_conf(1).items() & spark_conf(2).items())
    fixed = {
        "cluster_type": "all-purpose",
        "spark_version": shape["spark_version"],
        "runtime_engine": shape["runtime_engine"],
        "azure_attributes.availability": shape["azure_attributes"]["availability"],
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


class _PolicyProvider(WorkspaceProvider):
    object_name = ("policy_name",)
    identity = ("workspace_id", "workspace_uid", "policy_name")
    inputs = ("workspace_url", "definition", "team")

    def create(self, props: dict[str, Any]) -> CreateResult:
        client = databricks_of(props)
        # Names are unique: an interrupted `up` created a policy with this name and did not record it.
        policy = next((each for each in client.cluster_policies.list() if each.name == props["policy_name"]), None)
        if policy is None:
            policy = client.cluster_policies.create(name=props["policy_name"], definition=props["definition"])
        return CreateResult(policy.policy_id, self._put(client, policy.policy_id, props))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from databricks.sdk.errors import NotFound

        try:
            client = databricks_of(props)
            definition = client.cluster_policies.get(id_).definition
            team = _permitted(client, "cluster-policies", id_, "CAN_USE", props["team"])
        except NotFound:
            return gone()
        same = json.loads(definition) == json.loads(props["definition"])
        return ReadResult(id_, {**props, "definition": props["definition"] if same else definition, "team": team})

    def update(self, id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(self._put(databricks_of(news), id, news))

    def delete(self, id: str, props: dict[str, Any]) -> None:
        from databricks.sdk.errors import NotFound

        with contextlib.suppress(NotFound):
            databricks_of(props).cluster_policies.delete(id)

    @staticmethod
    def _put(client: Any, policy_id: str, props: dict[str, Any]) -> dict[str, Any]:
        client.cluster_policies.edit(policy_id, name=props["policy_name"], definition=props["definition"])
        permit(client, "cluster-policies", policy_id, "CAN_USE", props["team"])
        return {**props, "policy_id": policy_id}


class _ClusterProvider(WorkspaceProvider):
    object_name = ("cluster_name",)
    identity = ("workspace_id", "workspace_uid", "cluster_name")
    inputs = ("workspace_url", "settings", "libraries", "team", "catalog")

    def create(self, props: dict[str, Any]) -> CreateResult:
        client = databricks_of(props)
        # Names are not unique, and a creation has no idempotency token: an interrupted `up` may have left a cluster.
        if existing := self._named(client, props):
            cluster_id = existing[0]
            self._converge(client, cluster_id, props)
        else:
            created = client.api_client.do("POST", "/api/2.1/clusters/create", body=self._body(client, props))
            cluster_id = str(created["cluster_id"])
            # The SDK repeats a request without an answer, which may have created a second cluster.
            for other in self._named(client, props):
                if other != cluster_id:
                    client.clusters.permanent_delete(other)
            self._install(client, cluster_id, props)
            client.clusters.delete(cluster_id)
        return CreateResult(cluster_id, self._admit(client, cluster_id, props, before=None))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from databricks.sdk.errors import InvalidParameterValue, NotFound

        try:
            client = databricks_of(props)
            held = client.clusters.get(id_).as_dict()
            libraries = [status.library.as_dict() for status in client.libraries.cluster_status(id_)]
            team = _permitted(client, "clusters", id_, "CAN_RESTART", props["team"])
            team = team and _granted(client, props["catalog"], team)
        except (NotFound, InvalidParameterValue):  # each means that it is gone
            return gone()
        declared = json.loads(props["settings"])
        # An alias of SINGLE_USER (databricks-sdk, `DataSecurityMode`), and the kind that it requires.
        compared = {name: value for name, value in declared.items() if name not in ("kind", "data_security_mode")}
        observed = {**props, "team": team}
        if not agrees(compared, held):
            observed["settings"] = json.dumps({name: held.get(name) for name in declared}, sort_keys=True)
        if any(library not in libraries for library in json.loads(props["libraries"])):
            observed["libraries"] = json.dumps(libraries, sort_keys=True)
        return ReadResult(id_, observed)

    def update(self, id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        client = databricks_of(news)
        self._converge(client, id, news)
        return UpdateResult(self._admit(client, id, news, before=olds["team"]))

    def delete(self, id: str, props: dict[str, Any]) -> None:
        from databricks.sdk.errors import InvalidParameterValue, NotFound

        with contextlib.suppress(NotFound, InvalidParameterValue):  # each means that it is gone
            databricks_of(props).clusters.permanent_delete(id)
        if props["team"]:
            with contextlib.suppress(NotFound):
                _grant(databricks_of(props), props["catalog"], revoked=props["team"])

    @classmethod
    def _converge(cls, client: Any, cluster_id: str, props: dict[str, Any]) -> None:
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
        cls._install(client, cluster_id, props)
        client.clusters.delete(cluster_id).result()
        client.api_client.do(
            "POST", "/api/2.1/clusters/edit", body={"cluster_id": cluster_id, **cls._body(client, props)}
        )
        if in_use:
            cls._start(client, cluster_id)

    @staticmethod
    def _start(client: Any, cluster_id: str) -> None:
        from databricks.sdk.errors import InvalidState
        from databricks.sdk.service.compute import State

        try:
            client.clusters.start(cluster_id)
        except InvalidState:  # the SDK repeated a request without an answer, and the cluster is already starting
            if client.clusters.get(cluster_id).state not in (State.PENDING, State.RUNNING):
                raise

    @staticmethod
    def _named(client: Any, props: dict[str, Any]) -> list[str]:
        return [str(each.cluster_id) for each in client.clusters.list() if each.cluster_name == props["cluster_name"]]

    @staticmethod
    def _body(client: Any, props: dict[str, Any]) -> dict[str, Any]:
        body = {"cluster_name": props["cluster_name"], **json.loads(props["settings"])}
        if "single_user_name" not in body:
            body["single_user_name"] = client.current_user.me().user_name
        return body

    @staticmethod
    def _install(client: Any, cluster_id: str, props: dict[str, Any]) -> None:
        from databricks.sdk.service.compute import Library

        wanted = [Library.from_dict(library) for library in json.loads(props["libraries"])]
        installed = [status.library for status in client.libraries.cluster_status(cluster_id)]
        if stale := [library for library in installed if library not in wanted]:
            client.libraries.uninstall(cluster_id, stale)
        client.libraries.install(cluster_id, wanted)

    @staticmethod
    def _admit(client: Any, cluster_id: str, props: dict[str, Any], *, before: str | None) -> dict[str, Any]:
        team = props["team"]
        client.clusters.pin(cluster_id)  # Databricks deletes a cluster a month after its end unless it is pinned
        permit(client, "clusters", cluster_id, "CAN_RESTART", team)
        if before and before != team:
            _grant(client, props["catalog"], revoked=before)
        if team:
            _grant(client, props["catalog"], admitted=team)
        page = f"https://{props['workspace_url']}/compute/clusters/{cluster_id}"
        return {**props, "cluster_id": cluster_id, "page": page}


def _permitted(client: Any, kind: str, object_id: str, level: str, team: str | None) -> str | None:
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


def _grant(client: Any, catalog: str, *, admitted: str | None = None, revoked: str | None = None) -> None:
    """Grant read access to the catalog's volumes to one group, or revoke it from one."""
    from databricks.sdk.service.catalog import PermissionsChange, Privilege

    read = [Privilege(name) for name in _READ]
    change = PermissionsChange(principal=admitted or revoked, **{"add" if admitted else "remove": read})
    client.grants.update("catalog", catalog, changes=[change])


def _granted(client: Any, catalog: str, team: str) -> str | None:
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


class ClusterPolicy(Resource, module="databricks", name="ClusterPolicy"):
    policy_id: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        policy_name: str,
        definition: pulumi.Input[str],
        team: str | None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`definition`: JSON text, from `policy_definition`."""
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "policy_name": policy_name,
            "definition": definition,
            "team": team,
        }
        super().__init__(_PolicyProvider(), name, {**props, "policy_id": None}, opts)


class InteractiveCluster(Resource, module="databricks", name="InteractiveCluster"):
    cluster_id: pulumi.Output[str]
    page: pulumi.Output[str]
    """Address of the cluster's page."""

    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        cluster_name: str,
        settings: pulumi.Input[str],
        libraries: pulumi.Input[str],
        team: str | None,
        catalog: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`settings` and `libraries`: JSON text, from `interactive_settings` and `job.libraries`."""
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "cluster_name": cluster_name,
            "settings": settings,
            "libraries": libraries,
            "team": team,
            "catalog": catalog,
        }
        super().__init__(_ClusterProvider(), name, {**props, "cluster_id": None, "page": None}, opts)
