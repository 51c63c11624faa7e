"""Executes job runs: tasks in the order of their dependencies, with retries and timeouts, on `cluster.py`'s drivers.

A run ends with the sandbox: after a restart, a run that was active is `FAILED`.
Does not mount /Volumes: an argument that is a volume path is replaced by the lake's folder. Substitutes the references
`{{job.id}}`, `.name`, `.run_id`, `.start_time.iso_date`, `.parameters.<name>`, `{{task.name}}` and `{{task.run_id}}`;
leaves others unchanged. A retry keeps the run id of its task.
"""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path

from sandbox.arm.store import ResourceStore
from sandbox.context import CloudError, Sandbox
from sandbox.databricks import clusters, secrets
from sandbox.databricks.execution.cluster import DRIVER_LOG, POLL, Launch, SparkCluster, TaskFailed
from sandbox.databricks.files import local_path
from sandbox.databricks.unity_catalog import volumes
from sandbox.databricks.workspace import Json, Workspace, now

# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (RunLifeCycleState)
_ACTIVE = {"QUEUED", "BLOCKED", "PENDING", "RUNNING", "TERMINATING"}
_STOPPED = "the sandbox was stopped while it ran"
# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (TerminationCodeCode)
_CODES = {  # termination code by result state
    "CANCELED": "USER_CANCELED",
    "FAILED": "RUN_EXECUTION_ERROR",
    "MAXIMUM_CONCURRENT_RUNS_REACHED": "MAX_CONCURRENT_RUNS_EXCEEDED",
    "SUCCESS": "SUCCESS",
    "TIMEDOUT": "CANCELED",
    "UPSTREAM_FAILED": "SKIPPED",
}
# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (TerminationTypeType)
_TYPES = {"DRIVER_ERROR": "INTERNAL_ERROR"} | {it: it for it in ("CLOUD_FAILURE", "INTERNAL_ERROR", "SUCCESS")}


def is_active(run: Json) -> bool:
    return run["state"]["life_cycle_state"] in _ACTIVE


def set_state(part: Json, life_cycle: str, result: str | None = None, message: str = "", code: str = "") -> None:
    """Set the state of a run or of a task's run; `code` overrides the termination code of the result."""
    stopped = result in ("CANCELED", "TIMEDOUT")
    part["state"] = {"life_cycle_state": life_cycle, "state_message": message, "user_cancelled_or_timedout": stopped}
    part["status"] = {"state": life_cycle if life_cycle in _ACTIVE else "TERMINATED"}
    if result:
        part["state"]["result_state"] = result
        code = code or _CODES[result]
        details = {"code": code, "type": _TYPES.get(code, "CLIENT_ERROR"), "message": message}
        part["status"]["termination_details"] = details
    if life_cycle == "RUNNING":
        part["setup_duration"] = max(0, now() - part["start_time"])
    if life_cycle not in _ACTIVE:
        part["end_time"] = now()
        # Not negative after the clock was set back.
        part["execution_duration"] = max(0, part["end_time"] - part["start_time"] - part.get("setup_duration", 0))


