"""A job cluster on this machine: one Spark driver, which runs one task after another.

The parts of a cluster definition that concern Spark take effect unchanged: Maven coordinates with exclusions and
repositories, `spark_conf`, environment variables, wheels. Tasks of one cluster share its driver and libraries, as on
Databricks.

Does not reproduce node types, memory and the number of workers (Spark runs in one process on all cores of this machine,
so nothing crosses a network), concurrent tasks on one cluster, and the runtime's own Python and packages. Installs
nothing with pip: a pypi library must already be installed in the stated version.
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
from collections.abc import Awaitable, Callable
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from sandbox import caller_network, class_archive, java, processes
from sandbox.context import CloudError
from sandbox.databricks import tracking
from sandbox.databricks.files import local_path
from sandbox.databricks.workspace import Json, Workspace

POLL = 0.05
DRIVER_LOG = "driver.log"
_GRACE = 5.0
# Recording the class archive takes 10 to 20 seconds on an idle machine, and more than a minute on a slow, busy one.
_GRACE_TO_RECORD = 600.0
Launch = Callable[[], Awaitable[None]]
_DRIVER = Path(__file__).with_name("driver.py")


class TaskFailed(Exception):
    """`message` goes to the state, `error` and `trace` to the task's output, `code` to the termination details."""

    def __init__(self, message: str, error: str = "", trace: str = "", *, code: str = "RUN_EXECUTION_ERROR") -> None:
        super().__init__(message)
        self.message, self.error, self.trace, self.code = message, error or message, trace, code

    @property
    def life_cycle(self) -> str:
        """Databricks reports every failure outside the task's own code as an internal error."""
        return "TERMINATED" if self.code == "RUN_EXECUTION_ERROR" else "INTERNAL_ERROR"


