"""The services that are compared: installation, start, requests and stop. One worker each, on loopback.

The peers are installed in separate virtual environments in the cache, so the project's environment is not changed.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.serving.generated_model import GeneratedModel, Row
from benchmarks.serving.load import HOST
from cli import paths

REPOSITORY = Path(__file__).parent.parent.parent
PEERS = Path(__file__).with_name("peers")
REQUIREMENTS = {
    "peers": ["azureml-inference-server-http", "pandas", "fastapi", "uvicorn", "uvloop", "httptools", "lightgbm"],
    "mlserver": ["mlserver", "mlserver-lightgbm"],
    "k6": ["k6"],
}
START_SECONDS = 900
SINGLE, BATCH, RANK = "one row", "100 rows", "1,000 items"


class NotStarted(Exception):
    """A service did not answer in time. The message holds the end of its log."""


@dataclass(frozen=True)
class Server:
    name: str
    title: str
    command: Sequence[str]
    environment: Mapping[str, str]
    bodies: Mapping[str, list[bytes]]
    path: str = "/score"
    answer: str | None = "probabilities"
    """Member of the answer with the probabilities; None for the echo."""


@dataclass
class Running:
    server: Server
    port: int
    process: "subprocess.Popen[bytes]"
    start_seconds: float
    """Seconds from the start of the process to the first answer."""
    start_cpu_seconds: float = 0.0
    files: dict[str, Path] = field(default_factory=dict)

    def tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU time of all its processes."""
        seconds = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):  # the service may replace a worker at any time
                seconds += sum(process.cpu_times()[:2])
        return seconds

    def resident(self) -> float:
        """Resident memory in megabytes; a page that two processes share counts once."""
        return sum(process.memory_full_info().pss for process in self.tree()) / 1e6

    def ask(self, body: bytes) -> Any:
        address = f"http://{HOST}:{self.port}{self.server.path}"
        answer = httpx.post(
            address, content=body, headers={"Content-Type": "application/json"}, timeout=30, trust_env=False
        )
        answer.raise_for_status()
        return answer.json()


def environment(name: str) -> Path:
    """Folder with the executables of an environment of `REQUIREMENTS`, which is created if it does not exist."""
    folder = paths.folder() / "benchmark" / name
    wanted = "\n".join(REQUIREMENTS[name])
    marker = folder / "requirements.in"
    if not marker.is_file() or marker.read_text() != wanted:
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
        python = str(folder / "bin" / "python")
        subprocess.run([uv, "pip", "install", "-q", "--python", python, *REQUIREMENTS[name]], check=True)
        marker.write_text(wanted)
    return folder / "bin"


def versions(name: str, *packages: str) -> str:
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    command = [str(environment(name) / "python"), "-c", program, *packages]
    installed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return ", ".join(f"{package} {version}" for package, version in zip(packages, installed, strict=True))


def bodies(model: GeneratedModel) -> dict[str, list[bytes]]:
    """Bodies for a service that takes named features: two thousand different rows, twenty different batches."""

    def body(document: object) -> bytes:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    def side_of(row: Row, *, user: bool) -> Row:
        return {name: value for name, value in row.items() if (name in model.user) is user}

    rows = model.rows
    ranks = []
    for start in range(5):
        items = [{"id": i, **side_of(row, user=False)} for i, row in enumerate(rows[start * 100 :][:1000])]
        ranks.append(body({"user": side_of(rows[start], user=True), "items": items, "top": 10}))
    return {
        SINGLE: [body({"rows": [row]}) for row in rows],
        BATCH: [body({"rows": rows[start : start + 100]}) for start in range(0, len(rows), 100)],
        RANK: ranks,
    }


def whole_rows(model: GeneratedModel) -> dict[str, list[bytes]]:
    """Bodies for a service without ranking: the features of the user are repeated in every item."""
    named = bodies(model)
    rows = [json.dumps({"rows": model.rows[start * 100 :][:1000]}).encode() for start in range(5)]
    return {**named, RANK: rows}


def vectors(model: GeneratedModel) -> dict[str, list[bytes]]:
    """Bodies for a service that takes a tensor: encoded rows, with -1 for a missing number, because JSON has no NaN."""

    def body(matrix: np.ndarray) -> bytes:
        data = np.where(np.isnan(matrix), -1.0, matrix)
        tensor = {"name": "rows", "shape": list(data.shape), "datatype": "FP64", "data": data.ravel().tolist()}
        return json.dumps({"inputs": [tensor]}).encode()

    encoded = model.vectors
    return {
        SINGLE: [body(encoded[i : i + 1]) for i in range(len(encoded))],
        BATCH: [body(encoded[start : start + 100]) for start in range(0, len(encoded), 100)],
        RANK: [body(encoded[start * 100 :][:1000]) for start in range(5)],
    }


def ours(model: GeneratedModel, engine: str, jars: Path | None = None) -> Server:
    settings = {
        "AZUREML_MODEL_DIR": str(model.folder),
        "MODEL_NAME": "benchmark",
        "SCORING_ENGINE": engine,
        "PYTHONPATH": str(REPOSITORY),
        "SPARK_LOCAL_IP": HOST,
        **({"SCORING_SPARK_JARS": str(jars), "SCORING_SPARK_MEMORY": "3g"} if jars else {}),
    }
    title = {"native": "**this front, native**", "spark": "this front, Spark Serving"}[engine]
    return Server(engine, title, [sys.executable, "-m", "scoring"], settings, bodies(model))


