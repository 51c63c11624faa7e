"""Load on loopback: closed loops with wrk, open loops with the small client in this file and, for comparison, with k6.

An open loop sends requests when they are due, even if the server cannot keep up, and counts the latency of a request
from that time: a stall delays all requests that were due meanwhile. A closed loop would send none of them.

Open loops run in a separate process, `load.py PORT PATH RATE SECONDS CONNECTIONS FILE`, so that nothing delays them.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import uvloop

HOST = "127.0.0.1"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_WAIT_SECONDS = 5.0
"""Time to wait for answers after the last request was sent."""


@dataclass(frozen=True)
class Latency:
    requests: int
    """Number of requests answered 200."""
    seconds: float
    p50: float
    p99: float
    """Milliseconds."""
    refused: int = 0
    """Number of requests answered 503."""
    refused_p99: float = 0.0
    failed: int = 0
    """Number of requests with another answer, or none."""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def closed_loop(port: int, path: str, bodies: Path, connections: int, seconds: float) -> Latency:
    script = Path(__file__).with_name("closed.lua")
    options = ["-t", "1", "-c", str(connections), "-d", f"{max(round(seconds), 1)}s", "--timeout", "120s"]
    command = ["wrk", *options, "-s", str(script), f"http://{HOST}:{port}", "--", str(bodies), path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    answered = result["requests"] - result["failed"]
    return Latency(answered, result["seconds"], result["p50"] / 1e3, result["p99"] / 1e3, failed=result["failed"])


def open_loop(port: int, path: str, bodies: Path, rate: float, seconds: float, connections: int = 64) -> Latency:
    """Send `rate` requests per second for `seconds`, on at most `connections` connections."""
    command = [sys.executable, __file__, str(port), path, str(rate), str(seconds), str(connections), str(bodies)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Latency(**json.loads(done.stdout))


def k6_loop(k6: Path, port: int, path: str, bodies: Path, rate: int, seconds: float) -> Latency:
    """The load of `open_loop` sent by k6, which counts from the sending of a request; one it cannot send has failed."""
    variables = {
        "URL": f"http://{HOST}:{port}{path}",
        "BODIES": str(bodies),
        "RATE": str(rate),
        "SECONDS": f"{seconds:.0f}",
    }
    options = [
        "--quiet",
        "--no-usage-report",
        "--no-color",
        *(f"--env={name}={value}" for name, value in variables.items()),
    ]
    command = [str(k6), "run", *options, str(Path(__file__).with_name("arrival.js"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Latency(seconds=seconds, **json.loads(done.stdout.splitlines()[-1]))


class _Connection(asyncio.Protocol):
    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._received = b""
        self.due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, head) if head >= 0 else None
        if length is None or len(self._received) < head + 4 + int(length[1]):
            return
        status = int(self._received[9:12])
        self._received = b""
        due, self.due = self.due, None
        assert due is not None
        self._load.answered(self, status, time.perf_counter() - due)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)


class _Load:
    """An open loop. Opens a connection only when all are busy: the server would close one that is not used."""

    def __init__(self, port: int, requests: list[bytes], connections: int) -> None:
        self._port = port
        self._requests = requests
        self._most = connections
        self._connections = 0
        self._free: list[_Connection] = []
        self._waiting: deque[float] = deque()
        self._sent = self._lost = 0
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._seconds: dict[int, list[float]] = {}

    async def run(self, rate: float, seconds: float) -> Latency:
        started = time.perf_counter()
        for number in range(round(rate * seconds)):
            due = started + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif number % 50 == 0:
                await asyncio.sleep(0)  # late: let the event loop read answers
            self._waiting.append(due)
            self._send()
        until = time.perf_counter() + _WAIT_SECONDS
        while self._open() and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        self._ending = True
        return self._latency(time.perf_counter() - started)

    def answered(self, connection: _Connection, status: int, seconds: float) -> None:
        self._seconds.setdefault(status, []).append(seconds * 1e3)
        self._free.append(connection)
        self._send()

    def lost(self, connection: _Connection) -> None:
        if self._ending:
            return
        self._lost += connection.due is not None
        self._connections -= 1
        if connection in self._free:
            self._free.remove(connection)
        self._send()

    async def _connect(self) -> None:
        _, connection = await asyncio.get_running_loop().create_connection(lambda: _Connection(self), HOST, self._port)
        self._free.append(connection)
        self._send()

    def _send(self) -> None:
        while self._waiting and self._free:
            self._free.pop().send(self._requests[self._sent % len(self._requests)], self._waiting.popleft())
            self._sent += 1
        if self._waiting and self._connections < self._most:
            self._connections += 1
            task = asyncio.ensure_future(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _open(self) -> int:
        return len(self._waiting) + self._sent - self._lost - sum(map(len, self._seconds.values()))

    def _latency(self, seconds: float) -> Latency:
        unanswered = self._open()
        answered, refused = self._seconds.pop(200, []), self._seconds.pop(503, [])
        p50, p99 = np.percentile(answered, [50, 99]).tolist() if answered else (float("nan"), float("nan"))
        refused_p99 = float(np.percentile(refused, 99)) if refused else 0.0
        failed = self._lost + unanswered + sum(map(len, self._seconds.values()))
        return Latency(len(answered), seconds, p50, p99, len(refused), refused_p99, failed)


def _main() -> None:
    port, path, rate, seconds, connections, file = sys.argv[1:]
    head = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    bodies = Path(file).read_bytes().splitlines()
    load = _Load(int(port), [head.format(path, len(body)).encode() + body for body in bodies], int(connections))
    print(json.dumps(vars(uvloop.run(load.run(float(rate), float(seconds))))))


if __name__ == "__main__":
    _main()
