"""`python -m sandbox start|stop|env|serve --folder DIR`: one emulated Azure on this machine per folder.

Exit codes: 0 done, also if there was nothing to do; 1 the sandbox broke; 2 an error that the user can correct, reported
in one line; 3 (`serve`) another server has the folder; 4 a file of the folder's state cannot be read.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sandbox import instance_lock
from sandbox.instance_lock import CannotServe, Damaged, RunsAlready, make, process_id, remembered_port, runs
from sandbox.registry import containers
from sandbox.state_files import Unreadable

_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_RUNS_ALREADY = 3
_OUT_OF_DATE = (9, 10)  # openssl x509_vfy.h: X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


class NotReady(Exception):
    """The server broke or took too long."""


def start(folder: Path, port: int | None) -> str:
    """Start the sandbox of this folder unless it is running. If it ends meanwhile, start it again."""
    containers.settle(folder, os.environ)
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if not runs(folder):
            result = _launch(folder, port, until)
        elif ready := _wait_until_ready(folder, None, until):
            if port and port != remembered_port(folder):
                message = f"a sandbox runs already in {folder}, on port {remembered_port(folder)}."
                raise CannotServe(f"{message} Start it without --port {port}, or name another --folder.")
            _hand_over_environment(folder)
            result = f"runs already: {ready}"
        else:
            result = None
        if result:
            return result
    raise NotReady(f"the sandbox did not get ready in {_START_SECONDS:.0f} s. See {folder / 'sandbox.log'}.")


def _launch(folder: Path, port: int | None, until: float) -> str | None:
    """Start the server. Returns None if another start got the folder first and its server has ended since."""
    make(folder)
    command = [sys.executable, "-m", "sandbox", "serve", "--folder", str(folder)]
    if port:
        command += ["--port", str(port)]
    with open(os.open(folder / "sandbox.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        begin = log.tell()
        root = Path(__file__).parents[1]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=root
        )
    try:
        ready = _wait_until_ready(folder, child, until)
    except CannotServe:
        _end(child)
        raise
    if ready and process_id(folder) == child.pid:
        return f"started: {ready}"
    # If another start got the folder first, this child still tries for a moment, and would get it once that one stops.
    exit_code = child.poll()
    _end(child)
    if ready:
        _hand_over_environment(folder)
        return f"runs already: {ready}"
    if exit_code == _RUNS_ALREADY:
        return None
    with (folder / "sandbox.log").open("rb") as log:
        log.seek(begin)
        output = log.read().decode(errors="replace").strip()
    if exit_code in (CannotServe.exit_code, Damaged.exit_code):
        error = CannotServe(re.split(r"^error: ", output, flags=re.MULTILINE)[-1])
        error.exit_code = exit_code
        raise error
    last = output.rpartition("\n")[2]
    raise NotReady(f"the sandbox did not get ready: {last or 'it printed nothing'}. See {folder / 'sandbox.log'}.")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


def stop(folder: Path) -> str:
    if not runs(folder):
        return "does not run"
    server = process_id(folder)
    if server is None:
        raise CannotServe(f"the process of the sandbox in {folder} cannot be found: end it by hand.")
    for sent, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, sent)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not runs(folder):
                return "stopped" if sent == signal.SIGTERM else f"killed: it did not stop in {_STOP_SECONDS:.0f} s"
            time.sleep(0.05)
    raise CannotServe(f"process {server} of the sandbox in {folder} cannot be ended.")


def environment(folder: Path, as_json: bool, network: str | None) -> str:
    try:
        variables = instance_lock.environment(folder)
        if network:
            from sandbox import caller_network

            variables |= caller_network.environment(folder, network)
    except FileNotFoundError as error:
        raise CannotServe(f"no sandbox was ever started in {folder}: `python -m sandbox start --folder …`.") from error
    if as_json:
        return json.dumps(variables, indent=2)
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def _wait_until_ready(folder: Path, child: subprocess.Popen[bytes] | None, until: float) -> str | None:
    """The ready server's address and folder as a message; None if the child, or without one the server, ends first."""
    while time.monotonic() < until:
        # Without the lock no server is ready, and another program on the port may never answer.
        if runs(folder) and (ready := _ready(folder)):
            for error in ready["not_resumed"]:
                _warn(f"not resumed, see {folder / 'sandbox.log'}: {error}")
            return f"https://127.0.0.1:{remembered_port(folder)}, state in {folder}"
        if child is not None and child.poll() not in (None, _RUNS_ALREADY):
            return None
        # If another start got the folder first, wait for its server.
        if (child is None or child.poll() == _RUNS_ALREADY) and not runs(folder):
            return None
        time.sleep(0.05)
    return None


def _ready(folder: Path) -> dict[str, Any] | None:
    """The server's answer if it is ready, else None."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        status, content = _ask(folder, "GET", "/sandbox/ready")
        return json.loads(content) if status == 200 else None
    return None


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _hand_over_environment(folder: Path) -> None:
    """Send this command's environment to the running server. Print a warning if that fails."""
    answer: object
    try:
        secret = instance_lock.environment(folder)["ARM_CLIENT_SECRET"]
        answer, _ = _ask(folder, "PUT", "/sandbox/environment", dict(os.environ), secret)
    except (OSError, http.client.HTTPException, KeyError) as error:
        answer = f"{type(error).__name__} {error}"
    if answer != 200:
        _warn(f"the sandbox in {folder} keeps the environment that it was started with ({answer}): stop it first")


def _ask(folder: Path, method: str, path: str, body: Any = None, secret: str = "") -> tuple[Any, bytes]:
    """Status and content of one answer of the server with this folder's certificate.

    Raises `OSError` or `HTTPException` if no server answers yet, and `CannotServe` if none can.
    """
    port = remembered_port(folder)
    if port is None:
        raise ConnectionRefusedError("the server has no port yet")
    authority = folder / "identity" / "ca.pem"
    try:
        trust = ssl.create_default_context(cafile=authority)
    except OSError as error:  # the port exists, so the identity must exist, too
        raise Damaged(Unreadable(authority, error)) from error
    server = http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=10 if body else 2)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    with contextlib.closing(server):
        try:
            server.request(method, path, json.dumps(body) if body else None, headers)
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _OUT_OF_DATE:
                from sandbox.identity.authority import require_valid_today

                require_valid_today(folder)
            raise
        answer = server.getresponse()
        return answer.status, answer.read()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox", description="Emulate Azure on this machine; all state is in one folder."
    )
    parser.add_argument("command", choices=["start", "stop", "env", "serve"])
    parser.add_argument("--folder", type=Path, required=True, help="folder of all state; created if missing")
    parser.add_argument("--port", type=int, help="port of the first start; by default any free one")
    parser.add_argument("--json", action="store_true", help="env: JSON instead of shell exports")
    parser.add_argument("--network", help="env: variables for a caller inside the virtual network of this name")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    try:
        match arguments.command:
            case "start":
                print("sandbox", start(folder, arguments.port))
            case "stop":
                print("sandbox", stop(folder))
            case "env":
                print(environment(folder, arguments.json, arguments.network))
            case "serve":
                from sandbox.server import serve  # imported here, so that the other commands do not load a web server

                serve(folder, arguments.port)
    except CannotServe as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except NotReady as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RunsAlready as error:
        print(f"error: {error}", file=sys.stderr)
        return _RUNS_ALREADY
    return 0


if __name__ == "__main__":
    sys.exit(main())
