"""Abusive clients on raw sockets: each is answered or disconnected, and other clients are still served."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from testing.scoring import Running, make_artefact, scoring_environment, serving
from testing.waiting import eventually

SECONDS = 1.0
"""Time limit for a head, and for a body, to arrive."""
CONNECTIONS = 20
BODY = b'{"rows": [{"age": 1}]}'
HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    toys = make_artefact(tmp_path_factory.mktemp("scoring") / "toys")
    limits = {
        "SCORING_HEAD_SECONDS": SECONDS,
        "SCORING_BODY_SECONDS": SECONDS,
        "SCORING_ANSWER_SECONDS": SECONDS,
        "SCORING_MAX_CONNECTIONS": CONNECTIONS,
    }
    with serving(scoring_environment(toys.folder, **limits)) as running:
        yield running
        assert running.process.poll() is None


@pytest.fixture(autouse=True)
def still_serves_other_clients(service: Running) -> Iterator[None]:
    yield
    # A 503 is allowed until the service has noticed that the abusive clients disconnected.
    answer = eventually(lambda: service.score(json.loads(BODY)), lambda answer: answer.status_code != 503, seconds=2)
    assert answer.status_code == 200


@contextmanager
def connected(service: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def everything(connection: socket.socket) -> bytes:
    """Every byte until the service closes the connection; fails if it does not."""
    received = b""
    while True:
        try:
            chunk = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def refused(answer: bytes, status: int) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    return (
        head.startswith(b"HTTP/1.1 %d " % status)
        and b"content-type: application/problem+json" in head
        and b"connection: close" in head
        and json.loads(body)["status"] == status
    )


@pytest.mark.parametrize(
    ("begun", "trickle"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"POST /sc", b"o"),
        (HEAD, b"X: y\r\n"),
        (HEAD + b"X: ", b"y"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
)
def test_slow_request_gets_408_at_its_deadline(service: Running, begun: bytes, trickle: bytes) -> None:
    with connected(service) as connection:
        started = time.monotonic()
        connection.sendall(begun)
        connection.settimeout(0.05)
        answer = b""
        while time.monotonic() < started + 5:
            try:
                connection.sendall(trickle)
                chunk = connection.recv(65536)
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                break
            if not chunk:
                break
            answer += chunk
        assert SECONDS <= time.monotonic() - started < 4
        assert refused(answer, 408)


@pytest.mark.parametrize("requests", [1, 50, 1000])
def test_client_that_does_not_read_is_disconnected(service: Running, requests: int) -> None:
    """It is disconnected even if it never stops sending, and takes the memory of a few answers at most."""
    process = psutil.Process(service.process.pid)
    descriptors, memory = process.num_fds(), process.memory_info().rss
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * requests
    with connected(service) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.05)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                connection.sendall(asked)
            except TimeoutError:
                if process.num_fds() == descriptors:
                    break
            except OSError:
                break
    assert time.monotonic() < deadline
    assert process.memory_info().rss < memory + 20e6


@pytest.mark.parametrize("sent", [HEAD, HEAD + b"Content-Length: 1000\r\n\r\n{", REQUEST[:-1], b"\x16\x03\x01"])
def test_aborted_requests_leave_no_open_files(service: Running, sent: bytes) -> None:
    process = psutil.Process(service.process.pid)
    before = process.num_fds()
    for _ in range(10):
        with connected(service) as connection:
            connection.sendall(sent)
    eventually(process.num_fds, lambda open_files: open_files <= before, 5)


def test_pipelined_requests_are_answered_in_order(service: Running) -> None:
    bodies = [b'{"rows": [{"age": %d}]}' % age for age in range(7, 57)]
    alone = [service.probabilities([{"age": age}]) for age in range(7, 57)]
    requests = [HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies]
    with connected(service) as connection:
        connection.sendall(b"".join(requests) + b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = everything(connection).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert answers.pop().endswith(b"live\n")
    assert [json.loads(answer.partition(b"\r\n\r\n")[2])["probabilities"] for answer in answers] == alone


def test_valid_request_before_a_malformed_one_is_answered(service: Running) -> None:
    with connected(service) as connection:
        connection.sendall(REQUEST + b"\x00garbage\r\n\r\n")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"NONSENSE / HTTP/1.1\r\n\r\n", 400),
        (b"GET  HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1e3\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{    }", 400),
        # Two lengths in one request allow request smuggling past a router.
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (HEAD + b"X : y\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET /live HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /live\r\n\r\n", 505),
        (b"GET /live HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /live HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /live HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /live HTTP/1.1\r\nX: " + b"y" * 2_000_000, 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /" + b"x" * 2_000_000, 431),
    ],
)
def test_malformed_or_oversized_heads_are_refused(service: Running, sent: bytes, status: int) -> None:
    with connected(service) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = everything(connection)
    assert refused(answer, status)


@pytest.mark.parametrize(
    "sent", [b"GET /" + b"x" * 80_000 + b" HTTP/1.1", b"GET /live HTTP/1.1\r\nX: " + b"y" * 80_000]
)
def test_head_that_arrives_in_parts_is_measured_as_a_whole(service: Running, sent: bytes) -> None:
    """Each part is within the limit. The answer to the first request shows that the first part has been read."""
    with connected(service) as connection:
        connection.sendall(REQUEST + sent[:40_000])
        answers = connection.recv(65536)
        connection.sendall(sent[40_000:] + b"\r\n\r\n")
        answers += everything(connection)
    assert refused(answers[answers.index(b"HTTP/1.1", 1) :], 431)


def test_client_that_offers_an_upgrade_is_answered_in_http_1(service: Running) -> None:
    """Java's HTTP client offers HTTP/2 with its first request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with connected(service) as connection:
        connection.sendall(REQUEST.replace(b"Host: x\r\n", b"Host: x\r\n" + offer))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_new_connection_replaces_the_one_that_has_been_idle_longest(service: Running) -> None:
    with ExitStack() as crowd:
        held = [crowd.enter_context(connected(service)) for _ in range(CONNECTIONS + 5)]
        for connection in held:
            connection.sendall(REQUEST)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert [everything(connection) for connection in held[:4]] == [b""] * 4
        held[-1].sendall(REQUEST)
        assert held[-1].recv(65536).startswith(b"HTTP/1.1 200 ")


