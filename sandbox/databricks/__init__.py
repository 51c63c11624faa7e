"""The Databricks stand-in: Unity Catalog, files, jobs and MLflow of the workspaces that the ARM store holds.

Jobs really run, as local Spark (`runner.py`), and MLflow is the real one (`tracking.py`); everything else is records
and folders. Records lie in a store of their own, beside ARM's: they are no Azure resources.
"""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.arm.store import Body, ResourceStore
from sandbox.context import Behaviour, CloudError, Machines, Sandbox
from sandbox.databricks import (
    clusters,
    files,
    folder_permissions,
    jobs,
    permissions,
    policies,
    secrets,
    tracking,
    unity_catalog,
)
from sandbox.databricks.execution.runner import Runner
from sandbox.databricks.workspace import Json, Workspace, endpoint, is_workspace

_LEFT_OUT = {
    "clusters/": "resizing, restarting or events of clusters",
    "dbfs/": "DBFS",
    "instance-pools/": "instance pools",
    "jobs/": "repairs of runs, or task types of older versions",
    "pipelines": "pipelines",
    "preview/scim/": "users and groups",
    "repos": "Git folders",
    "serving-endpoints": "model serving",
    "sql/": "SQL warehouses and queries",
    "token": "personal access tokens",
    "unity-catalog/": "tables, functions, models and shares of Unity Catalog",
}


@dataclass(frozen=True)
class _Service:
    records: ResourceStore
    runner: Runner


_services: dict[Path, _Service] = {}


def _service(sandbox: Sandbox) -> _Service:
    """The one service of this sandbox; its parts are asked for separately, by folder."""
    if sandbox.folder not in _services:
        (sandbox.folder / "databricks").mkdir(parents=True, exist_ok=True)
        records = ResourceStore(sandbox.folder / "databricks" / "records.db")
        _services[sandbox.folder] = _Service(records, Runner(sandbox, records))
    return _services[sandbox.folder]


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    service = _service(sandbox)
    handlers = [*unity_catalog.handlers(), *files.handlers(), *folder_permissions.handlers()]
    handlers += [*clusters.handlers(), *policies.handlers()]
    handlers += [*secrets.handlers(), *jobs.handlers(service.runner), *tracking.handlers()]
    handlers += [*permissions.handlers(), ("GET", "/api/2.0/preview/scim/v2/Me", _me)]
    api: list[BaseRoute] = [
        Route(path, endpoint(sandbox, service.records, handler), methods=[method]) for method, path, handler in handlers
    ]

    refusal = endpoint(sandbox, service.records, _left_out)
    api.append(Route("/api/2.{minor:int}/{path:path}", refusal, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]))

    async def page(request: Request) -> Response:
        return _run_page(service, request.path_params["run_id"])

    async def cluster(request: Request) -> Response:
        return _cluster_page(service.records, request.path_params["cluster_id"])

    async def experiment(request: Request) -> Response:
        """Without a token, as below; of several workspaces, MLflow's page of the first."""
        for workspace in _workspaces(sandbox, service.records):
            return RedirectResponse(f"{tracking.address(workspace)}/#{request.url.path.removeprefix('/ml')}")
        return PlainTextResponse("There is no workspace.\n", 404)

    # Source: databricks-sdk==0.156.0 databricks/sdk/config.py (/.well-known/databricks-config)
    async def nothing(request: Request) -> Response:
        return JSONResponse({})  # the SDK asks at every start, and warns where it finds no answer

    api += [Route("/databricks/runs/{run_id:int}", page), Route("/compute/clusters/{cluster_id}", cluster)]
    api += [Route("/ml/experiments/{path:path}", experiment), Route("/.well-known/databricks-config", nothing)]
    return api


def behaviours(sandbox: Sandbox) -> dict[str, Behaviour]:
    # No source: delete a workspace and create it again under its name: its jobs, clusters and scopes are gone.
    async def remove(_: Sandbox, resource_id: str, body: Body) -> None:
        service = _service(sandbox)
        workspace = Workspace(sandbox, service.records, resource_id, "")
        await service.runner.forget(workspace)
        await tracking.forget(workspace)
        await asyncio.to_thread(shutil.rmtree, workspace.folder, ignore_errors=True)

    return {"microsoft.databricks/workspaces": Behaviour(on_delete=remove)}


def machines(sandbox: Sandbox) -> Iterator[Machines]:
    """Machines of running clusters and runs. They lie in the customer's subscription and use its quota.

    https://learn.microsoft.com/azure/databricks/resources/limits
    """
    service = _service(sandbox)
    for workspace in _workspaces(sandbox, service.records):
        location = str((sandbox.store.get(workspace.resource_id) or {}).get("location", ""))
        for definition in (*clusters.running(workspace), *jobs.running(workspace)):
            yield from clusters.machines(definition, location)


async def resume(sandbox: Sandbox) -> None:
    service = _service(sandbox)
    service.runner.end_interrupted()
    for workspace in _workspaces(sandbox, service.records):
        tracking.resume(workspace)


async def shutdown(sandbox: Sandbox) -> None:
    if service := _services.pop(sandbox.folder, None):
        await service.runner.stop()
        await tracking.stop(sandbox.folder)
        service.records.close()


def _workspaces(sandbox: Sandbox, records: ResourceStore) -> list[Workspace]:
    every = (resource_id for resource_id, _ in sandbox.store.below("/subscriptions") if is_workspace(resource_id))
    return [Workspace(sandbox, records, resource_id, "") for resource_id in every]


# Source: databricks-sdk==0.156.0 databricks/sdk/service/iam.py (CurrentUserAPI.me)
async def _me(workspace: Workspace, request: Request) -> Json:
    return {"id": "1", "userName": workspace.caller, "displayName": workspace.caller, "active": True}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/networking.py (ErrorCode)
async def _left_out(workspace: Workspace, request: Request) -> Json:
    path = request.path_params["path"]
    for prefix, name in _LEFT_OUT.items():
        if path.startswith(prefix):
            raise CloudError(501, "NOT_IMPLEMENTED", f"The sandbox leaves out {name} ('{request.url.path}').")
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/networking.py (ErrorCode)
    raise CloudError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{request.method} {request.url.path}'.")


def _run_page(service: _Service, run_id: int) -> Response:
    """State and output of a run as text, without a token: the port is this machine's own."""
    run = next((body for record, body in service.records.below("") if record.endswith(f"/runs/{run_id}")), None)
    if run is None:
        return PlainTextResponse(f"There is no run {run_id}.\n", 404)
    lines = [f"{run['run_name']} · run {run_id} · {_words(run)}", ""]
    for task in run["tasks"]:
        lines += [f"{task['task_key']} · {_words(task)}", task.get("error") or "", ""]
    for log in service.runner.logs(run):
        lines += [f"--- {log.name} (its end)", *log.read_text(errors="replace").splitlines()[-40:], ""]
    return PlainTextResponse("\n".join(lines), headers={"Refresh": "2"})


def _cluster_page(records: ResourceStore, cluster_id: str) -> Response:
    found = next((body for record, body in records.below("") if record.endswith(f"/clusters/{cluster_id}")), None)
    if found is None:
        return PlainTextResponse(f"There is no cluster {cluster_id}.\n", 404)
    return PlainTextResponse(f"{json.dumps(clusters.shown(found), indent=2)}\n")


def _words(part: Json) -> str:
    state = part["state"]
    return " ".join((state["life_cycle_state"], state.get("result_state", ""), state["state_message"])).strip()
