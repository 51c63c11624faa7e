"""Does the service hold out? `python benchmarks/soak.py [--minutes 30] [--rate 200] [--overload 60] [--engine native]`.

First a steady rate of single rows, and once a minute a line with the memory of all its processes, errors, answers that
differ from the model's own, and latency. Then, for `--overload` seconds, three times the batches that it can answer:
what is admitted, what is refused, and how soon it has recovered. `--requests N` sends N rows as fast as they are
answered instead, on 16 connections, and reads the JVM's heap before and after: for `--engine spark`.

Requests of the steady part are sent when they are due, whether or not earlier ones were answered; latency counts from
that time. Client and service share the machine. Prints Markdown tables.
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
            self.close()  # the server closes what was idle for long
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
    """Connections that are free, the one used last first."""

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
class Seen:
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
class Asked:
    body: bytes
    probabilities: list[float]


def asked(toys: Toys, rows: int, starts: Sequence[int] = range(100)) -> list[Asked]:
    """A body of `rows` rows from each of `starts` on, with what the model itself answers."""
    known = [toys.probability(row) for row in toys.rows]
    found = []
    for start in starts:
        places = [(start + i) % len(known) for i in range(rows)]
        body = json.dumps({"rows": [toys.rows[place] for place in places]}).encode()
        found.append(Asked(body, [known[place] for place in places]))
    return found


async def ask(post: Callable[[bytes], Awaitable[tuple[int, bytes]]], what: Asked, seen: Seen, due: float) -> None:
    try:
        status, content = await post(what.body)
    except (OSError, EOFError, TimeoutError) as error:
        seen.add(type(error).__name__, time.perf_counter() - due)
        return
    seconds = time.perf_counter() - due
    right = status != 200 or all(
        abs(given - expected) <= 1e-9
        for given, expected in zip(json.loads(content)["probabilities"], what.probabilities, strict=True)
    )
    seen.add(str(status), seconds, right)


async def steadily(port: int, rate: float, seconds: float, bodies: Sequence[Asked], seen: Seen, pool: Pool) -> None:
    """An open loop: request i is due at i / rate."""
    started = time.perf_counter()
    under_way: set[asyncio.Task[None]] = set()
    for i in range(int(rate * seconds)):
        due = started + i / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        if len(under_way) >= CONNECTIONS:
            seen.add("not sent", 0.0)
            continue
        task = asyncio.create_task(ask(pool.post, bodies[i % len(bodies)], seen, due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.wait(under_way)


async def as_fast_as_answered(port: int, count: int, connections: int, bodies: Sequence[Asked], seen: Seen) -> float:
    """Requests per second of a closed loop."""
    left = iter(range(count))

    async def client() -> None:
        connection = Connection(port)
        for i in left:
            await ask(connection.post, bodies[i % len(bodies)], seen, time.perf_counter())
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return count / (time.perf_counter() - started)


def megabytes(service: Running) -> float:
    """Resident memory of the service and all it started."""
    process = psutil.Process(service.process.pid)
    return sum(of.memory_info().rss for of in [process, *process.children(recursive=True)]) / 1e6


def live_heap(service: Running) -> float:
    """Megabytes of the JVM's heap that are still in use after a full collection."""
    time.sleep(65)  # requests are forgotten after a second, the ids of answers at the end of an epoch
    java = next(
        child for child in psutil.Process(service.process.pid).children(recursive=True) if child.name() == "java"
    )
    tool = str(Path(os.environ.get("JAVA_HOME", "/usr"), "bin", "jcmd"))
    told = subprocess.run([tool, str(java.pid), "GC.class_histogram"], capture_output=True, text=True, check=True)
    return int(told.stdout.split()[-1]) / 1e6