def test_new_connections_get_503_and_probes_are_answered_while_all_are_busy(service: Running) -> None:
    probes = [b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /ready?x HTTP/1.1\r\nHost: x\r\n\r\n"]
    with ExitStack() as crowd:
        busy = [crowd.enter_context(connected(service)) for _ in range(3 * CONNECTIONS)]
        for connection in busy:
            with suppress(OSError):  # disconnected in favour of a later connection
                connection.sendall(REQUEST[:-1])
        late = crowd.enter_context(connected(service))
        for probe in probes:
            late.sendall(probe)
            answer = late.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            if answer.endswith(b"\r\n\r\n"):
                late.recv(65536)  # the body arrives separately
        late.sendall(REQUEST)
        answer = everything(late)
        assert refused(answer, 503)
        assert b"retry-after: 1\r\n" in answer
        busy[5].sendall(REQUEST[-1:])
        assert busy[5].recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "piece",
    [
        b"0\r\n" + b"".join(b"a%d: %s\r\n" % (i, b"v" * 50) for i in range(1000)),
        b"0\r\nX: " + b"y" * 60_000,
        b"1;" + b"e" * 60_000,
    ],
)
def test_trailers_and_chunk_extensions_are_dropped_and_limited(service: Running, piece: bytes) -> None:
    """Trailers and chunk extensions that never end."""
    process = psutil.Process(service.process.pid)
    service.score(json.loads(BODY))
    memory = process.memory_info().rss
    first, _, again = piece.partition(b"\r\n") if piece.startswith(b"0") else (b"", b"", piece)
    with connected(service) as connection:
        sent = 0
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (first + b"\r\n" if first else b""))
        with suppress(OSError):
            while sent < 40e6:
                connection.sendall(again)
                sent += len(again)
        assert process.memory_info().rss < 1.05 * memory
        assert sent > 1e6  # the service reads and drops data, so that the client can read the refusal
        connection.shutdown(socket.SHUT_WR)
        assert refused(everything(connection), 431)


@pytest.mark.parametrize(("count", "size", "status"), [(10_000, 1, 200), (100_000, 1, 431), (100_000, 6, 200)])
def test_body_in_many_small_chunks_is_refused(service: Running, count: int, size: int, status: int) -> None:
    """The framing of a chunk of one byte takes five bytes; it may exceed the content by 64 KiB."""
    blanks = b"%x\r\n%b\r\n" % (size, b" " * size) * count
    content = b"%x\r\n%b\r\n" % (len(BODY), BODY)
    with connected(service) as connection:
        head = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + blanks + content + b"0\r\n\r\n")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 200 ") if status == 200 else refused(answer, status)


def test_memory_stays_flat_under_abuse(service: Running) -> None:
    process = psutil.Process(service.process.pid)
    sizes = []
    for _ in range(3):
        for _ in range(150):
            with connected(service) as connection:
                connection.sendall(HEAD + b"X: " + b"y" * 60_000)
        sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[0] < 10e6
