"""uvicorn's HTTP/1.1 protocol, with limits that uvicorn does not have: connections, size of a message, and time.

Every step that depends on the peer has a deadline: the arrival of the head and of the body, the receipt of the answer,
the next request. The server checks the deadlines ten times a second, so a request sets no timer. A refusal here has a
problem document as its body, like any other. If the peer is still sending when it is refused, its data is read and
dropped until it has received the answer (RFC 9112, 9.6).

A new connection above the limit replaces the connection that has been idle longest. If none is idle, its requests are
refused, except those to /live and /ready: a full replica is busy, not dead.

This module subclasses private classes of uvicorn, so pyproject.toml pins uvicorn to one version, as the lock files of
the image do. Raise the version only with `tests/scoring/test_protocol.py` and `tests/scoring/test_abuse.py` green.
"""

import asyncio
import logging
import time
from asyncio import Transport
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from scoring.http.body import DISCARD_FACTOR
from scoring.http.problems import RETRY, Problem, RawHeaders
from scoring.settings import Settings

_MAX_HEADERS = 100
_MAX_HEAD_BYTES = 64 * 1024
_MAX_PIPELINED = 100
_PROBES = (b"/live", b"/ready")
CLOSE = (b"connection", b"close")
_OFFER = (b"connection", b"upgrade", b"http2-settings")
_NEXT_SECONDS = 75.0
"""Time limit for the next request on a connection. Longer than the idle time-out of common load balancers, so that they
close first."""


class Config(uvicorn.Config):
    def __init__(self, app: ASGIApp, settings: Settings, observe: Callable[[int], None]) -> None:
        """`observe` is called with the status of every refusal that does not reach `app`."""
        super().__init__(
            app,
            loop="uvloop",
            http=Protocol,
            ws="none",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_config=None,
            # uvicorn logs one warning per malformed request; the metrics count them.
            log_level=logging.ERROR,
            timeout_keep_alive=int(_NEXT_SECONDS),
            timeout_graceful_shutdown=settings.stop_seconds,
        )
        self.settings = settings
        self.observe = observe
        # Dictionaries as ordered sets: the first connection is the oldest.
        self.idle: dict[Protocol, None] = {}
        """Connections that wait for their next request."""
        self.surplus: dict[Protocol, None] = {}
        """Connections that exceeded the limit when they were opened."""