def soak(service: Running, toys: Toys, minutes: int, rate: float, span: float = 60.0) -> None:
    bodies, pool = asked(toys, 1), Pool(service.port)

    async def all_minutes() -> None:
        print("| minute | MB | requests | errors | wrong | p50 ms | p99 ms | max ms |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for minute in range(1, minutes + 1):
            seen = Seen()
            await steadily(service.port, rate, span, bodies, seen, pool)
            figures = f"{seen.at('200', 0.5):.1f} | {seen.at('200', 0.99):.1f} | {seen.at('200', 1):.1f}"
            total = sum(seen.statuses.values())
            print(
                f"| {minute} | {megabytes(service):.0f} | {total} | {seen.errors} | {seen.wrong} | {figures} |",
                flush=True,
            )

    asyncio.run(all_minutes())


def overload(service: Running, toys: Toys, seconds: float) -> None:
    bodies = asked(toys, BATCH, range(20))

    async def measured() -> None:
        capacity = await as_fast_as_answered(service.port, 1000, 4, bodies, Seen())
        before, seen, pool = megabytes(service), Seen(), Pool(service.port)
        await steadily(service.port, capacity * MULTIPLE, seconds, bodies, seen, pool)
        ended = time.perf_counter()
        while (await Connection(service.port).post(bodies[0].body))[0] != 200:
            await asyncio.sleep(0.01)
        recovered = time.perf_counter() - ended
        total = sum(seen.statuses.values())
        print(f"\n| {MULTIPLE} x {capacity:.0f} requests/s of {BATCH} rows for {seconds:.0f} s | measured | bar |")
        print("| --- | --- | --- |")
        print(f"| answered | {seen.statuses['200'] / total:.0%} | |")
        print(f"| answered: p50, p99 | {seen.at('200', 0.5):.0f} ms, {seen.at('200', 0.99):.0f} ms | p99 100 ms |")
        print(f"| refused with 503 | {seen.statuses['503'] / total:.0%} | |")
        print(f"| refused: p50, p99 | {seen.at('503', 0.5):.0f} ms, {seen.at('503', 0.99):.0f} ms | 50 ms |")
        others = {status: times for status, times in seen.statuses.items() if status not in ("200", "503")}
        print(f"| anything else | {others or 'none'} | none but what the client could not send |")
        print(f"| wrong answers | {seen.wrong} | 0 |")
        print(f"| answered again after | {recovered:.2f} s | 2 s |")
        print(f"| memory before, after | {before:.0f} MB, {megabytes(service):.0f} MB | flat |", flush=True)

    asyncio.run(measured())


def count_out(service: Running, toys: Toys, requests: int, log: Path) -> None:
    bodies, seen = asked(toys, 1), Seen()
    asyncio.run(as_fast_as_answered(service.port, 5000, 16, bodies, Seen()))  # the compilers have settled
    heap, memory = live_heap(service), megabytes(service)
    rate = asyncio.run(as_fast_as_answered(service.port, requests, 16, bodies, seen))
    print(f"| {requests:,} rows, one a request | measured | bar |\n| --- | --- | --- |")
    print(f"| requests/s | {rate:.0f} | 500 |")
    print(f"| p50, p99 | {seen.at('200', 0.5):.1f} ms, {seen.at('200', 0.99):.1f} ms | |")
    print(f"| errors, wrong answers | {seen.errors} ({dict(seen.statuses)}), {seen.wrong} | 0 |")
    told = Counter(json.loads(line).get("message") for line in log.read_text().splitlines() if line.startswith("{"))
    print(f"| rows without an answer at once | {told['a row got no answer']} | |")
    print(f"| workers replaced | {told['the worker is replaced']} | 0 |")
    print(f"| live heap before, after | {heap:.0f} MB, {live_heap(service):.0f} MB | flat |")
    print(f"| resident before, after | {memory:.0f} MB, {megabytes(service):.0f} MB | |", flush=True)


def spark_artefact(folder: Path) -> dict[str, object]:
    """Give the artefact its Spark pipeline; the settings that serve it."""
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
