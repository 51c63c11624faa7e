"""A sandbox for a test: its own folder, its own port, ended with the test."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def in_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these variables in `os.environ` within the context."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def sandbox_command(command: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox", command, "--folder", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


@dataclass
class RunningSandbox:
    folder: Path
    variables: Mapping[str, str]
    """Variables of `sandbox env`."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables for clients that trust only this sandbox; to be set in `os.environ` (monkeypatch).

        Many clients load the bundle for each connection, and a hundred authorities take longer than the request.
        """
        alone = str(self.folder / "identity" / "ca.pem")
        return {**self.variables, "SSL_CERT_FILE": alone, "REQUESTS_CA_BUNDLE": alone}

    @property
    def authority(self) -> str:
        return self.environment["ARM_METADATA_HOSTNAME"]

    @property
    def url(self) -> str:
        return f"https://{self.authority}"

    @property
    def ca_bundle(self) -> str:
        return self.environment["SSL_CERT_FILE"]

    @property
    def subscription(self) -> str:
        return f"/subscriptions/{self.environment['ARM_SUBSCRIPTION_ID']}"

    @property
    def pid(self) -> int:
        return int((self.folder / "lock").read_text())

    def start(self) -> None:
        done = sandbox_command("start", self.folder)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        done = sandbox_command("stop", self.folder)
        assert done.returncode == 0, done.stderr

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process has ended."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)

    def token(self, audience: str = "") -> str:
        """A token for `audience` (default: ARM)."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.environment["ARM_CLIENT_ID"],
            "client_secret": self.environment["ARM_CLIENT_SECRET"],
            "scope": f"{audience or self.url}/.default",
        }
        tenant = self.environment["ARM_TENANT_ID"]
        answer = self.http.post(f"/{tenant}/oauth2/v2.0/token", data=form)
        return str(answer.raise_for_status().json()["access_token"])

    def arm(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """A plain ARM request; `path` is relative to the subscription, or absolute with a leading slash."""
        url = path if path.startswith("/") else f"{self.subscription}/{path}"
        authorization = {"Authorization": f"Bearer {self._arm_token}"}
        parameters = {"api-version": "2024-01-01", **dict(httpx.URL(url).params)}
        return self.http.request(method, url, json=body, params=parameters, headers={**authorization, **headers})

    def settle(self, answer: httpx.Response) -> dict[str, Any]:
        """Wait for the operation that `answer` started; returns its status document."""
        headers = {"Authorization": f"Bearer {self._arm_token}"}
        while True:
            status: dict[str, Any] = self.http.get(answer.headers["Azure-AsyncOperation"], headers=headers).json()
            if status["status"] != "InProgress":
                return status
            time.sleep(0.01)

    def faults(self, *rules: Mapping[str, Any]) -> None:
        self.http.post("/sandbox/faults", json=list(rules)).raise_for_status()

    def settings(self, **changed: Any) -> None:
        """Set `sandbox.context.SandboxSettings`; earlier changes are reset."""
        self.http.put("/sandbox/settings", json=changed).raise_for_status()

    @cached_property
    def http(self) -> httpx.Client:
        trust = ssl.create_default_context(cafile=self.ca_bundle)
        return httpx.Client(base_url=self.url, verify=trust, trust_env=False, timeout=60)

    @cached_property
    def _arm_token(self) -> str:
        return self.token()


@contextmanager
def running_sandbox(folder: Path) -> Iterator[RunningSandbox]:
    done = sandbox_command("start", folder)
    assert done.returncode == 0, done.stderr
    variables = json.loads(sandbox_command("env", folder, "--json").stdout)
    try:
        yield RunningSandbox(folder, variables)
    finally:
        sandbox_command("stop", folder)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


def gone(pid: int, within: float = 10.0) -> bool:
    """Whether the process ends within so many seconds."""
    until = time.monotonic() + within
    while (alive := is_alive(pid)) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive
