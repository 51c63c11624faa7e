"""The Spark engine: SynapseML's Spark Serving runs the artefact's Spark pipeline, one row per request.

Spark Serving alone answers malformed input, can lose a request, and stops after a single bad one. So only validated
rows are sent to it, over loopback. Every row has a time-out and one retry, and carries a token that its answer must
repeat. The worker process (`spark_worker`) is replaced whenever it ends or stops answering.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

import scoring
from scoring.artefact import Artefact, ArtefactError
from scoring.contract import Row
from scoring.engines import EngineUnavailable
from scoring.logs import event
from scoring.settings import Settings, SettingsError

log = logging.getLogger("scoring.spark")

_START_SECONDS = 600.0
"""Time limit of a worker's start: Spark takes minutes to load a pipeline of 26 tables on a busy core."""
_SILENT_SECONDS = 30.0
"""Time without an answer after which a worker that has answered before is replaced."""
_TICK_SECONDS = 0.25
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Answer(msgspec.Struct):
    token: int
    probability: float


class NoAnswer(Exception):
    """The worker did not answer a row, or answered another one."""


class RowClient:
    """Keep-alive HTTP client of the worker. Not a general client: it relies on the format of the JDK's server."""

    def __init__(self, names: Sequence[str], connections: int, seconds: float) -> None:
        self.port = 0
        self._names = names
        self._seconds = seconds
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[tuple[int, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._tokens = itertools.count(1)

    async def probability(self, row: Row) -> float:
        token = next(self._tokens)
        body = msgspec.json.encode({"token": token, "row": dict(zip(self._names, row, strict=True))})
        try:
            async with self._slots, asyncio.timeout(self._seconds), self._connection() as (reader, writer):
                writer.write(
                    b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                if not head.startswith(b"HTTP/1.1 200 ") or length is None:
                    raise NoAnswer("refused by the worker")
                answer = msgspec.json.decode(await reader.readexactly(int(length[1])), type=Answer)
        except (OSError, EOFError, asyncio.LimitOverrunError, msgspec.MsgspecError) as error:
            raise NoAnswer(type(error).__name__) from None
        if answer.token != token:
            raise NoAnswer("the answer belongs to another row")
        return answer.probability

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        while self._idle:
            port, reader, writer = self._idle.pop()
            if port == self.port and not reader.at_eof():
                break
            writer.close()
        else:
            port = self.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        except BaseException:
            # The connection may hold half of an exchange, so it cannot be used again.
            writer.close()
            raise
        self._idle.append((port, reader, writer))


class SparkServingEngine:
    def __init__(self, settings: Settings, artefact: Artefact) -> None:
        self.ready = False
        self._settings = settings
        self._folder = artefact.folder.resolve()
        self._jars = settings.spark_jars.resolve()
        if not (self._folder / "pipeline").is_dir():
            raise ArtefactError("pipeline/ is missing: SCORING_ENGINE=spark needs it, SCORING_ENGINE=native does not")
        if not list(self._jars.glob("*synapseml-lightgbm*.jar")):
            raise SettingsError(
                f"SCORING_SPARK_JARS={self._jars} holds no synapseml-lightgbm jar: run install.sh … spark"
            )
        java_home = os.environ.get("JAVA_HOME")
        if shutil.which("java", path=f"{java_home}/bin" if java_home else None) is None:
            raise SettingsError("SCORING_ENGINE=spark needs Java 17: put java on PATH or set JAVA_HOME to a JRE")
        names = [feature.name for feature in artefact.contract.features]
        self._client = RowClient(names, settings.spark_connections, settings.spark_row_seconds)
        self._nothing: Row = (None,) * len(names)
        self._supervisor: asyncio.Task[None] | None = None
        self._up = asyncio.Event()

    async def start(self) -> None:
        self._supervisor = asyncio.create_task(self._supervise())
        up = asyncio.create_task(self._up.wait())
        await asyncio.wait((self._supervisor, up), return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            self._supervisor.result()

    async def probabilities(self, rows: Sequence[Row]) -> list[float]:
        if not self.ready:
            raise EngineUnavailable("the engine is restarting")
        try:
            # Each row has its own time-out, but waits for a connection before it starts.
            async with asyncio.timeout(self._settings.answer_seconds):
                if len(rows) == 1:
                    return [await self._probability(rows[0])]
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._probability(row)) for row in rows]
        except* (EngineUnavailable, TimeoutError):
            raise EngineUnavailable("the engine did not answer every row in time") from None
        return [task.result() for task in tasks]

    async def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait((self._supervisor,))

    async def _probability(self, row: Row) -> float:
        for _attempt in range(2):
            try:
                return await self._client.probability(row)
            except NoAnswer as error:
                event(log, logging.WARNING, "a row got no answer", reason=str(error))
        self.ready = False
        raise EngineUnavailable("the engine did not answer")

    async def _supervise(self) -> None:
        """Keep one worker running. Raises `ArtefactError` if the first one never answers: a retry would not help."""
        while True:
            started = time.monotonic()
            async with self._worker() as process:
                await self._watch(process)
                event(log, logging.ERROR, "the worker is replaced", exit_code=process.returncode)
            if not self._up.is_set():
                raise ArtefactError(
                    f"Spark Serving did not start within {time.monotonic() - started:.0f} s; see the log"
                )

    async def _watch(self, process: Process) -> None:
        """Return when the worker has ended or has not answered for too long."""
        give_up = time.monotonic() + _START_SECONDS
        while process.returncode is None and time.monotonic() < give_up:
            if not self.ready:
                with contextlib.suppress(NoAnswer):
                    await self._client.probability(self._nothing)
                    self.ready = True
                    self._up.set()
            if self.ready:
                give_up = time.monotonic() + _SILENT_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _TICK_SECONDS)

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[Process]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._client.port = probe.getsockname()[1]
        scratch = tempfile.mkdtemp(prefix="scoring-spark-")
        command = (
            "scoring.engines.spark_worker",
            self._folder,
            self._jars,
            self._client.port,
            self._settings.spark_memory,
        )
        package = str(Path(scoring.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *map(str, command),
            cwd=scratch,
            stdin=PIPE,
            env={**os.environ, "PYTHONPATH": path},
            # A separate process group: a signal to the service must not reach Spark before the service has drained.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            self.ready = False
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            shutil.rmtree(scratch, ignore_errors=True)
