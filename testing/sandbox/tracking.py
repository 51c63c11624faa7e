"""The real MLflow server of a sandbox's workspace, for tests that log to it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from sandbox.databricks import tracking
from testing.sandbox.data import Served
from testing.sandbox.databricks import connect, trusted
from testing.waiting import eventually


@dataclass(frozen=True)
class TrackingServer:
    cloud: Served

    @property
    def address(self) -> str:
        """Address from the workspace, which listens again if the server has died."""
        answer = httpx.get(f"{self.cloud.sandbox.url}/ml/experiments/1", verify=self.cloud.tls)
        return answer.headers["location"].partition("/#")[0]

    @property
    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.Process().children(recursive=True) if _serves(process)]

    def kill(self) -> None:
        (server,) = self.processes
        os.kill(server.pid, signal.SIGKILL)
        server.wait()

    def end(self) -> None:
        """Kill the server for good: the sandbox, which would restart it, stops watching it first."""
        for folder, server in tracking._servers.items():
            if folder.is_relative_to(self.cloud.sandbox.folder) and (watch := server._watch):
                watch.get_loop().call_soon_threadsafe(watch.cancel)
                eventually(watch.done)
        self.kill()


def _serves(process: psutil.Process) -> bool:
    try:
        return "mlflow.server.fastapi_app:app" in process.cmdline()
    except psutil.Error:  # it has ended, with its test
        return False


@contextmanager
def tracking_server(folder: Path) -> Iterator[TrackingServer]:
    with trusted(folder) as cloud:
        cloud.put("Microsoft.Databricks/workspaces/ws", location="westeurope", properties={})
        connect(cloud).workspace.mkdirs("/Shared/shop")
        server = TrackingServer(cloud)
        # The first connection starts it, and the first request waits until its tables exist.
        first = f"{server.address}/api/2.0/mlflow/experiments/search?max_results=1"
        httpx.get(first, timeout=120).raise_for_status()
        yield server
    assert server.processes == []
