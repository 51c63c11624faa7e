"""The Jobs API 2.0, 2.1 and 2.2: job definitions, and the runs that `execution/runner.py` executes.

2.1 and 2.2 are the same here; answers of 2.0 have no tasks, and 2.0 cannot define a job
("Updating from Jobs API 2.0 to 2.1", https://docs.databricks.com/aws/en/reference/jobs-api-2-1-updates).

Refuses unknown runtimes, clusters and tasks, and cycles, as the service does; and tasks that this machine cannot run:
other types than Python wheels, Python files and notebooks, and runtimes with another Spark line than this pyspark.
A schedule is stored and never starts a run. Lists are sorted newest first. Has no notifications, webhooks or repairs.
"""

import graphlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sandbox.context import CloudError
from sandbox.databricks import clusters
from sandbox.databricks.execution.runner import Runner, is_active, set_state
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of, new_id, now
from sandbox.faults import hinder_operation

# Source: https://docs.databricks.com/aws/en/reference/jobs-api-2-1-updates
_VERSIONS = ("2.0", "2.1", "2.2")
# Source: https://docs.databricks.com/aws/en/reference/jobs-api-2-1-updates
_DEFINING = ("create", "reset", "update", "runs/submit")
# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (Task: python_wheel_task, spark_python_task,
# notebook_task)
_TASKS = ("python_wheel_task", "spark_python_task", "notebook_task")
# Source: databricks/cli libs/testserver/jobs.go (jobFixUps)
_TASK_DEFAULTS: Json = {"run_if": "ALL_SUCCESS", "timeout_seconds": 0, "email_notifications": {}}
# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (RunOutput.logs: "the last 5 MB of these logs")
_LOG_LIMIT = 5_000_000
_INTERNAL = ("settings", "idempotency_token")


def handlers(runner: Runner) -> Iterator[tuple[str, str, Handler]]:
    jobs = _Jobs(runner)
    for version in _VERSIONS:
        prefix = f"/api/{version}/jobs"
        for name in ("create", "reset", "update", "delete", "run-now", "runs/submit", "runs/cancel", "runs/delete"):
            handler = getattr(jobs, "on_" + re.sub(r"\W", "_", name))
            yield "POST", f"{prefix}/{name}", _single_task if version == "2.0" and name in _DEFINING else handler
        for name in ("get", "list", "runs/get", "runs/list", "runs/get-output", "runs/export"):
            handler = getattr(jobs, "on_" + re.sub(r"\W", "_", name))
            yield "GET", f"{prefix}/{name}", _taskless(handler) if version == "2.0" else handler


# Source: https://docs.databricks.com/aws/en/reference/jobs-api-2-1-updates
async def _single_task(workspace: Workspace, request: Request) -> Json:
    raise ValueError(
        "The Jobs API 2.0 defines a job by a single task. The sandbox takes definitions of 2.1 and 2.2 only."
    )


def _taskless(handler: Handler) -> Handler:
    # Source: https://docs.databricks.com/aws/en/reference/jobs-api-2-1-updates
    async def answer(workspace: Workspace, request: Request) -> Json | Response:
        found = await handler(workspace, request)
        return found if isinstance(found, Response) else _untasked(found)

    return answer


def _untasked(found: Json) -> Json:
    """Drop the tasks and clusters of the job or run, and of each job or run in a list."""
    shown = _without(found, "tasks", "job_clusters")
    if "settings" in shown:
        shown["settings"] = _without(shown["settings"], "tasks", "job_clusters")
    for name in ("jobs", "runs"):
        if name in shown:
            shown[name] = [_untasked(entry) for entry in shown[name]]
    return shown


def running(workspace: Workspace) -> Iterator[Json]:
    """Definitions of the job clusters of active runs."""
    for run in _runs(workspace):
        if is_active(run) and run["state"]["life_cycle_state"] != "QUEUED":
            holders = [*run["job_clusters"], *run["tasks"]]
            yield from (holder["new_cluster"] for holder in holders if "new_cluster" in holder)


