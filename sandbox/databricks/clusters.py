"""All-purpose clusters: the Clusters API 2.0 and 2.1, which are the same here, and the libraries on them.

A cluster is a record, without a process. It is PENDING for half a second, then RUNNING. A run on the cluster starts its
own Spark with this definition and these libraries, and ends it; the next run does not share its memory.
Auto-termination is stored and never happens. A cluster's policy (`policies.py`) also applies to admins, as on
Databricks. Does not resize or restart.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyspark
from starlette.requests import Request

from sandbox.arm import subscriptions
from sandbox.context import CloudError, Machines
from sandbox.databricks import policies
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of, new_id, now

# The supported versions are also in infra/planning/compatibility.yaml: tests/conformance/test_documented_lists.py
# compares them.
# Source: https://docs.databricks.com/release-notes/runtime (versions with their Spark, read 2026-11; 18.0 as beta)
# No source: the Scala versions that spark-versions lists for each, which that page does not give: databricks clusters
# spark-versions.
RUNTIMES = {
    "14.3.x-scala2.12": "3.5.0",
    "15.4.x-scala2.12": "3.5.0",
    "16.4.x-scala2.12": "3.5.2",
    "16.4.x-scala2.13": "3.5.2",
    "17.3.x-scala2.13": "4.0.0",
    "18.0.x-scala2.13": "4.1.0",
}
"""Databricks runtimes, each with its version of Spark."""
# Source: https://docs.databricks.com/release-notes/runtime (LTS)
LONG_TERM_SUPPORT = ("14.3", "15.4", "16.4", "17.3")
_LIBRARIES = ("whl", "maven", "pypi")
_START = 500
"""Milliseconds from PENDING to RUNNING."""


def handlers() -> Iterator[tuple[str, str, Handler]]:
    writes: dict[str, Handler] = {"create": _create, "edit": _edit, "start": _start, "delete": _delete}
    writes |= {"permanent-delete": _permanent_delete, "pin": partial(_pin, True), "unpin": partial(_pin, False)}
    reads: dict[str, Handler] = {"get": _get, "list": _list}
    reads |= {"spark-versions": _spark_versions, "list-node-types": _node_types}
    for version in ("2.0", "2.1"):
        yield from (("POST", f"/api/{version}/clusters/{name}", handler) for name, handler in writes.items())
        yield from (("GET", f"/api/{version}/clusters/{name}", handler) for name, handler in reads.items())
    for name in ("install", "uninstall"):
        yield "POST", f"/api/2.0/libraries/{name}", partial(_libraries, name)
    yield "GET", "/api/2.0/libraries/cluster-status", _status


def find(workspace: Workspace, cluster_id: Any) -> Json:
    """The record: `spec` as it was sent, `libraries`, `start_time`, and `terminated_time` of a terminated cluster."""
    record = workspace.records.get(workspace.record("clusters", str(cluster_id)))
    if record is None:
        # Source: databricks/terraform-provider-databricks clusters/clusters_api_test.go (INVALID_PARAMETER_VALUE,
        # "Cluster abc does not exist")
        raise CloudError(400, "INVALID_PARAMETER_VALUE", f"Cluster {cluster_id} does not exist")
    return record


def wake(workspace: Workspace, cluster_id: str) -> Json:
    """The record of a cluster that a run needs. Starts the cluster if it is terminated."""
    record = find(workspace, cluster_id)
    if _state(record) == "TERMINATED":
        record["start_time"], record["terminated_time"] = now(), None
        _store(workspace, record)
    return record


def running(workspace: Workspace) -> Iterator[Json]:
    """Definitions of the clusters that have machines: all that are not terminated."""
    for _, record in workspace.records.below(workspace.record("clusters")):
        if _state(record) != "TERMINATED":
            yield record["spec"]


def machines(definition: Json, location: str) -> Iterator[Machines]:
    """Machines of the driver and the workers; for an autoscaled cluster, of its least number of workers."""
    worker = definition.get("node_type_id", "")
    azure = definition.get("azure_attributes") or {}
    on_demand = azure.get("first_on_demand", 1) if "SPOT" in str(azure.get("availability", "")) else None
    workers = definition.get("num_workers") or (definition.get("autoscale") or {}).get("min_workers", 0)
    dedicated = workers if on_demand is None else min(workers, max(0, on_demand - 1))
    yield Machines(location, definition.get("driver_node_type_id") or worker, 1, spot=on_demand == 0)
    yield Machines(location, worker, dedicated)
    yield Machines(location, worker, workers - dedicated, spot=True)


def accepted(workspace: Workspace, where: str, definition: Json, kind: str) -> Json:
    """The definition with the values that its policy fixes.

    Raises `ValueError` if the policy or the service refuses it, or if it needs another Spark than this machine has.
    """
    cluster = policies.applied(workspace, definition, kind)
    version = cluster.get("spark_version", "")
    if version not in RUNTIMES:
        # Source: databrickslabs/dbx#782 (INVALID_PARAMETER_VALUE, "Invalid spark version")
        raise ValueError(f"{where}: Invalid spark version {version}; known are {', '.join(RUNTIMES)}.")
    line = pyspark.__version__.rpartition(".")[0]
    if not RUNTIMES[version].startswith(f"{line}.") or not version.endswith("scala2.12"):
        raise ValueError(
            f"{where}: {version} is Spark {RUNTIMES[version]}; the sandbox has {pyspark.__version__} for Scala 2.12."
        )
    if not (cluster.get("node_type_id") or cluster.get("instance_pool_id")):
        # Source: databricks/terraform-provider-databricks#2521 (INVALID_PARAMETER_VALUE and the message);
        # MicrosoftDocs/azure-docs#74564 (a pool is enough)
        raise ValueError(f"{where}: Missing required field 'node_type_id'")
    workers, autoscale = cluster.get("num_workers"), cluster.get("autoscale")
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (CreateCluster: size is num_workers or
    # autoscale)
    if (workers is None) == (autoscale is None):
        raise ValueError(f"{where}: exactly one of num_workers and autoscale is required.")
    single = cluster.get("is_single_node") or cluster.get("spark_conf", {}).get("spark.databricks.cluster.profile")
    # Source: databricks/terraform-provider-databricks clusters/clusters_api.go (NumWorkers could be 0 only for
    # SingleNode clusters)
    if workers == 0 and not single:
        raise ValueError(f"{where}: num_workers could be 0 only for single node clusters: set is_single_node.")
    return cluster


def check_libraries(where: str, libraries: list[Json]) -> None:
    kinds = [kind for library in libraries for kind in library if kind not in _LIBRARIES]
    if kinds:
        raise ValueError(f"{where}: the sandbox has libraries of type whl, maven and pypi, not {kinds}.")


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.create: PENDING when it returns);
# databricks/cli libs/testserver/clusters.go (ClustersCreate: single_user_name; clusterFixUps: driver_node_type_id)
async def _create(workspace: Workspace, request: Request) -> Json:
    spec = _all_purpose(workspace, await body_of(request))
    spec.setdefault("driver_node_type_id", spec.get("node_type_id"))
    if spec.get("data_security_mode") == "SINGLE_USER":
        spec.setdefault("single_user_name", workspace.caller)
    number = new_id()
    cluster_id = f"{number // 10**12:04d}-{number // 10**6 % 10**6:06d}-{number % 10**6:06d}"
    record = {"cluster_id": cluster_id, "creator_user_name": workspace.caller, "start_time": now()}
    _store(workspace, record | {"spec": spec, "libraries": []})
    return {"cluster_id": cluster_id}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.edit: RUNNING or TERMINATED, else
# INVALID_STATE; a running one restarts)
async def _edit(workspace: Workspace, request: Request) -> Json:
    """Replace the whole definition. A running cluster restarts with it."""
    body = await body_of(request)
    record = _in(workspace, body, "RUNNING", "TERMINATED")
    record["spec"] = _all_purpose(workspace, {name: value for name, value in body.items() if name != "cluster_id"})
    if _state(record) == "RUNNING":
        record["start_time"] = now()
    _store(workspace, record)
    return {}


# Source: databricks/cli cmd/workspace/clusters/overrides_test.go (INVALID_STATE, "Cluster abc is in unexpected state
# Running.")
async def _start(workspace: Workspace, request: Request) -> Json:
    wake(workspace, _in(workspace, await body_of(request), "TERMINATED")["cluster_id"])
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.delete)
async def _delete(workspace: Workspace, request: Request) -> Json:
    """Terminate the cluster, which the API calls delete. Its definition is kept, and its libraries but leaving ones."""
    record = find(workspace, (await body_of(request)).get("cluster_id"))
    if _state(record) != "TERMINATED":
        record["terminated_time"] = now()
        record["libraries"] = [entry for entry in record["libraries"] if not entry["leaving"]]
        _store(workspace, record)
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.permanent_delete)
async def _permanent_delete(workspace: Workspace, request: Request) -> Json:
    record = find(workspace, (await body_of(request)).get("cluster_id"))
    workspace.records.delete(workspace.record("clusters", record["cluster_id"]))
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.pin; unpin)
async def _pin(pinned: bool, workspace: Workspace, request: Request) -> Json:
    record = find(workspace, (await body_of(request)).get("cluster_id"))
    _store(workspace, record | {"pinned_by_user_name": workspace.caller if pinned else None})
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.get)
async def _get(workspace: Workspace, request: Request) -> Json:
    return shown(find(workspace, request.query_params.get("cluster_id")))


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.list)
async def _list(workspace: Workspace, request: Request) -> Json:
    return {"clusters": [shown(record) for _, record in workspace.records.below(workspace.record("clusters"))]}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.spark_versions)
async def _spark_versions(workspace: Workspace, request: Request) -> Json:
    versions = []
    for key, spark in RUNTIMES.items():
        line, _, scala = key.partition(".x-scala")
        long_term = " LTS" if line in LONG_TERM_SUPPORT else ""
        name = f"{line}{long_term} (includes Apache Spark {spark}, Scala {scala})"
        versions.append({"key": key, "name": name})
    return {"versions": versions}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClustersAPI.list_node_types)
async def _node_types(workspace: Workspace, request: Request) -> Json:
    """The VM sizes of `offerings.yaml`."""
    sizes = subscriptions.table(workspace.sandbox)["sizes"]
    node_types = [
        {"node_type_id": name, "instance_type_id": name, "description": name, "num_cores": float(size["vcpus"])}
        | {"memory_mb": size["memory"] * 1024, "num_gpus": 0, "is_deprecated": False}
        | {"category": "Storage Optimized" if name.startswith("Standard_L") else "General Purpose"}
        for name, size in sizes.items()
        if size
    ]
    return {"node_types": node_types}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (LibrariesAPI.install; uninstall: when the cluster
# is restarted, an unknown library is ignored); MicrosoftDocs/azure-docs#96960 (a terminated cluster takes them, too);
# databricks/terraform-provider-databricks#4353 (and does not start for them)
async def _libraries(action: str, workspace: Workspace, request: Request) -> Json:
    """Add libraries for the next Spark, or mark libraries as leaving until the cluster is terminated."""
    body = await body_of(request)
    record, asked = find(workspace, body.get("cluster_id")), body.get("libraries", [])
    check_libraries("libraries", asked)
    kept = [entry for entry in record["libraries"] if entry["library"] not in asked]
    known = [library for library in asked if any(entry["library"] == library for entry in record["libraries"])]
    leaving, ended = action == "uninstall", _state(record) == "TERMINATED"
    entries = [{"library": library, "leaving": leaving} for library in (known if leaving else asked)]
    if leaving and ended:
        entries = []
    _store(workspace, record | {"libraries": kept + entries})
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (LibrariesAPI.cluster_status; LibraryInstallStatus)
async def _status(workspace: Workspace, request: Request) -> Json:
    record = find(workspace, request.query_params.get("cluster_id"))
    ready = "INSTALLED" if _state(record) == "RUNNING" else "PENDING"
    words = {True: "UNINSTALL_ON_RESTART", False: ready}
    entries = [{"library": each["library"], "status": words[each["leaving"]]} for each in record["libraries"]]
    return {"cluster_id": record["cluster_id"], "library_statuses": entries}


def _all_purpose(workspace: Workspace, body: Json) -> Json:
    spec = accepted(workspace, "cluster", body, "all-purpose")
    minutes = spec.setdefault("autotermination_minutes", 0)
    if minutes and not 10 <= minutes <= 10_000:
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (CreateCluster.autotermination_minutes: 0,
        # or between 10 and 10000; not set is never)
        raise ValueError(f"autotermination_minutes must be 0, or from 10 to 10000, not {minutes}.")
    return spec


def _in(workspace: Workspace, body: Json, *states: str) -> Json:
    record = find(workspace, body.get("cluster_id"))
    state = _state(record)
    if state not in states:
        message = f"Cluster {record['cluster_id']} is in unexpected state {state.capitalize()}."
        # Source: databricks/cli cmd/workspace/clusters/overrides_test.go (INVALID_STATE, "Cluster abc is in unexpected
        # state Running.")
        raise CloudError(400, "INVALID_STATE", message)
    return record


def _state(record: Json) -> str:
    if record.get("terminated_time"):
        return "TERMINATED"
    # A negative age means that the clock was set back.
    return "PENDING" if 0 <= now() - record["start_time"] < _START else "RUNNING"


def shown(record: Json) -> Json:
    """The cluster as the API returns it."""
    own = {name: value for name, value in record.items() if name != "libraries" and value is not None}
    return {**record["spec"], **own, "state": _state(record), "cluster_source": "API"}


def _store(workspace: Workspace, record: Json) -> None:
    workspace.records.put(workspace.record("clusters", record["cluster_id"]), record)