class Protocol(HttpToolsProtocol):
    """One connection. `_waiting_for` is the step it is in, and `_deadline` the end of that step."""

    config: Config

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._waiting_for: Literal["head", "body", "answer", "next", "close"] = "head"
        self._deadline = time.perf_counter() + config.settings.head_seconds
        self._refusal: Problem | None = None
        self._chunk = self._began = self._head_bytes = self._hosts = 0
        self._body_bytes = self._content_bytes = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limit = self.config.settings.max_connections
        if len(self.connections) <= limit:
            return
        self.config.surplus[self] = None
        if self.config.idle:
            next(iter(self.config.idle))._make_room()
        elif len(self.connections) > 2 * limit:
            next(iter(self.config.surplus)).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.config.idle.pop(self, None)
        self.config.surplus.pop(self, None)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._waiting_for == "close":
            self.transport.abort()
        else:
            super().shutdown()

    def _admitted(self) -> bool:
        """Whether this connection, which exceeded the limit when it was opened, now fits or can replace an idle one."""
        if len(self.connections) > self.config.settings.max_connections:
            if not self.config.idle:
                return False
            next(iter(self.config.idle))._make_room()
        del self.config.surplus[self]
        return True

    def _make_room(self) -> None:
        del self.config.idle[self]
        # A graceful close would wait until the peer has read its last answer.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._waiting_for == "close":
            return
        self._chunk = len(data)
        scope = self.scope
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        else:
            if self._waiting_for == "body" and self.scope is scope:
                self._measure_body(len(data))
            if self._waiting_for != "head":
                return
            if self.scope is not scope:
                self._began = self._chunk  # a part of the chunk may belong to the previous request
                return
            self._head_bytes += self._chunk
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(_head_too_large())

    def _measure_body(self, size: int) -> None:
        """Refuse a chunked message, which announces no length, if it or the framing of its chunks is too large.

        A chunk costs a call here however small it is, so a message in many small chunks is refused like one with long
        chunk extensions (RFC 9112, 7.1.1) or trailers.
        """
        self._body_bytes += size
        limit = DISCARD_FACTOR * self.config.settings.max_bytes
        if self._body_bytes - self._content_bytes > self._content_bytes + _MAX_HEAD_BYTES:
            message = f"chunk sizes, chunk extensions and trailers exceed the content by over {_MAX_HEAD_BYTES} bytes"
            self._refuse(Problem(431, f"{message}: send fewer, larger chunks"))
        elif self._body_bytes > limit:
            self._refuse(Problem(413, f"the message is over {limit} bytes"))

    def on_body(self, body: bytes) -> None:
        self._content_bytes += len(body)
        super().on_body(body)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header. A trailer is dropped, which RFC 9110, 6.5.1 allows."""
        if self._waiting_for != "head":
            return
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            # RFC 9112, 6.1
            self._refusal = Problem(501, "Transfer-Encoding is not understood: send chunked")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def _decline(self, rest: bytes) -> None:
        """Continue in HTTP/1.1 with a request that offers another protocol.

        The parser stopped at the end of the head, because the rest could belong to the other protocol. A new parser
        reads the head again without the offer, followed by the rest.
        """
        headers = [header for header in self.headers if header[0] not in _OFFER]
        if not self.parser.should_keep_alive():
            headers.append(CLOSE)
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url), *(b"%s: %s" % header for header in headers)]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.config.idle.pop(self, None)
        self._waiting_for = "head"
        self._began = self._head_bytes = self._hosts = 0
        self._body_bytes = self._content_bytes = 0
        self._deadline = time.perf_counter() + self.config.settings.head_seconds

    def on_headers_complete(self) -> None:
        self._check_head()
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return
        now = time.perf_counter()
        state = self.scope["state"]
        state["received"] = now
        state["ahead"] = len(self.tasks)
        self._waiting_for = "body"
        self._deadline = now + self.config.settings.body_seconds
        super().on_headers_complete()
        state["respond"] = partial(self._respond, self.cycle)

    async def _respond(self, cycle: RequestResponseCycle, status: int, headers: RawHeaders, body: bytes) -> None:
        """Send the whole answer in one write, instead of ASGI's two messages. `headers` must hold the body's length.

        The benchmark's model with a million levels, one row per request; blocks of 250 requests took both ways in turn
        in one process; median of three runs. One connection: 269 µs of CPU per request instead of 304, p50 0.34 ms
        instead of 0.42. Eight connections: 206 µs instead of 221, p50 4.5 ms instead of 5.2. p99 does not differ.
        """
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        del cycle.scope["state"]["respond"]  # it refers to the cycle: a reference cycle that would need the collector
        if CLOSE in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers = [*headers, CLOSE]
        self.transport.write(self._response(status, headers, body))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._close()
        cycle.on_response()

    def _check_head(self) -> None:
        """Raise a `Problem` if the complete head is to be refused."""
        version = self.parser.get_http_version()
        if len(self.headers) > _MAX_HEADERS or (
            self._began + self._head_bytes + self._chunk > _MAX_HEAD_BYTES
            and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _MAX_HEAD_BYTES
        ):
            self._refusal = _head_too_large()
        elif version not in ("1.1", "1.0"):
            self._refusal = Problem(505, "not HTTP/1.1")
        elif self._hosts != 1 and (version == "1.1" or self._hosts):
            # RFC 9112, 3.2. Otherwise a router and this service could read different hosts from one request.
            self._refusal = Problem(400, f"{self._hosts} Host headers: send one")
        elif len(self.pipeline) >= _MAX_PIPELINED:
            self._refusal = Problem(503, "too many requests ahead of their answers", headers=RETRY)
        elif self in self.config.surplus and self.url.partition(b"?")[0] not in _PROBES and not self._admitted():
            # Sent at the first request and not when the connection opens: a client does not read before it has sent.
            self._refusal = Problem(503, "too many connections", headers=RETRY)
        if self._refusal is not None:
            raise self._refusal

    def on_message_complete(self) -> None:
        if self._waiting_for == "head":
            return  # the head offers another protocol; `_decline` follows
        super().on_message_complete()
        self._wait_for("next" if self.cycle.response_complete else "answer")

    def on_response_complete(self) -> None:
        """Same behaviour as uvicorn's method, but without a timer for the next request."""
        if self._waiting_for == "answer" and not self.pipeline and not self.transport.is_closing():
            self._wait_for("next")
        self.server_state.total_requests += 1
        if self._waiting_for == "close":
            self.pipeline.clear()
        elif not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())

    def _wait_for(self, step: Literal["answer", "next"]) -> None:
        self._waiting_for = step
        if step == "next":
            self.config.idle[self] = None
        # `answer_seconds` for the engine, and as long again for the client to receive the answer.
        seconds = 2 * self.config.settings.answer_seconds if step == "answer" else _NEXT_SECONDS
        self._deadline = time.perf_counter() + seconds

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or Problem(400, "not HTTP/1.1"))

    def close_if_overdue(self, now: float) -> None:
        if now < self._deadline:
            return
        if self.transport.is_closing() or self._waiting_for in ("answer", "close") or self.pipeline:
            self.transport.abort()
        elif self._waiting_for == "next":
            self.transport.close()
        else:
            seconds = getattr(self.config.settings, f"{self._waiting_for}_seconds")
            self._refuse(Problem(408, f"the request's {self._waiting_for} did not arrive within {seconds:g} s"))

    def _refuse(self, problem: Problem) -> None:
        """Answer with `problem` and close. The peer may still be sending, or have its answer already."""
        if self.transport.is_closing() or self._waiting_for == "close":
            return
        cycle = self.cycle
        if self.pipeline:
            self.transport.abort()  # a refusal would be taken for the answer to an earlier request
            return
        if self._waiting_for != "body" and cycle is not None and not cycle.response_complete:
            # The earlier request is valid: it gets its answer, and the connection ends after it.
            cycle.keep_alive = False
            self.flow.pause_reading()
            self._wait_for("answer")
            return
        answered = False
        if cycle is not None and self._waiting_for == "body":
            answered = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        if not answered:
            headers, body = problem.raw()
            self.transport.write(self._response(problem.status, [*headers, CLOSE], body))
            self.config.observe(problem.status)
        self._close()

    def _close(self) -> None:
        """Close once the peer has the answer. A reset could discard the answer of a peer that is still sending."""
        if self._waiting_for not in ("head", "body"):
            self.transport.close()
            return
        self._waiting_for = "close"
        self._deadline = time.perf_counter() + self.config.settings.body_seconds
        self.flow.resume_reading()
        self.transport.write_eof()

    def _response(self, status: int, headers: RawHeaders, body: bytes) -> bytes:
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        return b"".join([STATUS_LINE[status], *lines, b"\r\n", body])


def _head_too_large() -> Problem:
    return Problem(431, f"the head is over {_MAX_HEADERS} headers or {_MAX_HEAD_BYTES} bytes")
