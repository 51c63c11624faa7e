"""Long-run stability: `python benchmarks/soak.py [--minutes 30] [--rate 200] [--overload 60] [--engine native]`.

First sends single rows at a steady rate and prints a line per minute: memory of all processes, errors, answers that
differ from the model's, and latency. Then, for `--overload` seconds, sends three times the batches that the service can
answer, and prints the numbers of answered and refused requests and the time to recovery. `--requests N` instead sends N
rows as fast as they are answered, on 16 connections, and reads the JVM's heap before and after, for `--engine spark`.

Requests of the steady part are sent when they are due, even if earlier ones are unanswered; latency counts from that
time. Client and service share the machine. Prints Markdown tables.
"""

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.serving import servers
from testing.scoring import Running, Toys, make_artefact, scoring_environment, serving, write_manifest

BATCH = 100
"""Rows of a request of the overload."""
CONNECTIONS = 300
MULTIPLE = 3


class Connection:
    """Keep-alive HTTP for one request at a time, as cheap as asyncio allows."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes) -> tuple[int, bytes]:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # the server closed the connection because it was idle for long
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(body) + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            content = await reader.readexactly(int(answer.partition(b"content-length: ")[2].partition(b"\r")[0]))
        except BaseException:
            self.close()
            raise
        return int(answer[9:12]), content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


class Pool:
    """Free connections; the one used last is taken first."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[Connection] = []
        self.opened = 0

    async def post(self, body: bytes) -> tuple[int, bytes]:
        if self._free:
            connection = self._free.pop()
        else:
            connection = Connection(self._port)
            self.opened += 1
        try:
            async with asyncio.timeout(10):
                return await connection.post(body)
        finally:
            self._free.append(connection)


@dataclass
class Outcomes:
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, status: str, seconds: float, right: bool = True) -> None:
        self.statuses[status] += 1
        self.wrong += not right
        self.seconds.setdefault(status, []).append(seconds)

    def at(self, status: str, share: float) -> float:
        """Milliseconds that `share` of the answers took at most; NaN without any."""
        slowest = sorted(self.seconds.get(status, []))
        return slowest[min(int(len(slowest) * share), len(slowest) - 1)] * 1000 if slowest else float("nan")

    @property
    def errors(self) -> int:
        return sum(times for status, times in self.statuses.items() if status != "200")


@dataclass(frozen=True)
class KnownRequest:
    body: bytes
    probabilities: list[float]


def known_requests(toys: Toys, rows: int, starts: Sequence[int] = range(100)) -> list[KnownRequest]:
    """A body of `rows` rows that begin at each of `starts`, with the probabilities that the model gives."""
    known = [toys.probability(row) for row in toys.rows]
    requests = []
    for start in starts:
        places = [(start + i) % len(known) for i in range(rows)]
        body = json.dumps({"rows": [toys.rows[place] for place in places]}).encode()
        requests.append(KnownRequest(body, [known[place] for place in places]))
    return requests


async def ask(
    post: Callable[[bytes], Awaitable[tuple[int, bytes]]], request: KnownRequest, outcomes: Outcomes, due: float
) -> None:
    try:
        status, content = await post(request.body)
    except (OSError, EOFError, TimeoutError) as error:
        outcomes.add(type(error).__name__, time.perf_counter() - due)
        return
    seconds = time.perf_counter() - due
    right = status != 200 or all(
        abs(given - expected) <= 1e-9
        for given, expected in zip(json.loads(content)["probabilities"], request.probabilities, strict=True)
    )
    outcomes.add(str(status), seconds, right)


async def steadily(
    port: int, rate: float, seconds: float, bodies: Sequence[KnownRequest], outcomes: Outcomes, pool: Pool
) -> None:
    """An open loop: request i is due at i / rate."""
    started = time.perf_counter()
    in_flight: set[asyncio.Task[None]] = set()
    for i in range(int(rate * seconds)):
        due = started + i / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        if len(in_flight) >= CONNECTIONS:
            outcomes.add("not sent", 0.0)
            continue
        task = asyncio.create_task(ask(pool.post, bodies[i % len(bodies)], outcomes, due))
        in_flight.add(task)
        task.add_done_callback(in_flight.discard)
    if in_flight:
        await asyncio.wait(in_flight)


async def as_fast_as_answered(
    port: int, count: int, connections: int, bodies: Sequence[KnownRequest], outcomes: Outcomes
) -> float:
    """Requests per second of a closed loop."""
    left = iter(range(count))

    async def client() -> None:
        connection = Connection(port)
        for i in left:
            await ask(connection.post, bodies[i % len(bodies)], outcomes, time.perf_counter())
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return count / (time.perf_counter() - started)


def megabytes(service: Running) -> float:
    """Resident memory of the service and its child processes."""
    process = psutil.Process(service.process.pid)
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)]) / 1e6


