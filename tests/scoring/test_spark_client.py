"""Tests of the client of the Spark worker, with a worker that the test controls."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from scoring.artefact import open_artefact
from scoring.engines import EngineUnavailable
from scoring.engines.spark_serving import SparkServingEngine
from scoring.settings import Settings
from testing.scoring import make_artefact

ROW_SECONDS = 0.7
Answer = Callable[[int, int], bytes | None]
"""Function from the number of a request and its token to the bytes of the answer; None means no answer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    make_artefact(folder / "toys")
    (folder / "toys" / "pipeline").mkdir()
    (folder / "jars").mkdir()
    (folder / "jars" / "synapseml-lightgbm_2.12.jar").touch()
    return folder


def http(content: object, status: bytes = b"200 OK") -> bytes:
    body = json.dumps(content).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@asynccontextmanager
async def asking(folder: Path, answer: Answer, **changes: float) -> AsyncIterator[tuple[SparkServingEngine, list[int]]]:
    """An engine whose worker answers with `answer`, and the tokens that the worker has received."""
    tokens: list[int] = []

    async def worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, OSError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                tokens.append(json.loads(await reader.readexactly(length))["token"])
                reply = answer(len(tokens), tokens[-1])
                if reply is not None:
                    writer.write(reply)

    environment = {"AZUREML_MODEL_DIR": str(folder / "toys"), "SCORING_SPARK_JARS": str(folder / "jars")}
    settings = Settings.from_environment({**environment, "SCORING_SPARK_ROW_SECONDS": str(ROW_SECONDS)})
    engine = SparkServingEngine(replace(settings, **changes), open_artefact(folder / "toys"))  # type: ignore[arg-type]
    async with await asyncio.start_server(worker, "127.0.0.1", 0) as server:
        engine._client.port = server.sockets[0].getsockname()[1]
        engine.ready = True
        yield engine, tokens


ROW = (30.0, "F", 1.0, None, None, None)


@pytest.mark.parametrize(
    "first",
    [
        None,
        b"",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        http({"token": 10**6, "probability": 0.9}),
        http({"token": 1, "probability": None}),
    ],
    ids=["silent", "empty", "refused", "null", "of another row", "without a value"],
)
def test_row_without_a_valid_answer_is_sent_once_more(folder: Path, first: bytes | None) -> None:
    async def act() -> None:
        def answer(number: int, token: int) -> bytes | None:
            return first if number == 1 else http({"token": token, "probability": 0.25})

        async with asking(folder, answer) as (engine, tokens):
            assert await engine.probabilities([ROW]) == [0.25]
            assert tokens == [1, 2]
            assert engine.ready

    asyncio.run(act())


def test_worker_that_does_not_answer_makes_the_engine_unavailable_after_two_time_outs(folder: Path) -> None:
    async def act() -> None:
        async with asking(folder, lambda _number, _token: None) as (engine, tokens):
            started = asyncio.get_running_loop().time()
            with pytest.raises(EngineUnavailable):
                await engine.probabilities([ROW])
            assert 2 * ROW_SECONDS <= asyncio.get_running_loop().time() - started < 2 * ROW_SECONDS + 2
            assert len(tokens) == 2
            assert not engine.ready

    asyncio.run(act())


def test_batch_that_waits_for_connections_has_one_time_out(folder: Path) -> None:
    async def act() -> None:
        def answer(number: int, token: int) -> bytes | None:
            return http({"token": token, "probability": 0.5}) if number <= 20 else None

        async with asking(folder, answer, answer_seconds=0.3, spark_row_seconds=60.0) as (engine, _):
            async with asyncio.timeout(5):
                with pytest.raises(EngineUnavailable, match="in time"):
                    await engine.probabilities([ROW] * 1000)

    asyncio.run(act())
