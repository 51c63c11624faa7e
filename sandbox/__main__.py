"""`python -m sandbox start|stop|env|serve --folder DIR`: one Azure on this machine per folder.

Exit codes: 0 done, also if there was nothing to do; 1 the sandbox broke; 2 a mistake, said in one line.
"""

import argparse
import contextlib
import http.client
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sandbox import containers
from sandbox.folder import CannotServe, RunsAlready, process_id, remembered_port, runs

_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_RUNS_ALREADY = 3


def start(folder: Path, port: int | None) -> str:
    containers.settle(folder, os.environ)
    if runs(folder):
        ready = _wait_until_ready(folder, None, 0)
        if port and port != remembered_port(folder):
            message = f"a sandbox runs already in {folder}, on port {remembered_port(folder)}."
            raise CannotServe(f"{message} Start it without --port {port}, or name another --folder.")
        return f"runs already: {ready}"
    command = [sys.executable, "-m", "sandbox", "serve", "--folder", str(folder)]
    if port:
        command += ["--port", str(port)]
    with (folder / "sandbox.log").open("ab") as log:
        said = log.tell()
        root = Path(__file__).parents[1]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=root
        )
    ready = _wait_until_ready(folder, child, said)
    if process_id(folder) != child.pid:
        # Another start won the folder. The loser would still try for a moment, and win it once that one has stopped.
        child.kill()
        child.wait()
        return f"runs already: {ready}"
    return f"started: {ready}"


def stop(folder: Path) -> str:
    if not runs(folder):
        return "does not run"
    server = process_id(folder)
    for sent, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, sent)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not runs(folder):
                return "stopped" if sent == signal.SIGTERM else f"killed: it did not stop in {_STOP_SECONDS:.0f} s"
            time.sleep(0.05)
    raise CannotServe(f"process {server} of the sandbox in {folder} cannot be ended.")


def environment(folder: Path, as_json: bool) -> str:
    try:
        text = (folder / "environment.json").read_text()
    except OSError as error:
        raise CannotServe(f"no sandbox was ever started in {folder}: `python -m sandbox start --folder …`.") from error
    if as_json:
        return text
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in json.loads(text).items())


def _wait_until_ready(folder: Path, child: subprocess.Popen[bytes] | None, said: int) -> str:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        # Until the lock is held nobody can be ready, and what listens on the port may be a stranger who never answers.
        if runs(folder) and (ready := _ask(folder)):
            ill = (
                f"; not resumed, see {folder / 'sandbox.log'}: {', '.join(ready['unwell'])}" if ready["unwell"] else ""
            )
            return f"https://127.0.0.1:{remembered_port(folder)}, state in {folder}{ill}"
        if child is not None and child.poll() not in (None, _RUNS_ALREADY):
            break
        # Another start may have won the folder: then its server is the one to wait for.
        if (child is None or child.poll() == _RUNS_ALREADY) and not runs(folder):
            break
        time.sleep(0.05)
    with (folder / "sandbox.log").open("rb") as log:
        log.seek(said)
        told = log.read().decode(errors="replace").strip()
    if child is not None and child.poll() == 2:
        raise CannotServe(told.rpartition("error: ")[2])
    raise RuntimeError(f"The sandbox did not get ready. {folder / 'sandbox.log'} says:\n{told}")


def _ask(folder: Path) -> dict[str, Any] | None:
    """What a server that is ready and has this folder's certificate answers."""
    port = remembered_port(folder)
    if port is None:
        return None
    try:
        trust = ssl.create_default_context(cafile=folder / "identity" / "ca.pem")
        server = http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=2)
        with contextlib.closing(server):
            server.request("GET", "/sandbox/ready")
            answer = server.getresponse()
            found: dict[str, Any] = json.load(answer)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return found if answer.status == 200 else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Azure on this machine, for one folder.")
    parser.add_argument("command", choices=["start", "stop", "env", "serve"])
    parser.add_argument("--folder", type=Path, required=True, help="holds all state; made if it is not there")
    parser.add_argument("--port", type=int, help="for the first start; without it any free one")
    parser.add_argument("--json", action="store_true", help="env: JSON instead of shell exports")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    try:
        match asked.command:
            case "start":
                print("sandbox", start(folder, asked.port))
            case "stop":
                print("sandbox", stop(folder))
            case "env":
                print(environment(folder, asked.json))
            case "serve":
                from sandbox.server import serve  # the other commands answer without a web server's imports

                serve(folder, asked.port)
    except CannotServe as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunsAlready as error:
        print(f"error: {error}", file=sys.stderr)
        return _RUNS_ALREADY
    return 0


if __name__ == "__main__":
    sys.exit(main())
