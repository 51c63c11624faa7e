"""Executes job runs: per job cluster one local Spark driver, to which its tasks go one after another.

What a cluster definition says about Spark is taken to the letter: Maven coordinates with exclusions and repositories,
`spark_conf`, environment variables, wheels. Tasks of one cluster share its driver and libraries, as on Databricks.

Does not reproduce node types, memory and the number of workers (Spark runs in one process on all cores of this machine,
so nothing crosses a network), tasks side by side on one cluster, and the runtime's own Python and packages. Installs
nothing with pip: a pypi library must be there in the stated version. Does not mount /Volumes: an argument that is a
volume path is replaced by the lake's folder.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from sandbox import processes
from sandbox.cloud import CloudError, Sandbox
from sandbox.databricks.files import local_path
from sandbox.databricks.workspace import Json, Workspace, now
from sandbox.store import ResourceStore

_DRIVER = Path(__file__).with_name("driver.py")
_ACTIVE = {"QUEUED", "BLOCKED", "PENDING", "RUNNING", "TERMINATING"}
_POLL = 0.05
_STOPPED = "the sandbox was stopped while it ran"


def is_active(run: Json) -> bool:
    return run["state"]["life_cycle_state"] in _ACTIVE


def set_state(part: Json, life_cycle: str, result: str | None = None, message: str = "") -> None:
    """Set the state of a run or of a task's run."""
    stopped = result in ("CANCELED", "TIMEDOUT")
    part["state"] = {"life_cycle_state": life_cycle, "state_message": message, "user_cancelled_or_timedout": stopped}
    if result:
        part["state"]["result_state"] = result
    if life_cycle == "RUNNING":
        part["setup_duration"] = now() - part["start_time"]
    if life_cycle not in _ACTIVE:
        part["end_time"] = now()
        part["execution_duration"] = part["end_time"] - part["start_time"] - part.get("setup_duration", 0)