class _Jobs:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.create)
    async def on_create(self, workspace: Workspace, request: Request) -> Json:
        settings = _checked(workspace, request, await body_of(request))
        job_id = new_id()
        job = {"job_id": job_id, "creator_user_name": workspace.caller, "created_time": now(), "settings": settings}
        workspace.records.put(_record(workspace, "jobs", job_id), job)
        return {"job_id": job_id}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.get)
    async def on_get(self, workspace: Workspace, request: Request) -> Json:
        return find(workspace, request.query_params.get("job_id"))

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.list: name without case, expand_tasks,
    # limit)
    async def on_list(self, workspace: Workspace, request: Request) -> Json:
        wanted = request.query_params.get("name", "").lower()
        found = [job for _, job in workspace.records.below(workspace.record("jobs"))]
        found = [job for job in found if wanted in ("", str(job["settings"].get("name", "")).lower())]
        if request.query_params.get("expand_tasks") != "true":
            found = [job | {"settings": _without(job["settings"], "tasks", "job_clusters")} for job in found]
        return _page(request, "jobs", found, "created_time")

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.reset)
    async def on_reset(self, workspace: Workspace, request: Request) -> Json:
        body = await body_of(request)
        job = find(workspace, body.get("job_id"))
        job["settings"] = _checked(workspace, request, body.get("new_settings", {}))
        workspace.records.put(_record(workspace, "jobs", job["job_id"]), job)
        return {}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.update: arrays are merged by key)
    async def on_update(self, workspace: Workspace, request: Request) -> Json:
        """Replace top-level fields, and merge lists of tasks and clusters by key."""
        body = await body_of(request)
        job = find(workspace, body.get("job_id"))
        old, new = job["settings"], body.get("new_settings", {})
        for field, key in (("tasks", "task_key"), ("job_clusters", "job_cluster_key")):
            if field in new:
                new[field] = list({entry[key]: entry for entry in (*old.get(field, []), *new[field])}.values())
        job["settings"] = _checked(workspace, request, _without(old | new, *body.get("fields_to_remove", [])))
        workspace.records.put(_record(workspace, "jobs", job["job_id"]), job)
        return {}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.delete)
    # No source: delete a job with an active run and see what becomes of the run.
    async def on_delete(self, workspace: Workspace, request: Request) -> Json:
        job = find(workspace, (await body_of(request)).get("job_id"))
        for run in _runs(workspace):
            if run["job_id"] == job["job_id"]:
                self._runner.cancel(run["run_id"])
        workspace.records.delete(_record(workspace, "jobs", job["job_id"]))
        workspace.records.delete(workspace.record("permissions", "jobs", str(job["job_id"])))
        return {}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.run_now: idempotency_token;
    # JobSettings.max_concurrent_runs, queue)
    async def on_run_now(self, workspace: Workspace, request: Request) -> Json:
        body = await body_of(request)
        unknown = set(body) - {"job_id", "idempotency_token", "job_parameters", "queue"}
        if unknown:
            raise ValueError(f"The sandbox does not take {', '.join(sorted(unknown))}: use job_parameters.")
        job = find(workspace, body.get("job_id"))
        token = body.get("idempotency_token")
        if same := _run_of(workspace, token):
            return {"run_id": same["run_id"], "number_in_job": same["number_in_job"]}
        run = _new_run(workspace, job, body.get("job_parameters", {}), token)
        active = [other for other in _runs(workspace) if other["job_id"] == job["job_id"] and is_active(other)]
        queue = job["settings"]["queue"]["enabled"] or body.get("queue", {}).get("enabled")
        if len(active) >= job["settings"]["max_concurrent_runs"] and not queue:
            message = "Skipping this run because the limit of maximum concurrent runs has been reached."
            set_state(run, "SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED", message)
        workspace.records.put(_record(workspace, "runs", run["run_id"]), run)
        if is_active(run):
            self._runner.start(workspace, run, partial(hinder_operation, request))
        return {"run_id": run["run_id"], "number_in_job": run["number_in_job"]}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.submit: idempotency_token)
    async def on_runs_submit(self, workspace: Workspace, request: Request) -> Json:
        """Start a run without a job, with the settings in the request."""
        body = await body_of(request)
        token = body.pop("idempotency_token", None)
        if same := _run_of(workspace, token):
            return {"run_id": same["run_id"]}
        if shared := [task["task_key"] for task in body.get("tasks", []) if "job_cluster_key" in task]:
            raise ValueError(f"tasks {shared}: a one-time run has no job_clusters, give each task a new_cluster.")
        settings = _checked(workspace, request, {"name": body.pop("run_name", None)} | body)
        run = _new_run(workspace, {"job_id": new_id(), "settings": settings}, {}, token) | {"run_type": "SUBMIT_RUN"}
        workspace.records.put(_record(workspace, "runs", run["run_id"]), run)
        self._runner.start(workspace, run, partial(hinder_operation, request))
        return {"run_id": run["run_id"]}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.get_run)
    async def on_runs_get(self, workspace: Workspace, request: Request) -> Json:
        run, task = _run(workspace, request.query_params.get("run_id"))
        return _without(run, *_INTERNAL) if task is None else task | {"job_id": run["job_id"]}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.list_runs: active_only, completed_only,
    # start_time_from, limit)
    async def on_runs_list(self, workspace: Workspace, request: Request) -> Json:
        query = request.query_params
        found = _runs(workspace)
        if "job_id" in query:
            found = [run for run in found if str(run["job_id"]) == query["job_id"]]
        for flag, active in (("active_only", True), ("completed_only", False)):
            if query.get(flag) == "true":
                found = [run for run in found if is_active(run) is active]
        found = [run for run in found if run["start_time"] >= int(query.get("start_time_from", 0))]
        hidden = () if query.get("expand_tasks") == "true" else ("tasks", "job_clusters")
        shown = [_without(run, *_INTERNAL, *hidden) for run in found]
        return _page(request, "runs", shown, "start_time", limit=25, least=0)

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.get_run_output)
    async def on_runs_get_output(self, workspace: Workspace, request: Request) -> Json:
        run, task = _run(workspace, request.query_params.get("run_id"))
        if task is None:
            # Source: databricks/databricks-sdk-py#375 (the same for a run with one task); PrefectHQ/prefect#13127 (400,
            # code and message)
            raise ValueError(
                "Retrieving the output of runs with multiple tasks is not supported. Please retrieve the output of "
                "each individual task run instead."
            )
        content = self._runner.task_log(run, task)
        outcome = {key: task[key] for key in ("error", "error_trace", "notebook_output") if task.get(key)}
        if "notebook_task" in task:
            return {"metadata": task | {"job_id": run["job_id"]}} | outcome
        cut = len(content) > _LOG_LIMIT
        logs = content[-_LOG_LIMIT:].decode(errors="replace")
        return {"metadata": task | {"job_id": run["job_id"]}, "logs": logs, "logs_truncated": cut} | outcome

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.export_run; ViewItem)
    async def on_runs_export(self, workspace: Workspace, request: Request) -> Json:
        run, task = _run(workspace, request.query_params.get("run_id"))
        if task is None or "notebook_task" not in task:
            # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.export_run)
            # No source: export a run without notebook and read the error.
            raise ValueError("Only the run of a notebook task can be exported: name that task's run_id.")
        page = self._runner.task_page(run, task)
        if is_active(task) or not page.exists():
            # No source: export a notebook run that goes on and read the error.
            raise CloudError(400, "INVALID_STATE", f"Run {task['run_id']} has no page: its notebook has not ended.")
        name = task["notebook_task"]["notebook_path"].rpartition("/")[2]
        return {"views": [{"content": page.read_text(), "name": name, "type": "NOTEBOOK"}]}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.cancel_run: asynchronous)
    async def on_runs_cancel(self, workspace: Workspace, request: Request) -> Json:
        run, _ = _run(workspace, (await body_of(request)).get("run_id"))
        self._runner.cancel(run["run_id"])
        return {}

    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.delete_run: "Returns an error if the run
    # is active")
    async def on_runs_delete(self, workspace: Workspace, request: Request) -> Json:
        run, _ = _run(workspace, (await body_of(request)).get("run_id"))
        if is_active(run):
            raise CloudError(400, "INVALID_STATE", f"Run {run['run_id']} is active: cancel it first.")
        workspace.records.delete(_record(workspace, "runs", run["run_id"]))
        if run["idempotency_token"]:
            workspace.records.put(_record(workspace, "deleted-tokens", run["idempotency_token"]), {})
        return {}