class SparkCluster:
    """One Spark driver, started when the first task needs it and again after it has died."""

    def __init__(
        self, workspace: Workspace, folder: Path, definition: Json, libraries: list[Json], launch: Launch
    ) -> None:
        """`launch` runs before each start; its `CloudError` fails the start as if no machines were available."""
        self.lock = asyncio.Lock()
        self._workspace = workspace
        self._root = folder
        self._definition = definition
        self._libraries = libraries
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None
        self._recorded: Path | None = None
        self._starts = 0
        self._orders = 0

    @property
    def _folder(self) -> Path:
        return self._root / str(self._starts)

    async def start(self) -> None:
        if self._process and self._process.poll() is None:
            return
        await self.stop()
        try:
            await self._launch()
        except CloudError as error:
            # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (TerminationReasonCode;
            # TerminationReasonType); databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (TerminationCodeCode:
            # CLOUD_FAILURE, CLUSTER_ERROR)
            cloud = error.code.startswith("CLOUD_")
            kind, code = ("CLOUD_FAILURE", "CLOUD_FAILURE") if cloud else ("CLIENT_ERROR", "CLUSTER_ERROR")
            reason = f"Reason: {error.code} ({kind}). Parameters: databricks_error_message:{error.message}"
            # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (TerminationReason)
            raise TaskFailed(f"Cluster '{self._root.name}' was terminated. {reason}", code=code) from error
        self._starts, self._orders = self._starts + 1, 0
        self._folder.mkdir(parents=True)
        try:
            packages = await asyncio.to_thread(self._install)
        except (CloudError, ValueError, OSError, zipfile.BadZipFile) as error:
            message = f"Library installation failed: {error}"
            # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (TerminationCodeCode:
            # LIBRARY_INSTALLATION_ERROR)
            raise TaskFailed(message, code="LIBRARY_INSTALLATION_ERROR") from error
        # A driver with a Maven library is a training's, which uses more of Spark's classes than a short experiment.
        is_training = any("maven" in library for library in self._libraries)
        records = is_training and class_archive.is_missing()
        self._recorded = self._folder / "tmp" / "classes.jsa" if records else None
        (self._folder / "spark.json").write_text(json.dumps(self._spark_conf()))
        for name in ("tmp", "warehouse"):
            (self._folder / name).mkdir()
        self._process = processes.start(
            [sys.executable, "-P", _DRIVER, self._folder],
            log=self._folder / DRIVER_LOG,
            environment=self._environment(packages),
            folder=self._folder,
        )
        await self._until(self._folder / "ready")

    async def execute(self, order: Json) -> Json:
        """Run one task. Returns the driver's answer, with a notebook's `result`. Raises `TaskFailed`."""
        number, self._orders = self._orders, self._orders + 1
        partial = self._folder / "order"
        partial.write_text(json.dumps(order))
        partial.rename(self._folder / f"{number}.json")
        answer = self._folder / f"{number}.result.json"
        await self._until(answer)
        result = json.loads(answer.read_text())
        if result["error"] is not None:
            # Source: databricks/cli libs/testserver/jobs.go (taskFailureMessage: "Measured on serverless"; get-output:
            # error and error_trace)
            raise TaskFailed("Workload failed, see run output for details.", result["error"], result["trace"])
        return result

    async def stop(self, *, at_once: bool = False) -> None:
        """End the driver. Without `at_once` it gets the time to record the archive of Spark's classes, if it should."""
        if self._process:
            process, self._process = self._process, None
            grace = _GRACE_TO_RECORD if self._recorded and not at_once else _GRACE
            try:
                await self._end(process, grace)
            finally:
                await asyncio.to_thread(shutil.rmtree, self._folder / "tmp", ignore_errors=True)

    async def _end(self, process: subprocess.Popen[bytes], grace: float) -> None:
        try:
            await asyncio.to_thread(processes.stop, process, grace=grace)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # a JVM that outlived the Python that started it
        if self._recorded and process.returncode == 128 + signal.SIGTERM:
            with contextlib.suppress(OSError):  # then the next driver records it
                await asyncio.to_thread(class_archive.install, self._recorded)

    async def _until(self, answer: Path) -> None:
        assert self._process
        while not answer.exists():
            if (code := self._process.poll()) is not None and not answer.exists():
                # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (TerminationCodeCode: DRIVER_ERROR)
                raise TaskFailed(*self._death(code), code="DRIVER_ERROR")
            await asyncio.sleep(POLL)

    def _death(self, code: int) -> tuple[str, str]:
        """Why the driver ended: one line, and the same with the end of its log."""
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = (self._folder / DRIVER_LOG).read_text(errors="replace").splitlines()
        causes = [line for line in lines if re.match(r"Exception in thread|JAVA_HOME|.*OutOfMemoryError", line)]
        message = " ".join((f"The Spark driver {how}.", *causes[-1:]))
        return message, "\n".join((message, *lines[-60:]))

    def _install(self) -> Path:
        """Unpack the wheels, and check that the pypi libraries are installed."""
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
        archive = self._recorded
        classes = class_archive.record_option(archive) if archive else class_archive.use_option()
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
            "spark.driver.defaultJavaOptions": " ".join(
                (java.QUICK, java.COLLECTOR, f"-Djava.io.tmpdir={self._folder / 'tmp'}", classes)
            ),
        }

    def _master(self) -> str:
        return f"local[{os.cpu_count()}]"

    def _environment(self, packages: Path) -> dict[str, str]:
        temporary, sandbox, network = str(self._folder / "tmp"), self._workspace.sandbox, self._workspace.network
        return {
            **{name: value for name, value in self._workspace.sandbox.environment.items() if name != "SPARK_HOME"},
            **java.locale(self._workspace.sandbox.environment),
            **(caller_network.environment(sandbox.folder, network.rpartition("/")[2]) if network else {}),
            "MLFLOW_TRACKING_URI": tracking.address(self._workspace),
            **self._definition.get("spark_env_vars", {}),
            "PYTHONPATH": str(packages),
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONUNBUFFERED": "1",
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": temporary,
            "TMPDIR": temporary,
        }


def _require(package: str) -> None:
    try:
        requirement = Requirement(package)
        version = importlib.metadata.version(requirement.name)
    except (InvalidRequirement, importlib.metadata.PackageNotFoundError) as error:
        raise ValueError(
            f"pypi library {package!r} is not installed here, and the sandbox installs nothing: {error}"
        ) from error
    if not requirement.specifier.contains(version, prereleases=True):
        raise ValueError(f"pypi library {package!r} is installed here as {version}, and the sandbox installs nothing.")
