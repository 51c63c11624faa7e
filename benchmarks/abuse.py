"""Cost of the most expensive requests: `python -m benchmarks.abuse` sends a worst body of each kind at the size limit.

Prints a Markdown table: status, CPU time of the service, and its peak resident size during the request. The event loop
does all the work of a request, so its CPU time bounds the time that other requests wait. The service has its default
limits and the native engine. Each body is sent three times and the largest figure counts.
"""

import argparse
import gzip
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from testing.scoring import Running, make_artefact, scoring_environment, serving

BYTES = 2 * 1024 * 1024
"""Default of SCORING_MAX_BYTES."""
ROWS, STRING, STRINGS = 1000, 1000, 100
BAR_SECONDS, BAR_MEGABYTES = 0.6, 150.0
_HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
_LOOP = 2_000_000
_LOOP_SECONDS = 0.1
"""CPU of `_LOOP` additions on the machine of docs/benchmarks.md."""


@dataclass(frozen=True)
class Abuse:
    status: int
    """Expected status."""
    body: bytes
    headers: bytes = b""

    def request(self) -> bytes:
        if b"Transfer-Encoding" in self.headers:
            return _HEAD + self.headers + b"\r\n" + self.body
        return _HEAD + self.headers + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body


@dataclass(frozen=True)
class Cost:
    status: int
    seconds: float
    """CPU time of the service."""
    megabytes: float
    """Largest resident size of the service."""


def _long_lists() -> bytes:
    genres = [f"{i:x}" for i in range(STRINGS)]
    return json.dumps({"rows": [{"gender": "g" * STRING, "genres": genres, "age": i} for i in range(ROWS)]}).encode()


def _long_text_and_lists() -> bytes:
    items = [{"id": i, "genres": [f"{i:x}{j:x}" for j in range(STRINGS)]} for i in range(ROWS)]
    return json.dumps({"user": {"gender": "😀" * STRING}, "items": items}, separators=(",", ":")).encode()


def _colons() -> bytes:
    return json.dumps({"rows": [{"gender": '":' * (STRING // 2), "age": i} for i in range(ROWS)]}).encode()


def _chunks(size: int) -> bytes:
    body = _filled(b'{"rows":[{"age":1}]', b" ", b"}")
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


_SPOOF = b" - at `$.rows[3].x"
WORST: dict[str, Callable[[], Abuse]] = {
    "1,000 rows with lists of 100": lambda: Abuse(200, _long_lists()),
    "1,000 items with lists of 100, a long text of the user": lambda: Abuse(200, _long_text_and_lists()),
    "text full of colons": lambda: Abuse(200, _colons()),
    "one name repeated": lambda: Abuse(400, _filled(b'{"rows":[{"hour":1', b',"age":1', b"}]}")),
    "names in an object as the label": lambda: Abuse(
        400, _numbered(b'{"rows":[{"age":1,"click":{"z":0', b',"z":0}}]}')
    ),
    "as many rows as fit": lambda: Abuse(413, _filled(b'{"rows":[{}', b",{}", b"]}")),
    "rows repeated": lambda: Abuse(400, _filled(b'{"rows":[]', b',"rows":[]', b',"rows":[{"age":1}]}')),
    "the user repeated": lambda: Abuse(400, _filled(b'{"items":[{"id":1}]', b',"user":{}', b"}")),
    "a list as long as fits": lambda: Abuse(400, _filled(b'{"rows":[{"genres":["a"', b',"a"', b"]}]}")),
    "NaN, then objects": lambda: Abuse(400, _filled(b'{"rows":NaN,"x":[{}', b",{}", b"]}")),
    "NaN, then lists": lambda: Abuse(400, _filled(b'{"rows":NaN,"x":[[]', b",[]", b"]}")),
    "NaN, then names": lambda: Abuse(400, _numbered(b'{"rows":NaN,"x":{"z":0', b"}}")),
    "nesting": lambda: Abuse(400, _filled(b'{"rows":NaN,"x":', b"[", b"")),
    "an unknown name": lambda: Abuse(400, _filled(b'{"', b"a", _SPOOF + b'":1}')),
    "an unknown name in a row": lambda: Abuse(400, _filled(b'{"rows":[{"', b"a", _SPOOF + b'":1}]}')),
    "a number of two million digits": lambda: Abuse(400, _filled(b'{"rows":[{"age":1', b"0", b"}]}")),
    "escapes, then half of a surrogate pair": lambda: Abuse(
        400, _filled(b'{"rows":[{"gender":"', b"\\ud83d\\ude00", b'\\ud83d"}]}')
    ),
    "a byte that is not UTF-8 at the end": lambda: Abuse(400, _filled(b'{"rows":[{"gender":"', b"a", b'\xff"}]}')),
    "500 MB of blanks in gzip": lambda: Abuse(413, _blanks_in_gzip(), b"Content-Encoding: gzip\r\n"),
    "chunks of one byte": lambda: Abuse(431, _chunks(1), b"Transfer-Encoding: chunked\r\n"),
    "chunks of five bytes": lambda: Abuse(200, _chunks(5), b"Transfer-Encoding: chunked\r\n"),
}
"""Bodies by kind, each as large as the limit allows."""


def _filled(start: bytes, piece: bytes, end: bytes) -> bytes:
    return start + piece * ((BYTES - len(start) - len(end)) // len(piece)) + end


def _numbered(start: bytes, end: bytes) -> bytes:
    """An object with different names, as many as fit into the limit."""
    count = (BYTES - len(start) - len(end)) // len(b',"100000":0')
    return start + b"".join(b',"%d":0' % name for name in range(100_000, 100_000 + count)) + end


def _blanks_in_gzip() -> bytes:
    blanks = gzip.compress(b" " * 50_000_000)
    return blanks * 10


def slowness() -> float:
    """Present slowness of this machine relative to the one of docs/benchmarks.md, at least 1."""
    started = time.process_time()
    total = 0
    for number in range(_LOOP):
        total += number
    return max(1.0, (time.process_time() - started) / _LOOP_SECONDS)


def cost(service: Running, abuse: Abuse) -> Cost:
    process = psutil.Process(service.process.pid)
    proc = Path(f"/proc/{process.pid}")
    (proc / "clear_refs").write_text("5")  # resets the peak
    before = sum(process.cpu_times()[:2])
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(abuse.request())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    seconds = sum(process.cpu_times()[:2]) - before
    peak = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return Cost(int(answer.split(b" ", 2)[1]), seconds, int(peak.split()[1]) / 1024)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    bar = BAR_SECONDS * slowness()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        toys = make_artefact(Path(folder) / "toys")
        with (Path(folder) / "log").open("w") as log, serving(scoring_environment(toys.folder), log=log) as service:
            print(f"| worst body | status | CPU in s (bar {bar:.2f}) | resident in MB (bar {BAR_MEGABYTES:.0f}) |")
            print("| --- | --- | --- | --- |")
            for kind, body in WORST.items():
                abuse = body()
                costs = [cost(service, abuse) for _ in range(3)]
                seconds, megabytes = max(c.seconds for c in costs), max(c.megabytes for c in costs)
                print(f"| {kind} | {costs[0].status} | {seconds:.2f} | {megabytes:.0f} |", flush=True)
                right = {c.status for c in costs} == {abuse.status}
                failed |= not right or seconds > bar or megabytes > BAR_MEGABYTES
    sys.exit(failed)


if __name__ == "__main__":
    main()
