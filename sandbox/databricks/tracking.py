"""A workspace's MLflow: the real `mlflow` server on SQLite, on a separate port of 127.0.0.1, without authentication.

Until the first connection there is only a listening socket. The connection starts the server, which inherits the socket
with the connection. If the server dies, the sandbox listens on the same port again. It runs the process that
`mlflow server` itself would start, without the parent process, which would only repeat the imports.
Requests to the workspace's own address need a token and are forwarded. Of Databricks' own rules only those for the name
of an experiment apply. Has no permissions; its model registry is not used.
"""

import asyncio
import contextlib
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from starlette.requests import Request
from starlette.responses import Response

from sandbox import processes, state_files
from sandbox.context import CloudError
from sandbox.databricks import artifacts
from sandbox.databricks.files import local_path
from sandbox.databricks.workspace import Handler, Workspace, body_of

_ANSWER_SECONDS = 50.0  # less than the minute after which the SDK repeats a request
_LOOK_SECONDS = 0.5
# Source: mlflow==3.17.2 mlflow/store/artifact/mlflow_artifacts_repo.py
_FILES = "/api/2.0/mlflow-artifacts/"
# Source: mlflow==3.17.2 mlflow/protos/service_pb2.py (createExperiment)
_CREATE = "/api/2.0/mlflow/experiments/create"
_QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


class _Server:
    def __init__(self, workspace: Workspace) -> None:
        self._folder, self._artifacts = workspace.folder / "tracking", artifacts.folder(workspace)
        self._environment = workspace.sandbox.environment
        self._listener: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._port = 0

    def listen(self) -> str:
        """Listen if nothing listens yet; returns the address."""
        if self._process and self._process.poll() is not None:
            self._process = None  # ended since `_restart` looked
        if not (self._listener or self._process):
            self._listener = self._bound()
            asyncio.get_running_loop().add_reader(self._listener, self._start)
        return f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        if self._watch:
            self._watch.cancel()
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if self._process:
            process, self._process = self._process, None
            await asyncio.to_thread(processes.stop, process)

    def _bound(self) -> socket.socket:
        """A listening socket, on the port of the first start if that is free, because users may know the address."""
        self._folder.mkdir(parents=True, exist_ok=True)
        remembered = self._folder / "port"
        for port in dict.fromkeys((self._port or _number(remembered), 0)):
            listener = socket.socket(proto=socket.IPPROTO_TCP)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
                break
            except OSError:
                listener.close()
        listener.listen()
        self._port = listener.getsockname()[1]
        state_files.write(remembered, str(self._port))
        return listener

    def _start(self) -> None:
        assert self._listener
        listener, self._listener = self._listener, None
        asyncio.get_running_loop().remove_reader(listener)
        with listener:
            self._process = processes.start(
                [
                    *(sys.executable, "-P", "-m", "uvicorn", "mlflow.server.fastapi_app:app"),
                    *("--fd", str(listener.fileno()), "--loop", "asyncio", "--no-access-log"),
                ],
                log=self._folder / "server.log",
                environment={
                    **self._environment,
                    **_QUIET,
                    # The variables that `mlflow server --backend-store-uri … --artifacts-destination …` sets.
                    "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self._folder / 'mlflow.db'}",
                    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
                    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self._artifacts),
                    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
                    "_MLFLOW_SGI_NAME": "uvicorn",
                },
                folder=self._folder,
                inherited=[listener.fileno()],
            )
        self._watch = asyncio.get_running_loop().create_task(self._restart(self._process))

    async def _restart(self, process: subprocess.Popen[bytes]) -> None:
        """Listen again once `process` has ended, because browsers may have its address."""
        while process.poll() is None:
            await asyncio.sleep(_LOOK_SECONDS)
        self.listen()


def _number(file: Path) -> int:
    """The port in the file; 0 (any port) if the file is missing or has no valid port."""
    try:
        port = int(file.read_text())
    except (OSError, ValueError):
        return 0
    return port if 1024 <= port < 65536 else 0


_servers: dict[Path, _Server] = {}


def handlers() -> Iterator[tuple[str, str, Handler]]:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        for api in ("mlflow", "mlflow-artifacts"):
            yield method, f"/api/2.0/{api}/{{path:path}}", _forward


def address(workspace: Workspace) -> str:
    """Address of the workspace's server. It needs no token; the workspace's clusters and local browsers use it."""
    return _servers.setdefault(workspace.folder, _Server(workspace)).listen()


def resume(workspace: Workspace) -> None:
    """Listen again at an address of an earlier process, if there was one."""
    if (workspace.folder / "tracking" / "port").exists():
        address(workspace)


async def forget(workspace: Workspace) -> None:
    if server := _servers.pop(workspace.folder, None):
        await server.stop()
    await asyncio.to_thread(shutil.rmtree, workspace.folder / "tracking", ignore_errors=True)


async def stop(folder: Path) -> None:
    """Stop the servers of all workspaces of the sandbox in this folder."""
    for workspace_folder in [each for each in _servers if each.is_relative_to(folder)]:
        await _servers.pop(workspace_folder).stop()


# Source: mlflow==3.17.2 mlflow/protos/service_pb2.py (the REST API that Databricks serves, too)
async def _forward(workspace: Workspace, request: Request) -> Response:
    if request.url.path == _CREATE:
        _check_name(workspace, (await body_of(request)).get("name", ""))
    headers = {name: request.headers[name] for name in ("content-type", "accept") if name in request.headers}
    query = f"?{request.url.query}" if request.url.query else ""
    try:
        async with httpx.AsyncClient(timeout=_ANSWER_SECONDS, trust_env=False) as client:
            answer = await client.request(
                request.method,
                f"{address(workspace)}{request.url.path}{query}",
                content=await request.body(),
                headers=headers,
            )
    except httpx.TransportError as error:
        message = f"MLflow does not answer: {type(error).__name__} {error}"
        # Source: databricks-sdk==0.156.0 databricks/sdk/errors/platform.py (503: TemporarilyUnavailable)
        raise CloudError(503, "TEMPORARILY_UNAVAILABLE", message, {"Retry-After": "1"}) from error
    if answer.status_code == 500:
        _require_database(workspace.folder / "tracking" / "mlflow.db")
    content = answer.content if request.url.path.startswith(_FILES) else artifacts.shown(answer.content)
    return Response(content, answer.status_code, media_type=answer.headers.get("content-type"))


def _require_database(file: Path) -> None:
    """Name the database in the error if it is damaged, because MLflow's own error does not."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if result != "ok":
                raise sqlite3.DatabaseError(result)
    except sqlite3.DatabaseError as error:
        # Source: databricks-sdk==0.156.0 databricks/sdk/errors/platform.py (500: InternalError)
        raise CloudError(500, "INTERNAL_ERROR", str(state_files.Unreadable(file, error))) from error


def _check_name(workspace: Workspace, name: str) -> None:
    if not name.startswith("/"):
        message = (
            f"Got an invalid experiment name '{name}'. An experiment name must be an absolute path within the "
            "Databricks workspace, e.g. '/Users/<some-username>/my-experiment'."
        )
        # Source: mlflow/mlflow#8269 (code and message); databricks/terraform-provider-databricks
        # mlflow/data_mlflow_experiment_test.go (the message to its end)
        raise CloudError(400, "INVALID_PARAMETER_VALUE", message)
    parent = name.rpartition("/")[0] or "/"
    if not local_path(workspace, parent).is_dir():
        # Source: databricks-demos/dbdemos#155 (code and message)
        raise CloudError(404, "RESOURCE_DOES_NOT_EXIST", f"Parent directory {parent} does not exist.")