def live_heap(service: Running) -> float:
    """Megabytes of the JVM's heap that are still in use after a full collection."""
    time.sleep(65)  # Spark Serving frees requests after a second, and the ids of answers after an epoch of a minute
    java = next(
        child for child in psutil.Process(service.process.pid).children(recursive=True) if child.name() == "java"
    )
    tool = str(Path(os.environ.get("JAVA_HOME", "/usr"), "bin", "jcmd"))
    done = subprocess.run([tool, str(java.pid), "GC.class_histogram"], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1e6


def soak(service: Running, toys: Toys, minutes: int, rate: float, span: float = 60.0) -> None:
    bodies, pool = known_requests(toys, 1), Pool(service.port)

    async def all_minutes() -> None:
        print("| minute | MB | requests | errors | wrong | p50 ms | p99 ms | max ms |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for minute in range(1, minutes + 1):
            outcomes = Outcomes()
            await steadily(service.port, rate, span, bodies, outcomes, pool)
            figures = f"{outcomes.at('200', 0.5):.1f} | {outcomes.at('200', 0.99):.1f} | {outcomes.at('200', 1):.1f}"
            total = sum(outcomes.statuses.values())
            print(
                f"| {minute} | {megabytes(service):.0f} | {total} | {outcomes.errors} | {outcomes.wrong} | {figures} |",
                flush=True,
            )

    asyncio.run(all_minutes())


def overload(service: Running, toys: Toys, seconds: float) -> None:
    bodies = known_requests(toys, BATCH, range(20))

    async def measured() -> None:
        capacity = await as_fast_as_answered(service.port, 1000, 4, bodies, Outcomes())
        before, outcomes, pool = megabytes(service), Outcomes(), Pool(service.port)
        await steadily(service.port, capacity * MULTIPLE, seconds, bodies, outcomes, pool)
        ended = time.perf_counter()
        while (await Connection(service.port).post(bodies[0].body))[0] != 200:
            await asyncio.sleep(0.01)
        recovered = time.perf_counter() - ended
        total = sum(outcomes.statuses.values())
        print(f"\n| {MULTIPLE} x {capacity:.0f} requests/s of {BATCH} rows for {seconds:.0f} s | measured | bar |")
        print("| --- | --- | --- |")
        print(f"| answered | {outcomes.statuses['200'] / total:.0%} | |")
        print(
            f"| answered: p50, p99 | {outcomes.at('200', 0.5):.0f} ms, {outcomes.at('200', 0.99):.0f} ms | p99 100 ms |"
        )
        print(f"| refused with 503 | {outcomes.statuses['503'] / total:.0%} | |")
        print(f"| refused: p50, p99 | {outcomes.at('503', 0.5):.0f} ms, {outcomes.at('503', 0.99):.0f} ms | 50 ms |")
        others = {status: times for status, times in outcomes.statuses.items() if status not in ("200", "503")}
        print(f"| anything else | {others or 'none'} | none but what the client could not send |")
        print(f"| wrong answers | {outcomes.wrong} | 0 |")
        print(f"| answered again after | {recovered:.2f} s | 2 s |")
        print(f"| memory before, after | {before:.0f} MB, {megabytes(service):.0f} MB | flat |", flush=True)

    asyncio.run(measured())


def count_out(service: Running, toys: Toys, requests: int, log: Path) -> None:
    bodies, outcomes = known_requests(toys, 1), Outcomes()
    asyncio.run(as_fast_as_answered(service.port, 5000, 16, bodies, Outcomes()))  # warm-up: the JIT compilers finish
    heap, memory = live_heap(service), megabytes(service)
    rate = asyncio.run(as_fast_as_answered(service.port, requests, 16, bodies, outcomes))
    print(f"| {requests:,} rows, one a request | measured | bar |\n| --- | --- | --- |")
    print(f"| requests/s | {rate:.0f} | 500 |")
    print(f"| p50, p99 | {outcomes.at('200', 0.5):.1f} ms, {outcomes.at('200', 0.99):.1f} ms | |")
    print(f"| errors, wrong answers | {outcomes.errors} ({dict(outcomes.statuses)}), {outcomes.wrong} | 0 |")
    messages = Counter(json.loads(line).get("message") for line in log.read_text().splitlines() if line.startswith("{"))
    print(f"| rows that needed a second attempt | {messages['a row got no answer']} | |")
    print(f"| workers replaced | {messages['the worker is replaced']} | 0 |")
    print(f"| live heap before, after | {heap:.0f} MB, {live_heap(service):.0f} MB | flat |")
    print(f"| resident before, after | {memory:.0f} MB, {megabytes(service):.0f} MB | |", flush=True)


def spark_artefact(folder: Path) -> dict[str, object]:
    """Write the Spark pipeline of the artefact and return the settings to serve it."""
    from pyspark.sql import SparkSession

    from cli import local_spark
    from testing.scoring import write_pipeline

    spark = SparkSession.builder.config(map=local_spark.settings(folder)).getOrCreate()
    write_pipeline(spark, folder / "toys", folder / "scratch")
    spark.stop()
    write_manifest(folder / "toys")
    return {"SCORING_ENGINE": "spark", "SCORING_SPARK_JARS": servers.jars(folder), "SPARK_LOCAL_IP": "127.0.0.1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("native", "spark"), default="native")
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second of the steady part")
    parser.add_argument("--overload", type=float, default=60.0, metavar="SECONDS", help="0 leaves it out")
    parser.add_argument("--requests", type=int, help="send so many and nothing else (spark)")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        toys = make_artefact(folder / "toys")
        settings = spark_artefact(folder) if arguments.engine == "spark" else {}
        log = stack.enter_context((folder / "log").open("w"))
        environment = scoring_environment(toys.folder, **settings)
        service = stack.enter_context(serving(environment, seconds=400, log=log))
        if arguments.requests:
            count_out(service, toys, arguments.requests, folder / "log")
            return
        soak(service, toys, arguments.minutes, arguments.rate)
        if arguments.overload:
            overload(service, toys, arguments.overload)


if __name__ == "__main__":
    main()