def jars(scratch: Path) -> Path:
    """Folder with the jars of SynapseML that the scoring image has."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "scoring.engines.spark_jars", str(scratch / "jars"), str(paths.folder() / "ivy")]
    subprocess.run(command, env=environment, cwd=scratch, check=True, stdout=sys.stderr)
    return scratch / "jars"


def peers(model: GeneratedModel, scratch: Path) -> list[Server]:
    variables = {"AZUREML_MODEL_DIR": str(model.folder), "PYTHONPATH": str(PEERS)}
    quiet = ["--host", HOST, "--no-access-log", "--log-level", "warning"]
    fast = ["--loop", "uvloop", "--http", "httptools", *quiet]
    programs = environment("peers")
    # The command of azmlinfsrv, except for the address: azmlinfsrv listens on all addresses.
    azure = [
        str(programs / "gunicorn"),
        "-w",
        "1",
        "--timeout",
        "300",
        "--access-logfile",
        "-",
        "--error-logfile",
        "/dev/null",
    ]
    entry = {**variables, "AZUREML_ENTRY_SCRIPT": str(PEERS / "score.py"), "AML_APP_ROOT": str(PEERS)}
    return [
        Server(
            "echo",
            "bare ASGI echo (no model)",
            [sys.executable, "-m", "uvicorn", "echo:app", *fast],
            variables,
            bodies(model),
            answer=None,
        ),
        Server(
            "fastapi",
            "FastAPI, pydantic, `Booster.predict`",
            [str(programs / "uvicorn"), "fastapi_app:app", *fast],
            variables,
            whole_rows(model),
        ),
        Server(
            "azureml",
            "azureml-inference-server-http, pandas",
            [*azure, "azureml_inference_server_http.server.entry:app"],
            entry,
            whole_rows(model),
        ),
        mlserver(model, scratch),
    ]


def mlserver(model: GeneratedModel, scratch: Path) -> Server:
    folder = scratch / "mlserver"
    folder.mkdir()
    settings = {
        "name": "click",
        "implementation": "mlserver_lightgbm.LightGBMModel",
        "parameters": {"uri": str(model.folder / "model.txt")},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    command = [str(environment("mlserver") / "mlserver"), "start", str(folder)]
    # The default of one thread per core adds milliseconds to p99. No access log, like the other servers.
    chosen = {
        "OMP_NUM_THREADS": "1",
        "MLSERVER_HOST": HOST,
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MLSERVER_DEBUG": "false",
    }
    return Server(
        "mlserver",
        "MLServer, rows encoded beforehand",
        command,
        chosen,
        vectors(model),
        "/v2/models/click/infer",
        "outputs",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _placed(server: Server, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the server, with the port passed in its own way."""
    command, chosen = list(server.command), dict(server.environment)
    if server.name in ("native", "spark"):
        chosen["SCORING_PORT"] = str(port)
    elif server.name == "mlserver":
        ports = {"HTTP": port, "GRPC": free_port(), "METRICS": free_port()}
        chosen |= {f"MLSERVER_{kind}_PORT": str(number) for kind, number in ports.items()}
    elif server.name == "azureml":
        command[1:1] = ["-b", f"{HOST}:{port}"]
    else:
        command += ["--port", str(port)]
    return command, chosen


@contextmanager
def running(server: Server, folder: Path) -> Iterator[Running]:
    """Start the server and wait for its first answer; its log and the bodies of its requests are in `folder`."""
    port = free_port()
    command, chosen = _placed(server, port)
    started = time.monotonic()
    with (folder / f"{server.name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **chosen}, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    one = Running(server, port, process, 0.0)
    tree: list[psutil.Process] = []
    try:
        while True:
            try:
                one.ask(server.bodies[SINGLE][0])
                break
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                    log_end = (folder / f"{server.name}.log").read_text(errors="replace")[-3000:]
                    raise NotStarted(f"{server.name} did not start: {error!r}\n{log_end}") from error
                time.sleep(0.01)
        one.start_seconds = time.monotonic() - started
        one.start_cpu_seconds = one.cpu_seconds()
        for kind, lines in server.bodies.items():
            one.files[kind] = folder / f"{server.name}.{kind.replace(',', '').replace(' ', '-')}"
            one.files[kind].write_bytes(b"\n".join(lines) + b"\n")
        yield one
    finally:
        if process.poll() is None:
            tree = one.tree()
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        for left in psutil.wait_procs(tree, timeout=5)[1]:
            left.kill()


def check(one: Running, model: GeneratedModel, rows: int = 50) -> None:
    """Raise `RuntimeError` if the server's probabilities differ from the model's."""
    for i in range(rows if one.server.answer else 0):
        answer = one.ask(one.server.bodies[SINGLE][i])
        assert one.server.answer is not None
        (given,) = answer["outputs"][0]["data"] if one.server.name == "mlserver" else answer[one.server.answer]
        expected = model.without_missing[i] if one.server.name == "mlserver" else model.probabilities[i]
        if abs(given - expected) > 1e-9:
            raise RuntimeError(f"{one.server.name} gives {given} for row {i}, not {expected}")