def _run_of(workspace: Workspace, token: str | None) -> Json | None:
    """The run that was started with this idempotency token.

    Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.run_now: "If a run with the provided token
    is deleted, an error is returned"; "at most 64 characters")
    """
    if not token:
        return None
    if len(token) > 64:
        raise ValueError("idempotency_token has at most 64 characters.")
    if workspace.records.get(_record(workspace, "deleted-tokens", token)) is not None:
        raise ValueError(f"The run with the idempotency_token {token} was deleted.")
    return next((run for run in _runs(workspace) if run["idempotency_token"] == token), None)


def _record(workspace: Workspace, kind: str, number: object) -> str:
    return workspace.record(kind, str(number))


def find(workspace: Workspace, job_id: Any) -> Json:
    found = workspace.records.get(_record(workspace, "jobs", job_id))
    if found is None:
        # Source: databricks/terraform-provider-databricks jobs/resource_job.go (wrapMissingJobError: "Job %s does not
        # exist.")
        raise CloudError(400, "INVALID_PARAMETER_VALUE", f"Job {job_id} does not exist.")
    return found


def _runs(workspace: Workspace) -> list[Json]:
    return [run for _, run in workspace.records.below(workspace.record("runs"))]


def _run(workspace: Workspace, run_id: Any) -> tuple[Json, Json | None]:
    """The run of that id; for the id of a task's run, the run that contains it, and the task."""
    for run in _runs(workspace):
        if str(run["run_id"]) == str(run_id):
            return run, None
        for task in run["tasks"]:
            if str(task["run_id"]) == str(run_id):
                return run, task
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.get_run_output: "HTTP status code 400 if
    # the run_id parameter is invalid"); databricks/cli experimental/air/cmd/get_test.go (code and message)
    raise CloudError(400, "INVALID_PARAMETER_VALUE", f"Run {run_id} does not exist.")


