"""Start, stop and kill of a sandbox: its state survives, wrong starts are refused, and no process is left."""

import json
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil

from testing.sandbox.process import is_alive, running_sandbox, sandbox_command

ACCOUNT = {"location": "westeurope", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}


def test_killed_sandbox_restarts_with_the_same_state(tmp_path: Path) -> None:
    with running_sandbox(tmp_path / "cloud") as cloud:
        token, account = cloud.token(), "resourceGroups/g/providers/Microsoft.Storage/storageAccounts/abc"
        cloud.arm("PUT", "resourceGroups/g", {"location": "westeurope"})
        cloud.faults({"method": "PUT", "path": "storageAccounts/abc$", "operation_delay": 60})
        unfinished = cloud.arm("PUT", account, ACCOUNT)
        cloud.kill()
        cloud.start()
        assert json.loads(sandbox_command("env", cloud.folder, "--json").stdout) == cloud.variables
        assert cloud.arm("GET", "resourceGroups/g", Authorization=f"Bearer {token}").json()["location"] == "westeurope"
        status = cloud.settle(unfinished)
        assert (status["status"], status["error"]["code"]) == ("Failed", "OperationAborted")
        assert cloud.arm("GET", account).json()["properties"]["provisioningState"] == "Failed"
        assert cloud.settle(cloud.arm("PUT", account, ACCOUNT))["status"] == "Succeeded"


def test_stop_leaves_no_process_and_start_continues_the_state(tmp_path: Path) -> None:
    with running_sandbox(tmp_path / "cloud") as cloud:
        cloud.arm("PUT", "resourceGroups/g", {"location": "westeurope"})
        server = cloud.pid
        cloud.stop()
        assert not is_alive(server)
        assert "does not run" in sandbox_command("stop", cloud.folder).stdout
        cloud.start()
        assert "runs already" in sandbox_command("start", cloud.folder).stdout
        assert cloud.arm("GET", "resourceGroups/g").status_code == 200


def test_two_simultaneous_starts_create_one_sandbox(tmp_path: Path) -> None:
    results: list[subprocess.CompletedProcess[str]] = []
    threads = [threading.Thread(target=lambda: results.append(sandbox_command("start", tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert [(done.returncode, done.stderr) for done in results] == [(0, "")] * 3
        assert len({done.stdout.split("https://")[1] for done in results}) == 1
    finally:
        assert sandbox_command("stop", tmp_path).returncode == 0
    time.sleep(1.5)  # longer than the losing start tries to lock the folder
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in left if line and str(tmp_path) in line]


def test_taken_port_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = sandbox_command("start", tmp_path, "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {port} is taken")
    assert "Name another --port" in done.stderr


def test_sandbox_never_changes_its_port(tmp_path: Path) -> None:
    with running_sandbox(tmp_path) as cloud:
        port = int(cloud.authority.split(":")[1])
        cloud.stop()
        with socket.create_server(("127.0.0.1", port)):
            done = sandbox_command("start", tmp_path)
        assert (done.returncode, f"port {port} of the sandbox" in done.stderr) == (2, True)
        other = sandbox_command("start", tmp_path, "--port", str(port + 1))
        assert (other.returncode, f"belongs to port {port}" in other.stderr) == (2, True)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = sandbox_command("start", file / "below")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write to {file / 'below'}")
