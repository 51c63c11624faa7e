"""Databricks as a service of a sandbox, composed of this package's modules.

Jobs run as local Spark (`execution/runner.py`), and MLflow is the real server (`tracking.py`); everything else is
records and folders. The records are not Azure resources and lie in a separate store.
"""

import asyncio
import json
import shutil
from collections.abc import Iterator

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


class DatabricksService:
    """Databricks as a service of a sandbox."""

    name = "databricks"

    def __init__(self, sandbox: Sandbox) -> None:
        (sandbox.folder / "databricks").mkdir(parents=True, exist_ok=True)
        self._sandbox = sandbox
        self._records = ResourceStore(sandbox.folder / "databricks" / "records.db")
        self._runner = Runner(sandbox, self._records)

    def routes(self) -> list[BaseRoute]:
        sandbox, records = self._sandbox, self._records
        handlers = [*unity_catalog.handlers(), *files.handlers(), *folder_permissions.handlers()]
        handlers += [*clusters.handlers(), *policies.handlers()]
        handlers += [*secrets.handlers(), *jobs.handlers(self._runner), *tracking.handlers()]
        handlers += [*permissions.handlers(), ("GET", "/api/2.0/preview/scim/v2/Me", _me)]
        api: list[BaseRoute] = [
            Route(path, endpoint(sandbox, records, handler), methods=[method]) for method, path, handler in handlers
        ]
        refusal = endpoint(sandbox, records, _left_out)
        api.append(Route("/api/2.{minor:int}/{path:path}", refusal, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]))
        return [
            *api,
            Route("/databricks/runs/{run_id:int}", self._run_page),
            Route("/compute/clusters/{cluster_id}", self._cluster_page),
            Route("/ml/experiments/{path:path}", self._experiment_page),
            Route("/.well-known/databricks-config", _no_configuration),
        ]

    def behaviours(self) -> dict[str, Behaviour]:
        return {"microsoft.databricks/workspaces": Behaviour(on_delete=self._remove)}

    def machines(self) -> Iterator[Machines]:
        """Machines of running clusters and runs. They lie in the customer's subscription and use its quota.

        https://learn.microsoft.com/azure/databricks/resources/limits
        """
        for workspace in self._workspaces():
            location = str((self._sandbox.store.get(workspace.resource_id) or {}).get("location", ""))
            for definition in (*clusters.running(workspace), *jobs.running(workspace)):
                yield from clusters.machines(definition, location)

    async def resume(self) -> None:
        self._runner.end_interrupted()
        for workspace in self._workspaces():
            tracking.resume(workspace)

    async def shutdown(self) -> None:
        await self._runner.stop()
        await tracking.stop(self._sandbox.folder)
        self._records.close()

    def _workspaces(self) -> list[Workspace]:
        ids = (resource_id for resource_id, _ in self._sandbox.store.below("/subscriptions"))
        return [Workspace(self._sandbox, self._records, found, "") for found in ids if is_workspace(found)]

    # No source: delete a workspace and create it again under its name: its jobs, clusters and scopes are gone.
    async def _remove(self, sandbox: Sandbox, resource_id: str, body: Body) -> None:
        workspace = Workspace(sandbox, self._records, resource_id, "")
        await self._runner.forget(workspace)
        await tracking.forget(workspace)
        await asyncio.to_thread(shutil.rmtree, workspace.folder, ignore_errors=True)

    async def _run_page(self, request: Request) -> Response:
        """State and log of a run as text. Needs no token, because only this machine reaches the port."""
        run_id = request.path_params["run_id"]
        run = self._record(f"/runs/{run_id}")
        if run is None:
            return PlainTextResponse(f"Run {run_id} does not exist.\n", 404)
        lines = [f"{run['run_name']} · run {run_id} · {_words(run)}", ""]
        for task in run["tasks"]:
            lines += [f"{task['task_key']} · {_words(task)}", task.get("error") or "", ""]
        for log in self._runner.logs(run):
            lines += [f"--- {log.name} (its end)", *log.read_text(errors="replace").splitlines()[-40:], ""]
        return PlainTextResponse("\n".join(lines), headers={"Refresh": "2"})

    async def _cluster_page(self, request: Request) -> Response:
        cluster_id = request.path_params["cluster_id"]
        cluster = self._record(f"/clusters/{cluster_id}")
        if cluster is None:
            return PlainTextResponse(f"Cluster {cluster_id} does not exist.\n", 404)
        return PlainTextResponse(f"{json.dumps(clusters.shown(cluster), indent=2)}\n")

    async def _experiment_page(self, request: Request) -> Response:
        """Redirect to the page of MLflow, that of the first workspace if there are several. Needs no token either."""
        for workspace in self._workspaces():
            return RedirectResponse(f"{tracking.address(workspace)}/#{request.url.path.removeprefix('/ml')}")
        return PlainTextResponse("There is no workspace.\n", 404)

    def _record(self, suffix: str) -> Body | None:
        return next((body for record, body in self._records.below("") if record.endswith(suffix)), None)


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


# Source: databricks-sdk==0.156.0 databricks/sdk/config.py (/.well-known/databricks-config)
async def _no_configuration(request: Request) -> Response:
    """An empty answer: the SDK requests the document at every start, and warns without it."""
    return JSONResponse({})


def _words(part: Json) -> str:
    state = part["state"]
    return " ".join((state["life_cycle_state"], state.get("result_state", ""), state["state_message"])).strip()