class Runner:
    def __init__(self, sandbox: Sandbox, records: ResourceStore) -> None:
        self._sandbox = sandbox
        self._records = records
        self._running: dict[int, asyncio.Task[None]] = {}

    def start(self, workspace: Workspace, run: Json, launch: Launch) -> None:
        execution = _Execution(workspace, run, self._folder(run), launch)
        task = asyncio.create_task(execution.run())
        self._running[run["run_id"]] = task
        task.add_done_callback(lambda _: self._running.pop(run["run_id"], None))

    def cancel(self, run_id: int) -> None:
        if running := self._running.get(run_id):
            running.cancel("Run cancelled.")

    async def stop(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel(_STOPPED)
        await asyncio.gather(*running, return_exceptions=True)

    async def forget(self, workspace: Workspace) -> None:
        """End the workspace's runs, then remove all its records: an ending run still writes to them."""
        runs = {run["run_id"] for _, run in self._records.below(workspace.record("runs"))}
        ending = [task for run_id, task in self._running.items() if run_id in runs]
        for task in ending:
            task.cancel("Run cancelled.")
        await asyncio.gather(*ending, return_exceptions=True)
        self._records.delete(workspace.resource_id)

    def end_interrupted(self) -> None:
        """Set the runs that were active when the sandbox ended to `FAILED`; called after a restart."""
        for record, run in self._records.below(""):
            if "/runs/" in record and is_active(run) and run["run_id"] not in self._running:
                for part in (run, *run["tasks"]):
                    if is_active(part):
                        set_state(part, "INTERNAL_ERROR", "FAILED", _STOPPED, "INTERNAL_ERROR")
                self._records.put(record, run)

    def task_log(self, run: Json, task: Json) -> bytes:
        log = self._folder(run) / f"{task['task_key']}.log"
        return log.read_bytes() if log.exists() else b""

    def task_page(self, run: Json, task: Json) -> Path:
        """Path of the page with the notebook and its output."""
        return self._folder(run) / f"{task['task_key']}.html"

    def logs(self, run: Json) -> list[Path]:
        """Output of the run's tasks and drivers. The drivers' other files may vanish while they are listed."""
        folder = self._folder(run)
        return sorted((*folder.glob("*.log"), *folder.glob(f"*/*/{DRIVER_LOG}")))

    def _folder(self, run: Json) -> Path:
        return self._sandbox.folder / "runs" / str(run["run_id"])


class _Execution:
    def __init__(self, workspace: Workspace, run: Json, folder: Path, launch: Launch) -> None:
        self._workspace = workspace
        self._run = run
        self._folder = folder
        self._launch = launch
        self._clusters: dict[str, SparkCluster] = {}
        self._outcomes: dict[str, asyncio.Task[str]] = {}

    async def run(self) -> None:
        try:
            await self._wait_in_queue()
            self._folder.mkdir(parents=True)
            set_state(self._run, "PENDING")
            self._save()
            async with asyncio.timeout(self._run["settings"]["timeout_seconds"] or None):
                async with asyncio.TaskGroup() as group:
                    for task in self._run["tasks"]:
                        self._outcomes[task["task_key"]] = group.create_task(self._task(task))
            self._conclude()
        except TimeoutError:
            self._end("TERMINATED", "TIMEDOUT", "The run was stopped after its timeout_seconds.")
        except asyncio.CancelledError as stop:
            reason = str(stop.args[0]) if stop.args else _STOPPED
            stopped = reason == _STOPPED
            set_state(self._run, "TERMINATING", message=reason)
            self._save()
            await self._stop_clusters(at_once=True)
            self._end("INTERNAL_ERROR" if stopped else "TERMINATED", "FAILED" if stopped else "CANCELED", reason)
        except Exception as error:
            self._end("INTERNAL_ERROR", "FAILED", f"The sandbox failed: {type(error).__name__}: {error}")
            raise
        finally:
            await self._stop_clusters()

    async def _wait_in_queue(self) -> None:
        """Wait until fewer than `max_concurrent_runs` earlier runs of the job are active."""
        run = self._run
        while True:
            others = (other for _, other in self._workspace.records.below(self._workspace.record("runs")))
            before = [other for other in others if other["job_id"] == run["job_id"] and other["run_id"] < run["run_id"]]
            if sum(map(is_active, before)) < run["settings"]["max_concurrent_runs"]:
                return
            await asyncio.sleep(POLL)

    def _conclude(self) -> None:
        failed = [task for task in self._run["tasks"] if task["state"]["result_state"] in ("FAILED", "TIMEDOUT")]
        if not failed:
            return self._end("TERMINATED", "SUCCESS", "")
        causes = ", ".join(f"Task {t['task_key']} failed with message: {t['state']['state_message']}" for t in failed)
        self._end("INTERNAL_ERROR", "FAILED", f"{causes} This caused all downstream tasks to get skipped.")

    def _end(self, life_cycle: str, result: str, message: str) -> None:
        for part in (*self._run["tasks"], self._run):
            if is_active(part):
                set_state(part, life_cycle, result, message)
        self._save()

    async def _stop_clusters(self, *, at_once: bool = False) -> None:
        await asyncio.gather(*(cluster.stop(at_once=at_once) for cluster in self._clusters.values()))

    def _save(self) -> None:
        self._workspace.records.put(self._workspace.record("runs", str(self._run["run_id"])), self._run)

    async def _task(self, task: Json) -> str:
        await asyncio.sleep(0)  # then every task is in `_outcomes`
        needed = [await self._outcomes[above["task_key"]] for above in task.get("depends_on", [])]
        if any(outcome != "SUCCESS" for outcome in needed):
            set_state(task, "SKIPPED", "UPSTREAM_FAILED", "An upstream task failed.")
            self._save()
            return "UPSTREAM_FAILED"
        attempts, retries = 0, task.get("max_retries", 0)
        while True:
            result = await self._attempt(task)
            retry = result == "FAILED" or (result == "TIMEDOUT" and task.get("retry_on_timeout"))
            if not retry or attempts == retries:  # -1: unlimited retries
                return result
            attempts += 1
            await asyncio.sleep(task.get("min_retry_interval_millis", 0) / 1000)
            task["attempt_number"] = attempts

    async def _attempt(self, task: Json) -> str:
        try:
            cluster = self._cluster(task)
        except CloudError as error:
            set_state(task, "INTERNAL_ERROR", "FAILED", error.message, "CLUSTER_ERROR")
            self._save()
            return "FAILED"
        async with cluster.lock:
            task |= {"start_time": now(), "error": None, "error_trace": None}
            set_state(task, "PENDING")
            self._save()
            try:
                async with asyncio.timeout(task.get("timeout_seconds") or None):
                    await cluster.start()
                    set_state(task, "RUNNING")
                    if self._run["state"]["life_cycle_state"] == "PENDING":
                        set_state(self._run, "RUNNING")
                    self._save()
                    done = await cluster.execute(self._order(task))
                    if "notebook_task" in task:
                        task["notebook_output"] = {"result": done["result"], "truncated": False}
                set_state(task, "TERMINATED", "SUCCESS")
            except TimeoutError:
                await cluster.stop(at_once=True)
                set_state(task, "TERMINATED", "TIMEDOUT", "The task was stopped after its timeout_seconds.")
            except TaskFailed as failure:
                task |= {"error": failure.error, "error_trace": failure.trace}
                set_state(task, failure.life_cycle, "FAILED", failure.message, failure.code)
            self._save()
        return str(task["state"]["result_state"])

    def _cluster(self, task: Json) -> SparkCluster:
        existing = task.get("existing_cluster_id")
        key = existing or task.get("job_cluster_key") or f"task-{task['task_key']}"
        if key not in self._clusters:
            shared = [other for other in self._run["tasks"] if key in _shared(other)]
            libraries = [library for user in shared or [task] for library in user.get("libraries", [])]
            if existing:
                record = clusters.wake(self._workspace, existing)
                definition = record["spec"]
                libraries = [entry["library"] for entry in record["libraries"] if not entry["leaving"]] + libraries
            else:
                definitions = {entry["job_cluster_key"]: entry["new_cluster"] for entry in self._run["job_clusters"]}
                definition = task.get("new_cluster") or definitions[key]
            self._clusters[key] = SparkCluster(self._workspace, self._folder / key, definition, libraries, self._launch)
        return self._clusters[key]

    def _order(self, task: Json) -> Json:
        """The order for the driver: the task with references substituted and volume paths mapped."""
        started = datetime.fromtimestamp(self._run["start_time"] / 1000, UTC)
        values = {"job.id": str(self._run["job_id"]), "job.run_id": str(self._run["run_id"])}
        values |= {"job.name": self._run["run_name"], "job.start_time.iso_date": started.date().isoformat()}
        values |= {"task.name": task["task_key"], "task.run_id": str(task["run_id"])}
        given = {entry["name"]: _substitute(entry["value"], values) for entry in self._run["job_parameters"]}
        values |= {f"job.parameters.{name}": value for name, value in given.items()}
        if "notebook_task" in task:
            return self._notebook(task, values, given)
        definition = task.get("python_wheel_task") or task["spark_python_task"]
        parameters = list(definition.get("parameters", []))
        if "named_parameters" in definition:  # job parameters are pushed down to keyword arguments only
            named = definition["named_parameters"] | given
            parameters += [f"--{name}={value}" for name, value in named.items()]
        try:
            mapped = [self._map(_substitute(parameter, values)) for parameter in parameters]
            log = self._folder / f"{task['task_key']}.log"
            order = {"name": task["task_key"], "parameters": mapped, "log": str(log)}
            if "python_file" in definition:
                return order | {"python_file": str(local_path(self._workspace, definition["python_file"]))}
        except (CloudError, ValueError) as error:
            # No source: run a task with a path below /Volumes that does not exist and read the state's message.
            raise TaskFailed(str(error)) from error
        return order | {"package_name": definition["package_name"], "entry_point": definition["entry_point"]}

    def _notebook(self, task: Json, values: dict[str, str], given: dict[str, str]) -> Json:
        """The order for a notebook. Job parameters override the task's.

        The kernel maps volume paths, because a notebook also composes paths itself.
        """
        definition = task["notebook_task"]
        try:
            source = local_path(self._workspace, definition["notebook_path"])
        except ValueError as error:
            # No source: run a notebook task whose path has no leading slash and read the state's message.
            raise TaskFailed(str(error)) from error
        if not source.is_file():
            path = definition["notebook_path"]
            message = f"Unable to access the notebook {path!r}: it does not exist, or there is no access to it."
            # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (TerminationCodeCode: RESOURCE_NOT_FOUND)
            # No source: run a job on a notebook that does not exist and read the message.
            raise TaskFailed(message, code="RESOURCE_NOT_FOUND")
        widgets = {key: _substitute(str(value), values) for key, value in definition.get("base_parameters", {}).items()}
        return {
            "name": task["task_key"],
            "path": definition["notebook_path"],
            "notebook": str(source),
            "page": str(self._folder / f"{task['task_key']}.html"),
            "log": str(self._folder / f"{task['task_key']}.log"),
            "widgets": widgets | given,
            "volumes": {path: str(folder) for path, folder in volumes(self._workspace).items()},
            "secrets": str(secrets.folder(self._workspace)),
        }

    def _map(self, argument: str) -> str:
        flag, path = re.fullmatch(r"(-[\w-]*=)?(.*)", argument, re.DOTALL).groups("")  # type: ignore[union-attr]
        if not path.startswith(("/Volumes/", "dbfs:/Volumes/")):
            return argument
        return f"{flag}{local_path(self._workspace, path)}"


def _shared(task: Json) -> set[str]:
    """Ids or keys of the cluster that the task shares with others."""
    return {task[name] for name in ("existing_cluster_id", "job_cluster_key") if task.get(name)}


def _substitute(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{\{\s*([\w.-]+)\s*\}\}", lambda found: values.get(found[1], found[0]), text)
