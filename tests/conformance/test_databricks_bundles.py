"""Every body that the program sends to Databricks fits the models of another client, `databricks-bundles`.

The SDK that sends them does not validate them: it neither checks keys of the job's JSON text nor values of
enumerations. What `databricks-bundles` has no model for (storage credentials, folders, files) is listed in `WITHOUT`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from databricks.bundles.catalogs import Catalog, PrivilegeAssignment
from databricks.bundles.cluster_policies import ClusterPolicy, ClusterPolicyPermission
from databricks.bundles.clusters import Cluster, ClusterPermission, Library
from databricks.bundles.external_locations import ExternalLocation
from databricks.bundles.jobs import Job
from databricks.bundles.schemas import Schema
from databricks.bundles.volumes import Volume

from infra.release.interactive_access.cluster import _ClusterProvider, _PolicyProvider
from infra.release.training_stage.catalog import VOLUMES, _CatalogProvider
from infra.release.training_stage.job import _JobProvider
from testing.sandbox.data import Served
from testing.sandbox.databricks import CONNECTOR, lake_workspace, trusted, url
from testing.sandbox.databricks_models import at, faults
from testing.stack.infra_graph import Graph, graph

WITHOUT = {
    "storage-credentials": "no bundle creates them",
    "workspace": "files and folders",
    "workspace-files": "files",
    "clusters/pin": "the id alone",
    "clusters/delete": "the id alone",
    "clusters/start": "the id alone",
}


@dataclass(frozen=True)
class Sent:
    method: str
    path: str
    body: Any

    @property
    def route(self) -> str:
        """Path without the version of the API and without ids."""
        route = re.sub(r"^/api/2\.\d/(unity-catalog/)?", "", self.path)
        route = re.sub(r"^(permissions/[^/]+|workspace-files)/.*", r"\1", route)
        return "workspace" if route.startswith("workspace/") else route


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sent]]:
    """Requests that create and change every object of a release, except runs, experiments, secrets and files."""
    program = graph(training__workers="2", access__team="data-science")
    alone = graph(training__workers="0")
    with trusted(tmp_path_factory.mktemp("sandbox")) as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.login.items():
            patch.setenv(name, value)
        lake_workspace(cloud)
        cloud.assign(cloud.account("shop", *VOLUMES, "catalog"), CONNECTOR)
        record: list[Sent] = []
        patch.setattr(requests.Session, "send", recording(record))
        for of in (program, alone):
            create(cloud, of)
        yield record


def recording(record: list[Sent]) -> Any:
    send = requests.Session.send

    def record_and_send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> Any:
        path = urlsplit(request.url or "").path
        if path.startswith("/api/2.") and request.method != "GET":
            try:
                record.append(Sent(str(request.method), path, json.loads(request.body or "null")))
            except (TypeError, ValueError):
                record.append(Sent(str(request.method), path, None))  # the bytes of a file
        return send(session, request, **options)

    return record_and_send


def create(cloud: Served, program: Graph) -> None:
    def props(resource: str, **changed: Any) -> dict[str, Any]:
        (found,) = program.of(f"databricks:{resource}")
        workspace_id = f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
        here = {"workspace_url": cloud.sandbox.authority, "workspace_id": workspace_id, "catalog": "main"}
        return {**found.inputs, **here, **changed}

    connector = f"{cloud.group}/providers/Microsoft.Databricks/accessConnectors/connector"
    locations = {name: url(cloud, name, "shop") for name in (*VOLUMES, "catalog")}
    lake = {"connector_id": connector, "identity_id": None, "catalog": "shop", "locations": locations}
    _CatalogProvider().create(props("Catalog", **lake))
    job = props("TrainingJob")
    made = _JobProvider().create(dict(job))
    _JobProvider().update(made.id, job, dict(job))
    policy = _PolicyProvider().create(props("ClusterPolicy"))
    settings = json.loads(props("InteractiveCluster")["settings"]) | {"policy_id": policy.id}
    cluster = props("InteractiveCluster", settings=json.dumps(settings))
    running = _ClusterProvider().create(dict(cluster))
    _ClusterProvider().update(running.id, cluster, dict(cluster))


def judge(sent: Sent) -> Iterator[str]:
    body = sent.body
    if sent.route in ("jobs/create", "jobs/reset"):
        yield from faults(Job, body.get("new_settings", body))
    elif sent.route in ("clusters/create", "clusters/edit"):
        yield from faults(Cluster, {name: value for name, value in body.items() if name != "cluster_id"})
    elif sent.route in ("policies/clusters/create", "policies/clusters/edit"):
        yield from faults(ClusterPolicy, {name: value for name, value in body.items() if name != "policy_id"})
        yield from of_policy(json.loads(body["definition"]))
    elif sent.route in ("permissions/clusters", "permissions/cluster-policies"):
        model = ClusterPermission if sent.route.endswith("clusters") else ClusterPolicyPermission
        for entry in body["access_control_list"]:
            # A bundle writes `level`, the Permissions API `permission_level`.
            yield from faults(model, {name.removeprefix("permission_"): value for name, value in entry.items()})
    elif sent.route == "permissions/catalog":
        for change in body["changes"]:
            for privileges in (change.get("add"), change.get("remove")):
                if privileges:
                    yield from faults(PrivilegeAssignment, {"principal": change["principal"], "privileges": privileges})
    elif sent.route in ("libraries/install", "libraries/uninstall"):
        for library in body["libraries"]:
            yield from faults(Library, library)
    else:
        models = {
            "catalogs": Catalog,
            "schemas": Schema,
            "volumes": Volume,
            "external-locations": ExternalLocation,
        }
        yield from faults(models[sent.route], body)


def of_policy(definition: dict[str, Any]) -> Iterator[str]:
    """Each attribute of a policy is one of a cluster, and its value has the attribute's type.

    Source: databricks/cli bundle/schema/jsonschema.json, by way of `databricks-bundles`, for the attributes;
    MicrosoftDocs/azure-databricks-docs clusters/policy-definition.md for `cluster_type`, which only policies have.
    """
    for path, rule in definition.items():
        kind = at(Cluster, path)
        if path == "cluster_type":
            continue
        if kind is None:
            yield f"{path}: is not an attribute of a cluster"
        for value in [rule[name] for name in ("value", "minValue", "maxValue") if name in rule] + rule.get(
            "values", []
        ):
            if isinstance(kind, type) and kind in (str, int) and type(value) is not kind:
                yield f"{path}: {value!r} is not of type {kind.__name__}"
            elif hasattr(kind, "__members__") and value not in [one.value for one in kind]:
                yield f"{path}: {value!r} is none of {', '.join(one.value for one in kind)}"


def test_every_body_fits_the_models_of_another_client(sent: list[Sent]) -> None:
    judged = [each for each in sent if each.route not in WITHOUT]
    found = [f"{each.method} {each.path}: {fault}" for each in judged for fault in judge(each)]
    assert not found, "\n".join(found)


def test_every_kind_of_object_is_sent_and_judged(sent: list[Sent]) -> None:
    routes = {each.route for each in sent}
    assert {
        *("jobs/create", "jobs/reset", "clusters/create", "clusters/edit", "libraries/install"),
        *("policies/clusters/create", "policies/clusters/edit", "permissions/clusters", "permissions/cluster-policies"),
        *("permissions/catalog", "catalogs", "schemas", "volumes", "external-locations"),
        *("storage-credentials",),
    } <= routes
    assert WITHOUT.keys() & routes >= {"storage-credentials", "workspace"}


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (Sent("POST", "/api/2.2/jobs/create", {"nam": "x"}), "nam: is not known"),
        (Sent("POST", "/api/2.2/jobs/create", {"timeout_seconds": "60"}), "timeout_seconds: '60' is not of type int"),
        (
            Sent("POST", "/api/2.2/jobs/create", {"tasks": [{"libraries": [{"maven": {}}]}]}),
            "tasks[].libraries[].maven.coordinates: is missing",
        ),
        (Sent("POST", "/api/2.1/clusters/create", {"data_security_mode": "SINGLE"}), "'SINGLE' is none of"),
        (Sent("POST", "/api/2.1/unity-catalog/volumes", {"volume_type": "EXTERN"}), "catalog_name: is missing"),
        (
            Sent("PUT", "/api/2.0/permissions/clusters/1", {"access_control_list": [{"permission_level": "CAN_USE"}]}),
            "level: 'CAN_USE' is none of",
        ),
        (
            Sent("POST", "/api/2.0/policies/clusters/create", {"definition": '{"num_worker": {"type": "fixed"}}'}),
            "num_worker: is not an attribute of a cluster",
        ),
    ],
)
def test_each_kind_of_fault_in_a_databricks_body_is_found(sent: Sent, fault: str) -> None:
    assert any(fault in found for found in judge(sent))
