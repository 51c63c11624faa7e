"""The real MLflow server of a sandbox's workspace, for tests that log to it."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from databricks_fixtures import connect, trusted
from sandbox_data_fixtures import Served
from waiting import eventually


@dataclass(frozen=True)
class TrackingServer:
    cloud: Served

    @property
    def address(self) -> str:
        """As the workspace gives it, which listens anew where the server has died."""
        answer = httpx.get(f"{self.cloud.sandbox.url}/ml/experiments/1", verify=self.cloud.tls)
        return answer.headers["location"].partition("/#")[0]

    @property
    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.Process().children(recursive=True) if _serves(process)]

    def kill(self) -> None:
        (server,) = self.processes
        os.kill(server.pid, signal.SIGKILL)
        server.wait()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """The server is killed, and its port held, so that the sandbox cannot start another one there."""
        port = int(self.address.rstrip("/").rpartition(":")[2])
        with contextlib.ExitStack() as held:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    pass  # the sandbox starts one for whoever connects
                eventually(lambda: self.processes)
                self.kill()
                holder = held.enter_context(socket.socket())
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):  # the sandbox was quicker
                    holder.bind(("127.0.0.1", port))
                    break
            yield


def _serves(process: psutil.Process) -> bool:
    try:
        return "mlflow.server.fastapi_app:app" in process.cmdline()
    except psutil.Error:  # it has ended, of whatever test it was
        return False


@contextmanager
def tracking_server(folder: Path) -> Iterator[TrackingServer]:
    with trusted(folder) as cloud:
        cloud.put("Microsoft.Databricks/workspaces/ws", location="westeurope", properties={})
        connect(cloud).workspace.mkdirs("/Shared/shop")
        server = TrackingServer(cloud)
        # The first who connects starts it, and the first who asks waits for its tables.
        first = f"{server.address}/api/2.0/mlflow/experiments/search?max_results=1"
        httpx.get(first, timeout=120).raise_for_status()
        yield server
    assert server.processes == []