class Runner:
    def __init__(self, sandbox: Sandbox, records: ResourceStore) -> None:
        self._sandbox = sandbox
        self._records = records
        self._running: dict[int, asyncio.Task[None]] = {}

    def start(self, workspace: Workspace, run: Json) -> None:
        execution = _Execution(workspace, run, self._sandbox.folder / "runs" / str(run["run_id"]))
        task = asyncio.create_task(execution.run())
        self._running[run["run_id"]] = task
        task.add_done_callback(lambda _: self._running.pop(run["run_id"], None))

    def cancel(self, run_id: int, reason: str = "Run cancelled.") -> None:
        if running := self._running.get(run_id):
            running.cancel(reason)

    async def shutdown(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel(_STOPPED)
        await asyncio.gather(*running, return_exceptions=True)

    def end_interrupted(self) -> None:
        """After a restart: what was active when the sandbox died has ended with it."""
        for record, run in self._records.below(""):
            if "/runs/" in record and is_active(run):
                for part in (run, *run["tasks"]):
                    if is_active(part):
                        set_state(part, "INTERNAL_ERROR", "FAILED", _STOPPED)
                self._records.put(record, run)

    def task_log(self, run: Json, task: Json) -> bytes:
        log = self._sandbox.folder / "runs" / str(run["run_id"]) / f"{task['task_key']}.log"
        return log.read_bytes() if log.exists() else b""


class _TaskFailed(Exception):
    """`message` goes to the state, `error` and `trace` to the task's output."""

    def __init__(self, message: str, error: str = "", trace: str = "", *, life_cycle: str = "TERMINATED") -> None:
        super().__init__(message)
        self.message, self.error, self.trace, self.life_cycle = message, error or message, trace, life_cycle


class _Execution:
    def __init__(self, workspace: Workspace, run: Json, folder: Path) -> None:
        self._workspace = workspace
        self._run = run
        self._folder = folder
        self._clusters: dict[str, _Cluster] = {}
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
            ended = ("INTERNAL_ERROR", "FAILED") if reason == _STOPPED else ("TERMINATED", "CANCELED")
            set_state(self._run, "TERMINATING", message=reason)
            self._save()
            await self._stop_clusters()
            self._end(*ended, reason)
        except Exception as error:
            self._end("INTERNAL_ERROR", "FAILED", f"The sandbox failed: {type(error).__name__}: {error}")
            raise
        finally:
            await self._stop_clusters()

    async def _wait_in_queue(self) -> None:
        """A run goes when fewer than `max_concurrent_runs` that came before it are still active."""
        run = self._run
        while True:
            others = (other for _, other in self._workspace.records.below(self._workspace.record("runs")))
            before = [other for other in others if other["job_id"] == run["job_id"] and other["run_id"] < run["run_id"]]
            if sum(map(is_active, before)) < run["settings"]["max_concurrent_runs"]:
                return
            await asyncio.sleep(_POLL)

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

    async def _stop_clusters(self) -> None:
        await asyncio.gather(*(cluster.stop() for cluster in self._clusters.values()))

    def _save(self) -> None:
        self._workspace.records.put(self._workspace.record("runs", str(self._run["run_id"])), self._run)

    async def _task(self, task: Json) -> str:
        await asyncio.sleep(0)  # until every task is in `_outcomes`
        needed = [await self._outcomes[above["task_key"]] for above in task.get("depends_on", [])]
        if any(outcome != "SUCCESS" for outcome in needed):
            set_state(task, "SKIPPED", "UPSTREAM_FAILED", "An upstream task failed.")
            self._save()
            return "UPSTREAM_FAILED"
        attempts, retries = 0, task.get("max_retries", 0)
        while True:
            result = await self._attempt(task)
            retry = result == "FAILED" or (result == "TIMEDOUT" and task.get("retry_on_timeout"))
            if not retry or attempts == retries:  # -1 retries for ever
                return result
            attempts += 1
            await asyncio.sleep(task.get("min_retry_interval_millis", 0) / 1000)
            task["attempt_number"] = attempts

    async def _attempt(self, task: Json) -> str:
        cluster = self._cluster(task)
        async with cluster.lock:
            task |= {"start_time": now(), "error": None, "error_trace": None}
            set_state(task, "PENDING")
            self._save()
            try:
                async with asyncio.timeout(task.get("timeout_seconds") or None):
                    await cluster.start()
                    for part in (self._run, task):
                        set_state(part, "RUNNING")
                    self._save()
                    await cluster.execute(self._order(task))
                set_state(task, "TERMINATED", "SUCCESS")
            except TimeoutError:
                await cluster.stop()
                set_state(task, "TERMINATED", "TIMEDOUT", "The task was stopped after its timeout_seconds.")
            except _TaskFailed as failure:
                task |= {"error": failure.error, "error_trace": failure.trace}
                set_state(task, failure.life_cycle, "FAILED", failure.message)
            self._save()
        return str(task["state"]["result_state"])

    def _cluster(self, task: Json) -> "_Cluster":
        key = task.get("job_cluster_key") or f"task-{task['task_key']}"
        if key not in self._clusters:
            definitions = {entry["job_cluster_key"]: entry["new_cluster"] for entry in self._run["job_clusters"]}
            users = (
                [task] if "new_cluster" in task else [t for t in self._run["tasks"] if t.get("job_cluster_key") == key]
            )
            libraries = [library for user in users for library in user.get("libraries", [])]
            definition = task.get("new_cluster") or definitions[key]
            self._clusters[key] = _Cluster(self._workspace, self._folder / key, definition, libraries)
        return self._clusters[key]

    def _order(self, task: Json) -> Json:
        """What the driver is told: the task with references substituted and volume paths mapped."""
        started = datetime.fromtimestamp(self._run["start_time"] / 1000, UTC)
        values = {
            "job.id": str(self._run["job_id"]),
            "job.name": self._run["run_name"],
            "job.run_id": str(self._run["run_id"]),
            "job.start_time.iso_date": started.date().isoformat(),
            "task.name": task["task_key"],
            "task.run_id": str(task["run_id"]),
        }
        given = {entry["name"]: _substitute(entry["value"], values) for entry in self._run["job_parameters"]}
        values |= {f"job.parameters.{name}": value for name, value in given.items()}
        definition = task.get("python_wheel_task") or task["spark_python_task"]
        parameters = list(definition.get("parameters", []))
        if "named_parameters" in definition:  # job parameters are pushed down to keyword arguments only
            named = definition["named_parameters"] | given
            parameters += [f"--{name}={value}" for name, value in named.items()]
        try:
            mapped = [self._map(_substitute(parameter, values)) for parameter in parameters]
            order = {
                "parameters": mapped,
                "log": str(self._folder / f"{task['task_key']}.log"),
                "name": task["task_key"],
            }
            if "python_file" in definition:
                return order | {"python_file": str(local_path(self._workspace, definition["python_file"]))}
        except (CloudError, ValueError) as error:
            raise _TaskFailed(str(error)) from error
        return order | {"package_name": definition["package_name"], "entry_point": definition["entry_point"]}

    def _map(self, argument: str) -> str:
        flag, path = re.fullmatch(r"(-[\w-]*=)?(.*)", argument, re.DOTALL).groups("")  # type: ignore[union-attr]
        if not path.startswith(("/Volumes/", "dbfs:/Volumes/")):
            return argument
        return f"{flag}{local_path(self._workspace, path)}"


def _substitute(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{\{\s*([\w.-]+)\s*\}\}", lambda found: values.get(found[1], found[0]), text)


class _Cluster:
    """One Spark driver, started when the first task needs it and again after it has died."""

    def __init__(self, workspace: Workspace, folder: Path, definition: Json, libraries: list[Json]) -> None:
        self.lock = asyncio.Lock()
        self._workspace = workspace
        self._root = folder
        self._definition = definition
        self._libraries = libraries
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._orders = 0

    @property
    def _folder(self) -> Path:
        return self._root / str(self._starts)

    async def start(self) -> None:
        if self._process and self._process.poll() is None:
            return
        await self.stop()
        self._starts, self._orders = self._starts + 1, 0
        self._folder.mkdir(parents=True)
        try:
            packages = await asyncio.to_thread(self._install)
        except (CloudError, ValueError, OSError, zipfile.BadZipFile) as error:
            message = f"Library installation failed: {error}"
            raise _TaskFailed(message, life_cycle="INTERNAL_ERROR") from error
        (self._folder / "spark.json").write_text(json.dumps(self._spark_conf()))
        for name in ("tmp", "warehouse"):
            (self._folder / name).mkdir()
        self._process = processes.start(
            [sys.executable, "-P", _DRIVER, self._folder],
            log=self._folder / "driver.log",
            environment=self._environment(packages),
            folder=self._folder,
        )
        await self._until(self._folder / "ready")

    async def execute(self, order: Json) -> None:
        number, self._orders = self._orders, self._orders + 1
        partial = self._folder / "order"
        partial.write_text(json.dumps(order))
        partial.rename(self._folder / f"{number}.json")
        answer = self._folder / f"{number}.result.json"
        await self._until(answer)
        result = json.loads(answer.read_text())
        if result["error"] is not None:
            raise _TaskFailed("Workload failed, see run output for details.", result["error"], result["trace"])

    async def stop(self) -> None:
        if self._process:
            process, self._process = self._process, None
            await asyncio.to_thread(processes.stop, process, grace=2.0)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # the JVM, should it outlive the Python that started it
            await asyncio.to_thread(shutil.rmtree, self._folder / "tmp", ignore_errors=True)

    async def _until(self, answer: Path) -> None:
        assert self._process
        while not answer.exists():
            if (code := self._process.poll()) is not None and not answer.exists():
                raise _TaskFailed(*self._death(code), life_cycle="INTERNAL_ERROR")
            await asyncio.sleep(_POLL)

    def _death(self, code: int) -> tuple[str, str]:
        """Why the driver ended, in short and at length."""
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = (self._folder / "driver.log").read_text(errors="replace").splitlines()
        telling = [line for line in lines if re.match(r"Exception in thread|JAVA_HOME|.*OutOfMemoryError", line)]
        message = " ".join((f"The Spark driver {how}.", *telling[-1:]))
        return message, "\n".join((message, *lines[-60:]))

    def _install(self) -> Path:
        """Unpack the wheels; check that pypi libraries are there."""
        target = self._folder / "packages"
        for library in self._libraries:
            if "whl" in library:
                with zipfile.ZipFile(local_path(self._workspace, library["whl"])) as wheel:
                    wheel.extractall(target)
            if "pypi" in library:
                _require(library["pypi"]["package"])
        return target

    def _spark_conf(self) -> dict[str, str]:
        mavens = [library["maven"] for library in self._libraries if "maven" in library]
        listed = {
            "spark.jars.packages": [maven["coordinates"] for maven in mavens],
            "spark.jars.excludes": [excluded for maven in mavens for excluded in maven.get("exclusions", [])],
            "spark.jars.repositories": [maven["repo"] for maven in mavens if maven.get("repo")],
        }
        cache = Path(self._workspace.sandbox.environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return {
            "spark.driver.memory": "4g",
            **self._definition.get("spark_conf", {}),
            **{name: ",".join(dict.fromkeys(values)) for name, values in listed.items() if values},
            "spark.master": self._master(),
            "spark.app.name": self._root.name,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.jars.ivy": str(cache / "personalization-azure" / "ivy"),
            "spark.sql.warehouse.dir": str(self._folder / "warehouse"),
            "spark.driver.defaultJavaOptions": f"-Djava.io.tmpdir={self._folder / 'tmp'}",
        }

    def _master(self) -> str:
        return f"local[{os.cpu_count()}]"

    def _environment(self, packages: Path) -> dict[str, str]:
        inherited = {
            k: v for k, v in self._workspace.sandbox.environment.items() if k not in ("SPARK_HOME", "PYTHONPATH")
        }
        return (
            inherited
            | self._definition.get("spark_env_vars", {})
            | {
                "PYTHONPATH": str(packages),
                "PYSPARK_PYTHON": sys.executable,
                "PYTHONUNBUFFERED": "1",
                "SPARK_LOCAL_IP": "127.0.0.1",
                "SPARK_LOCAL_DIRS": str(self._folder / "tmp"),
                "TMPDIR": str(self._folder / "tmp"),
            }
        )


def _require(package: str) -> None:
    try:
        wanted = Requirement(package)
        found = importlib.metadata.version(wanted.name)
    except InvalidRequirement as error:
        raise ValueError(f"pypi library {package!r}: {error}") from error
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"pypi library {package!r} is not installed here, and the sandbox installs nothing."
        ) from error
    if not wanted.specifier.contains(found, prereleases=True):
        raise ValueError(
            f"pypi library {package!r}: this machine has {wanted.name} {found}, and the sandbox installs nothing."
        )