def _without(body: Json, *fields: str) -> Json:
    return {field: value for field, value in body.items() if field not in fields}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.list: limit 1 to 100, 20 if not set;
# list_runs: 25, a limit of 0 is the maximum)
def _page(request: Request, name: str, found: list[Json], order: str, *, limit: int = 100, least: int = 1) -> Json:
    query = request.query_params
    asked, start = int(query.get("limit", 20)), int(query.get("page_token") or query.get("offset") or 0)
    if not least <= asked <= limit:
        raise ValueError(f"limit must be between 1 and {limit}, not {asked}.")
    end = start + (asked or limit)
    newest = sorted(found, key=lambda entry: entry[order], reverse=True)
    more = {"next_page_token": str(end)} if end < len(newest) else {}
    return {name: newest[start:end], "has_more": bool(more)} | more


def _new_run(workspace: Workspace, job: Json, parameters: Json, token: str | None) -> Json:
    settings, run_id = job["settings"], new_id()
    defaults = {parameter["name"]: parameter["default"] for parameter in settings.get("parameters", [])}
    run: Json = {
        "job_id": job["job_id"],
        "run_id": run_id,
        "number_in_job": run_id,
        "original_attempt_run_id": run_id,
        "run_name": settings["name"],
        "run_page_url": f"{workspace.sandbox.url}/databricks/runs/{run_id}",
        "run_type": "JOB_RUN",
        "format": "MULTI_TASK",
        "trigger": "ONE_TIME",
        "creator_user_name": workspace.caller,
        "start_time": now(),
        "job_parameters": [
            {"name": name, "default": defaults.get(name), "value": str(parameters.get(name, defaults.get(name)))}
            for name in (defaults | parameters)
        ],
        "job_clusters": settings.get("job_clusters", []),
        "tasks": [task | {"run_id": new_id(), "attempt_number": 0, "start_time": now()} for task in settings["tasks"]],
        "settings": settings,
        "idempotency_token": token,
    }
    for part in (run, *run["tasks"]):
        set_state(part, "QUEUED" if part is run else "BLOCKED")
    return run


# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobSettings: name, max_concurrent_runs, queue;
# Task.task_key); databricks/cli libs/testserver/jobs.go (jobFixUps: what the service fills in)
def _checked(workspace: Workspace, request: Request, settings: Json) -> Json:
    """The settings with the service's defaults. Raises `ValueError` with the place and the cause of an error."""
    # Source: databricks/cli bundle/config/mutator/resourcemutator/resource_mutator.go ("API 2.1 which has queueing
    # disabled by default")
    queue = {"enabled": request.url.path.startswith("/api/2.2/")}
    defaults: Json = {"name": "Untitled", "max_concurrent_runs": 1, "timeout_seconds": 0, "queue": queue}
    defaults |= {"email_notifications": {}, "webhook_notifications": {}}
    settings = {key: value for key, value in (defaults | settings).items() if value is not None} | {
        "format": "MULTI_TASK"
    }
    tasks, shared = settings.get("tasks", []), settings.get("job_clusters", [])
    keys = [task.get("task_key", "") for task in tasks]
    if not tasks or len(set(keys)) < len(keys) or not all(re.fullmatch(r"[\w-]{1,100}", key) for key in keys):
        raise ValueError(f"tasks: at least one, each with a unique task_key of letters, digits, - and _; got {keys}.")
    for cluster in shared:
        where = f"job_clusters.{cluster.get('job_cluster_key')}"
        cluster["new_cluster"] = clusters.accepted(workspace, where, cluster.get("new_cluster", {}), "job")
    for task in tasks:
        _check_task(workspace, task, {cluster["job_cluster_key"] for cluster in shared}, set(keys))
    graph = {task["task_key"]: [needed["task_key"] for needed in task.get("depends_on", [])] for task in tasks}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"tasks depend on each other in a cycle: {' -> '.join(error.args[1])}.") from error
    return settings


# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (Task: job_cluster_key, existing_cluster_id,
# depends_on, run_if)
def _check_task(workspace: Workspace, task: Json, shared: set[str], keys: set[str]) -> None:
    where = f"tasks.{task['task_key']}"
    task |= {name: task.get(name, value) for name, value in _TASK_DEFAULTS.items()}
    if "new_cluster" in task:
        task["new_cluster"] = clusters.accepted(workspace, where, task["new_cluster"], "job")
    elif "existing_cluster_id" in task:
        clusters.find(workspace, task["existing_cluster_id"])
    elif task.get("job_cluster_key") not in shared:
        raise ValueError(f"{where}: job_cluster_key {task.get('job_cluster_key')!r} is not one of {sorted(shared)}.")
    kinds = [kind for kind in task if kind.endswith("_task")]
    if len(kinds) != 1 or kinds[0] not in _TASKS:
        raise ValueError(f"{where}: the sandbox runs one of {', '.join(_TASKS)} per task, not {kinds}.")
    unknown = [needed["task_key"] for needed in task.get("depends_on", []) if needed["task_key"] not in keys]
    if unknown or task.get("run_if", "ALL_SUCCESS") != "ALL_SUCCESS":
        raise ValueError(f"{where}: depends_on has unknown tasks {unknown}, or run_if is not ALL_SUCCESS.")
    clusters.check_libraries(where, task.get("libraries", []))
