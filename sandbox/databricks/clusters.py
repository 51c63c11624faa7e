"""All-purpose clusters: the Clusters API 2.1, the libraries on them, and the permissions on clusters and policies.

A cluster is a record. It is PENDING for a moment, then RUNNING, and costs nothing: the Spark of a run that names it
starts with that run, from this definition and these libraries, and ends with it. So what one run leaves in Spark's
memory, the next does not see. Auto-termination is kept and never comes; permissions are kept and nobody is refused.
A cluster's policy (`policies.py`) holds for everyone, also for admins, as on Databricks. Does not resize or restart.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyspark
from starlette.requests import Request

from sandbox.cloud import CloudError
from sandbox.databricks import policies
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of, new_id, now

_RUNTIMES = {  # databricks runtime: its Spark
    "14.3.x-scala2.12": "3.5.0",
    "15.4.x-scala2.12": "3.5.0",
    "16.4.x-scala2.12": "3.5.2",
    "16.4.x-scala2.13": "3.5.2",
    "17.3.x-scala2.13": "4.0.0",
    "18.0.x-scala2.13": "4.1.0",
}
_LIBRARIES = ("whl", "maven", "pypi")
_START = 500
"""Milliseconds from PENDING to RUNNING."""
_LEVELS = {
    "clusters": ("cluster", ("CAN_ATTACH_TO", "CAN_RESTART", "CAN_MANAGE")),
    "cluster-policies": ("cluster-policy", ("CAN_USE",)),
}


def handlers() -> Iterator[tuple[str, str, Handler]]:
    writes: dict[str, Handler] = {"create": _create, "edit": _edit, "start": _start, "delete": _delete}
    writes |= {"permanent-delete": _permanent_delete, "pin": partial(_pin, True), "unpin": partial(_pin, False)}
    for name, handler in writes.items():
        yield "POST", f"/api/2.1/clusters/{name}", handler
    yield "GET", "/api/2.1/clusters/get", _get
    yield "GET", "/api/2.1/clusters/list", _list
    for name in ("install", "uninstall"):
        yield "POST", f"/api/2.0/libraries/{name}", partial(_libraries, name)
    yield "GET", "/api/2.0/libraries/cluster-status", _status
    for method in ("GET", "PUT", "PATCH"):
        yield method, "/api/2.0/permissions/{kind}/{id}", _permissions


def find(workspace: Workspace, cluster_id: Any) -> Json:
    """The record: `spec` as it was sent, `libraries`, and when it last began to start or has ended."""
    found = workspace.records.get(workspace.record("clusters", str(cluster_id)))
    if found is None:
        raise CloudError(400, "INVALID_PARAMETER_VALUE", f"Cluster {cluster_id} does not exist")
    return found


def wake(workspace: Workspace, cluster_id: str) -> Json:
    """The record of a cluster that a run needs: one that has ended is started."""
    found = find(workspace, cluster_id)
    if _state(found) == "TERMINATED":
        found["start_time"], found["terminated_time"] = now(), None
        _store(workspace, found)
    return found


def accepted(workspace: Workspace, where: str, definition: Json, kind: str) -> Json:
    """The definition with what its policy fixes.

    ValueError if policy or service refuse it, or if it is not for the Spark of this machine.
    """
    cluster = policies.applied(workspace, definition, kind)
    version = cluster.get("spark_version", "")
    if version not in _RUNTIMES:
        raise ValueError(f"{where}: Invalid spark_version {version!r}; known are {', '.join(_RUNTIMES)}.")
    line = pyspark.__version__.rpartition(".")[0]
    if not _RUNTIMES[version].startswith(f"{line}.") or not version.endswith("scala2.12"):
        raise ValueError(
            f"{where}: {version} is Spark {_RUNTIMES[version]}; here is pyspark {pyspark.__version__} for Scala 2.12."
        )
    if not (cluster.get("node_type_id") or cluster.get("instance_pool_id")):
        raise ValueError(f"{where}: node_type_id or instance_pool_id is required.")
    workers, autoscale = cluster.get("num_workers"), cluster.get("autoscale")
    if (workers is None) == (autoscale is None):
        raise ValueError(f"{where}: exactly one of num_workers and autoscale is required.")
    single = cluster.get("is_single_node") or cluster.get("spark_conf", {}).get("spark.databricks.cluster.profile")
    if workers == 0 and not single:
        raise ValueError(f"{where}: num_workers could be 0 only for single node clusters: set is_single_node.")
    return cluster


def check_libraries(where: str, libraries: list[Json]) -> None:
    kinds = [kind for library in libraries for kind in library if kind not in _LIBRARIES]
    if kinds:
        raise ValueError(f"{where}: the sandbox knows whl, maven and pypi libraries, not {kinds}.")


async def _create(workspace: Workspace, request: Request) -> Json:
    spec = _all_purpose(workspace, await body_of(request))
    number = new_id()
    cluster_id = f"{number // 10**12:04d}-{number // 10**6 % 10**6:06d}-{number % 10**6:06d}"
    found = {"cluster_id": cluster_id, "creator_user_name": workspace.caller, "start_time": now()}
    _store(workspace, found | {"spec": spec, "libraries": []})
    return {"cluster_id": cluster_id}


async def _edit(workspace: Workspace, request: Request) -> Json:
    """The whole definition is replaced; a running cluster starts again with the new one."""
    body = await body_of(request)
    found = _in(workspace, body, "RUNNING", "TERMINATED")
    found["spec"] = _all_purpose(workspace, {name: value for name, value in body.items() if name != "cluster_id"})
    if _state(found) == "RUNNING":
        found["start_time"] = now()
    _store(workspace, found)
    return {}


async def _start(workspace: Workspace, request: Request) -> Json:
    wake(workspace, _in(workspace, await body_of(request), "TERMINATED")["cluster_id"])
    return {}


async def _delete(workspace: Workspace, request: Request) -> Json:
    """What Databricks calls deleting: the machines go, the definition and the libraries that stay stay."""
    found = find(workspace, (await body_of(request)).get("cluster_id"))
    if _state(found) != "TERMINATED":
        found["terminated_time"] = now()
        found["libraries"] = [entry for entry in found["libraries"] if not entry["leaving"]]
        _store(workspace, found)
    return {}


async def _permanent_delete(workspace: Workspace, request: Request) -> Json:
    found = find(workspace, (await body_of(request)).get("cluster_id"))
    workspace.records.delete(workspace.record("clusters", found["cluster_id"]))
    return {}


async def _pin(pinned: bool, workspace: Workspace, request: Request) -> Json:
    found = find(workspace, (await body_of(request)).get("cluster_id"))
    _store(workspace, found | {"pinned_by_user_name": workspace.caller if pinned else None})
    return {}


async def _get(workspace: Workspace, request: Request) -> Json:
    return shown(find(workspace, request.query_params.get("cluster_id")))


async def _list(workspace: Workspace, request: Request) -> Json:
    return {"clusters": [shown(found) for _, found in workspace.records.below(workspace.record("clusters"))]}


async def _libraries(action: str, workspace: Workspace, request: Request) -> Json:
    """Installed with the next Spark; uninstalled when the cluster has ended."""
    body = await body_of(request)
    found, asked = find(workspace, body.get("cluster_id")), body.get("libraries", [])
    check_libraries("libraries", asked)
    if _state(found) == "TERMINATED":
        raise CloudError(400, "INVALID_STATE", f"Cluster {found['cluster_id']} is terminated or does not exist")
    kept = [entry for entry in found["libraries"] if entry["library"] not in asked]
    known = [library for library in asked if any(entry["library"] == library for entry in found["libraries"])]
    leaving = action == "uninstall"
    entries = [{"library": library, "leaving": leaving} for library in (known if leaving else asked)]
    _store(workspace, found | {"libraries": kept + entries})
    return {}


async def _status(workspace: Workspace, request: Request) -> Json:
    found = find(workspace, request.query_params.get("cluster_id"))
    ready = "INSTALLED" if _state(found) == "RUNNING" else "PENDING"
    words = {True: "UNINSTALL_ON_RESTART", False: ready}
    entries = [{"library": each["library"], "status": words[each["leaving"]]} for each in found["libraries"]]
    return {"cluster_id": found["cluster_id"], "library_statuses": entries}


async def _permissions(workspace: Workspace, request: Request) -> Json:
    kind, object_id = request.path_params["kind"], request.path_params["id"]
    if kind not in _LEVELS:
        raise CloudError(400, "INVALID_PARAMETER_VALUE", f"The sandbox keeps permissions of {', '.join(_LEVELS)} only.")
    (find if kind == "clusters" else policies.find)(workspace, object_id)
    name, levels = _LEVELS[kind]
    record = workspace.record("permissions", kind, object_id)
    granted: dict[str, str] = workspace.records.get(record) or {}
    if request.method != "GET":
        asked = (await body_of(request)).get("access_control_list", [])
        wrong = sorted({str(entry.get("permission_level")) for entry in asked} - set(levels))
        if wrong:
            raise ValueError(f"{', '.join(wrong)} is no permission level of a {name}: {', '.join(levels)}.")
        changed = {principal_of(entry): entry["permission_level"] for entry in asked}
        granted = changed if request.method == "PUT" else granted | changed
        workspace.records.put(record, granted)
    entries = [
        {who.partition("=")[0]: who.partition("=")[2], "all_permissions": [{"permission_level": what}]}
        for who, what in granted.items()
    ]
    return {"object_id": f"/{kind}/{object_id}", "object_type": name, "access_control_list": entries}


def principal_of(entry: Json) -> str:
    named = [f"{key}={entry[key]}" for key in ("group_name", "user_name", "service_principal_name") if entry.get(key)]
    if len(named) != 1:
        raise ValueError("an access control entry names one of group_name, user_name and service_principal_name.")
    return named[0]


def _all_purpose(workspace: Workspace, body: Json) -> Json:
    spec = accepted(workspace, "cluster", body, "all-purpose")
    minutes = spec.setdefault("autotermination_minutes", 120)
    if minutes and not 10 <= minutes <= 10_000:
        raise ValueError(f"autotermination_minutes must be 0, or from 10 to 10000, not {minutes}.")
    return spec


def _in(workspace: Workspace, body: Json, *states: str) -> Json:
    found = find(workspace, body.get("cluster_id"))
    state = _state(found)
    if state not in states:
        message = f"Cluster {found['cluster_id']} is in unexpected state {state.capitalize()}."
        raise CloudError(400, "INVALID_STATE", message)
    return found


def _state(found: Json) -> str:
    if found.get("terminated_time"):
        return "TERMINATED"
    # A negative age is of a clock that was set back since.
    return "PENDING" if 0 <= now() - found["start_time"] < _START else "RUNNING"


def shown(found: Json) -> Json:
    """The cluster as the service describes it."""
    own = {name: value for name, value in found.items() if name != "libraries" and value is not None}
    return {**found["spec"], **own, "state": _state(found), "cluster_source": "API"}


def _store(workspace: Workspace, found: Json) -> None:
    workspace.records.put(workspace.record("clusters", found["cluster_id"]), found)
