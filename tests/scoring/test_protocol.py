"""Tests of a single connection: the bytes written for an answer, and the objects left after it."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from uvicorn.server import ServerState

from scoring.artefact import open_artefact
from scoring.engines.native import NativeEngine
from scoring.http.protocol import Config, Protocol
from scoring.server import Service, application
from scoring.settings import Settings
from testing.scoring import Toys, make_artefact
from testing.waiting import eventually_in_loop

BODY = b'{"rows": [{"age": 1}]}'
HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Written(asyncio.Transport):
    """A transport that stores each write to the peer."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if not self.closed:
            self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def pause_reading(self) -> None:
        """Do nothing: this transport never reads."""

    resume_reading = pause_reading

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return make_artefact(tmp_path_factory.mktemp("scoring") / "toys")


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[Service, Protocol, Written]]:
    settings = Settings.from_environment({"AZUREML_MODEL_DIR": str(folder)})
    artefact = open_artefact(folder)
    service = Service(settings, artefact, NativeEngine(artefact))
    app = application(service, b"{}")
    async with service.lifespan(None):
        await eventually_in_loop(lambda: service.unready_reason, lambda reason: reason is None)
        protocol = Protocol(Config(app, settings, service.metrics.count), ServerState(), {})
        transport = Written()
        protocol.connection_made(transport)
        yield service, protocol, transport


async def ask(protocol: Protocol, request: bytes = REQUEST) -> None:
    """Deliver a request to the protocol and return when it is answered."""
    protocol.data_received(request)
    while not protocol.cycle.response_complete:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("request_", "closed"), [(REQUEST, False), (REQUEST.replace(b"Host", b"Connection: close\r\nHost"), True)]
)
def test_answer_is_sent_in_one_write(toys: Toys, request_: bytes, closed: bool) -> None:
    async def act() -> None:
        async with connected(toys.folder) as (_, protocol, transport):
            await ask(protocol, request_)
            (answer,) = transport.writes
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert head.count(b"connection: close") == closed
            assert f"content-length: {len(body)}".encode() in head
            assert body.startswith(b'{"model":')
            assert transport.closed is closed

    asyncio.run(act())


def test_answer_waits_while_the_peer_does_not_read(toys: Toys) -> None:
    async def act() -> None:
        async with connected(toys.folder) as (service, protocol, transport):
            protocol.pause_writing()
            protocol.data_received(REQUEST)
            # The service counts an answer immediately before it sends it.
            await eventually_in_loop(lambda: service.summary.requests)
            await asyncio.sleep(0)
            assert transport.writes == []
            protocol.resume_writing()
            await eventually_in_loop(lambda: protocol.cycle.response_complete)
            assert len(transport.writes) == 1

    asyncio.run(act())


def test_every_answer_has_a_date(toys: Toys) -> None:
    """RFC 9110, 6.6.1. uvicorn renews the header every second."""

    async def act() -> None:
        async with connected(toys.folder) as (_, protocol, transport):
            protocol.server_state.default_headers = [(b"date", b"now")]
            await ask(protocol)
            protocol.data_received(b"GET /live HTTP/1.1\r\n\r\n")  # without Host
            assert [b"\r\ndate: now\r\n" in answer for answer in transport.writes] == [True, True]

    asyncio.run(act())


@pytest.mark.parametrize(
    ("parts", "answered"),
    [
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"nonsense\r\n"], 0),
        ([b"GET /", b"x" * 80_000], 1),
        ([b"\x00garbage\r\n\r\n"], 1),
    ],
)
def test_refusal_is_never_sent_in_place_of_the_answer_to_an_earlier_request(
    toys: Toys, parts: list[bytes], answered: int
) -> None:
    """The first request still waits for its engine when the second one on the connection is refused."""

    async def act() -> None:
        async with connected(toys.folder) as (_, protocol, transport):
            for part in (REQUEST + parts[0], *parts[1:]):
                protocol.data_received(part)
            await eventually_in_loop(lambda: transport.closed)
            assert [answer[:13] for answer in transport.writes] == [b"HTTP/1.1 200 "] * answered

    asyncio.run(act())


def test_request_leaves_no_reference_cycles(toys: Toys) -> None:
    async def act() -> None:
        async with connected(toys.folder) as (_, protocol, _):
            await ask(protocol)
            gc.collect()
            gc.disable()
            try:
                for _ in range(100):
                    await ask(protocol)
                assert gc.collect() < 100
            finally:
                gc.enable()

    asyncio.run(act())
