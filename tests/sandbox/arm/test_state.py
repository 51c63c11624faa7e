"""A sandbox folder with a truncated, empty or missing file; a wrong clock; and the permissions of the folder."""

import contextlib
import datetime
import json
import os
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography import x509

from sandbox import __main__ as command
from sandbox import state_files
from sandbox.arm.store import ResourceStore
from sandbox.context import Sandbox
from sandbox.identity import authority, role_assignments
from sandbox.instance_lock import FRESH, CannotServe, Damaged, runs
from sandbox.machine_learning.endpoints import ENDPOINT, WORKSPACE
from sandbox.server import serve
from testing.sandbox.data import served as running_in_process
from testing.sandbox.process import is_alive, running_sandbox, sandbox_command
from testing.waiting import eventually

NEEDED = (
    "environment.json",
    "identity/ca.pem",
    "identity/identity.json",
    "identity/server-key.pem",
    "identity/server.pem",
    "identity/token-key.pem",
    "resources.sqlite",
)
"""Files that cannot be recreated, because resources and clients refer to their content."""
MADE_AGAIN = (
    *("ca-bundle.pem", "lock", "sandbox.log", "operations.sqlite", "databricks/records.db"),
    "network-proxy.json",
)
"""Files that a start writes again, or does not need."""


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


DAMAGES = (cut, empty, Path.unlink)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "cloud"
    with running_sandbox(folder) as cloud:
        cloud.arm("PUT", "resourceGroups/g", {"location": "westeurope"}).raise_for_status()
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "cloud"))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[uvicorn.Server]]:
    """Servers that `serve` would run; none of them listens."""
    came: list[uvicorn.Server] = []

    def run(server: uvicorn.Server, sockets: object) -> None:
        server.config.load()  # certificates
        server.started = True
        came.append(server)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    before = os.umask(0o022)
    yield came
    os.umask(before)


def test_damage_cases_cover_every_state_file(stopped: Path) -> None:
    files = {str(path.relative_to(stopped)) for path in stopped.rglob("*") if path.is_file()}
    assert files == {*NEEDED, *MADE_AGAIN}


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_file_is_reported_with_the_remedy(
    folder: Path, served: list[uvicorn.Server], name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / name)
    with pytest.raises(Damaged) as error:
        serve(folder, None)
    assert str(error.value).startswith(f"{folder / name} cannot be read: ")
    assert FRESH in str(error.value)
    assert not served


def test_missing_identity_is_not_recreated(folder: Path, served: list[uvicorn.Server]) -> None:
    shutil.rmtree(folder / "identity")
    with pytest.raises(Damaged, match=r"identity cannot be read: the folder is missing"):
        serve(folder, None)
    assert not (folder / "identity").exists()


@pytest.mark.parametrize("name", ["operations.sqlite", "databricks/records.db"])
def test_truncated_databases_are_reported(folder: Path, served: list[uvicorn.Server], name: str) -> None:
    cut(folder / name)
    with pytest.raises(Damaged, match=name):
        serve(folder, None)


@pytest.mark.parametrize("damage", [empty, Path.unlink])
def test_recreatable_files_are_recreated(
    folder: Path, served: list[uvicorn.Server], damage: Callable[[Path], None]
) -> None:
    for name in MADE_AGAIN:
        damage(folder / name)
    serve(folder, None)
    assert served
    ssl.create_default_context(cafile=folder / "ca-bundle.pem")


def test_truncated_ca_bundle_is_recreated_for_its_user(folder: Path) -> None:
    cut(folder / "ca-bundle.pem")
    authority.write_ca_bundle(folder, {"SSL_CERT_FILE": str(folder / "ca-bundle.pem")})
    assert (folder / "ca-bundle.pem").read_bytes().endswith((folder / "identity" / "ca.pem").read_bytes())


def test_command_reports_a_damaged_folder_in_one_line_and_leaves_no_process(folder: Path) -> None:
    empty(folder / "environment.json")
    done = sandbox_command("start", folder)
    assert (done.returncode, done.stderr.count("\n")) == (Damaged.exit_code, 1)
    assert done.stderr.startswith(f"error: {folder / 'environment.json'} cannot be read: the file is empty")
    assert not runs(folder)


def test_failed_write_leaves_the_file_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_files.write(tmp_path / "port", "26240")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        state_files.write(tmp_path / "port", "")
    assert (tmp_path / "port").read_text() == "26240"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "\x00\xff"])
def test_content_other_than_a_json_object_is_unreadable(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content, encoding="latin-1")
    with pytest.raises(state_files.Unreadable, match=f"{tmp_path}/file cannot be read: "):
        state_files.read_json(tmp_path / "file", "session")


def test_server_without_its_lock_file_is_found_and_stopped(folder: Path) -> None:
    with running_sandbox(folder) as cloud:
        server = cloud.pid
        (folder / "lock").unlink()
        assert "runs already" in sandbox_command("start", folder).stdout
        assert "stopped" in sandbox_command("stop", folder).stdout
        assert not is_alive(server)


def test_start_during_the_end_of_a_server_starts_another(folder: Path) -> None:
    """The lock of a killed server is held until the kernel has ended the process."""
    with running_sandbox(folder) as cloud:
        server = cloud.pid
        os.kill(server, signal.SIGSTOP)  # holds the lock without answering
        killer = threading.Timer(1.0, os.kill, (server, signal.SIGKILL))
        killer.start()
        done = sandbox_command("start", folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("sandbox started")
        assert cloud.pid != server


@pytest.mark.parametrize(("hours", "valid"), [(-48, False), (48, True), (24 * 365 * 11, False)])
def test_clock_outside_the_certificates_validity_is_reported_at_once(
    folder: Path, served: list[uvicorn.Server], monkeypatch: pytest.MonkeyPatch, hours: int, valid: bool
) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Clock":
            return super().now(tz) + datetime.timedelta(hours=hours)

    monkeypatch.setattr(authority.datetime, "datetime", Clock)
    if valid:
        serve(folder, None)
        assert served
        return
    with pytest.raises(CannotServe, match=r"is valid from .* and this machine's clock shows .* Correct the clock"):
        serve(folder, None)


def test_role_from_before_the_clock_was_set_back_is_in_effect(tmp_path: Path) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    assignment = {"systemData": {"createdAt": later.isoformat()}}
    with contextlib.closing(ResourceStore(tmp_path / "resources.sqlite")) as store:
        sandbox = Sandbox(tmp_path, 0, store, {})
        sandbox.settings.role_propagation = 0
        assert role_assignments.in_effect(sandbox, assignment)
        sandbox.settings.role_propagation = 60
        assert not role_assignments.in_effect(sandbox, assignment)


def test_client_with_a_wrong_clock_reports_it_and_ends_its_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate of a running server is not valid yet, as if the clock was set back after its start."""
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    with running_sandbox(folder):

        def refuse(*arguments: object, **named: object) -> None:
            error = ssl.SSLCertVerificationError("certificate is not yet valid")
            error.verify_code = 9
            raise error

        monkeypatch.setattr(command.http.client.HTTPSConnection, "request", refuse)
        monkeypatch.setattr(x509.Certificate, "not_valid_before_utc", property(lambda _: tomorrow), raising=False)
        began = time.monotonic()
        with pytest.raises(CannotServe, match="Correct the clock"):
            command.start(folder, None)
        assert time.monotonic() - began < 5


def test_running_sandbox_adopts_the_environment_of_a_later_start(folder: Path) -> None:
    with running_sandbox(folder) as cloud:
        done = subprocess.run(
            [sys.executable, "-m", "sandbox", "start", "--folder", str(folder)],
            env={**os.environ, "NO_PROXY": "example.org"},
            capture_output=True,
            text=True,
        )
        assert "runs already" in done.stdout
        assert done.stderr == ""
        assert json.loads((folder / "environment.json").read_text())["NO_PROXY"].startswith("example.org,127.0.0.1")
        refused = cloud.http.put("/sandbox/environment", json={}, headers={"Authorization": "Bearer x"})
        assert refused.status_code == 401


def test_processes_of_services_get_the_environment_of_the_last_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://elsewhere/simple")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    with running_in_process(tmp_path) as cloud:
        assert cloud.sandbox.environment["PIP_INDEX_URL"] == "https://elsewhere/simple"
        caller = {name: value for name, value in os.environ.items() if name != "PIP_INDEX_URL"}
        httpx.put(
            f"{cloud.sandbox.url}/sandbox/environment",
            json=caller,
            headers={"Authorization": f"Bearer {cloud.sandbox.identity.client_secret}"},
            verify=cloud.tls,
            trust_env=False,
        ).raise_for_status()
        assert {"PIP_INDEX_URL", "MLFLOW_TRACKING_URI"}.isdisjoint(cloud.sandbox.environment)


def test_unreadable_endpoint_is_reported_and_the_others_are_resumed(folder: Path) -> None:
    endpoint = {"compute": "", "auth_mode": "Key", "traffic": {}, "keys": {}}
    for name, content in (("broken", '{"compute": '), ("whole", json.dumps(endpoint))):
        (folder / "deployments" / name).mkdir(parents=True)
        (folder / "deployments" / name / "endpoint.json").write_text(content)
    with contextlib.closing(ResourceStore(folder / "resources.sqlite")) as store:
        for name in ("broken", "whole"):
            endpoint = f"/subscriptions/s/resourceGroups/g/providers/{WORKSPACE}/w/onlineEndpoints/{name}"
            store.put(endpoint, {"id": endpoint, "name": name, "type": ENDPOINT, "properties": {}})
    try:
        done = sandbox_command("start", folder)
        assert done.returncode == 0
        assert f"{folder}/deployments/broken/endpoint.json cannot be read" in done.stderr
        assert "whole" not in done.stderr
    finally:
        sandbox_command("stop", folder)


def test_state_is_readable_by_its_owner_only_and_the_log_has_no_signatures(folder: Path) -> None:
    shutil.rmtree(folder)
    with running_sandbox(folder) as cloud:
        cloud.http.get("/acr/registry/runs/r1.log?sig=eyJhbGciOi")
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
        log = eventually(lambda: (folder / "sandbox.log").read_text(), lambda text: "/acr/registry/runs/r1.log" in text)
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}
    assert "eyJ" not in log
