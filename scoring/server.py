"""The HTTP server: routes, load shedding, health and drain, the same for every engine.

Does not score rows: the engine does. Does not authenticate: Azure ML's router does before it forwards a request.
"""

import asyncio
import contextlib
import faulthandler
import logging
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from functools import partial
from operator import itemgetter
from types import FrameType

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from scoring import golden
from scoring.artefact import Artefact, ArtefactError
from scoring.contract import Probabilities, RankedItem, Ranking
from scoring.engines import Engine, EngineUnavailable
from scoring.http.body import read_json_body
from scoring.http.negotiation import accepts_json
from scoring.http.parsing import WITHOUT_FEATURES, RequestParser
from scoring.http.problems import RETRY, Problem, RawHeaders
from scoring.http.protocol import CLOSE, Config, Protocol
from scoring.logs import event, trace_id
from scoring.metrics import Metrics
from scoring.settings import Settings
from scoring.summary import Summary

log = logging.getLogger("scoring")
_JSON = (b"content-type", b"application/json")
_ANY = b"*/*"
_OVERLOADED = Problem(503, "overloaded", headers=RETRY).raw()
_NEVER_SHED = 16
"""Requests are never refused for waiting longer than `queue_seconds` if no more than this number is queued: the host is
then stalled, and refusing one does not help the others. `max_in_flight` applies in any case."""


class Service:
    """The scoring service for one model and engine."""

    def __init__(self, settings: Settings, artefact: Artefact, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.parser = RequestParser(artefact.contract, settings.limits)
        features = [feature.name for feature in artefact.contract.features]
        self.metrics = Metrics(settings.engine, settings.model, features, lambda: self.unready_reason is None)
        self.summary = Summary(settings.model, artefact.trained_at())
        self.draining = False
        self.failure: str | None = None
        """Reason why this service can never become ready; None while it may."""
        self._artefact = artefact
        self._warm = False
        self._in_flight = 0

    @property
    def unready_reason(self) -> str | None:
        if self.draining:
            return "stopping"
        if not self._warm:
            return "starting"
        return None if self.engine.ready else "the engine is restarting"

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        starting = asyncio.create_task(self._warm_up())
        async with self.summary.written():
            yield
        starting.cancel()
        await self.engine.close()
        event(log, logging.INFO, "stopped")

    async def _warm_up(self) -> None:
        started = time.perf_counter()
        limit = self.settings.warm_up_seconds
        try:
            # An engine that blocks the event loop forever is not interrupted here: `__main__` ends the process.
            async with asyncio.timeout(limit):
                await self.engine.start()
                rows = await self._replay_golden_rows()
        except TimeoutError:
            self.failure = f"the golden rows were not scored within SCORING_WARM_UP_SECONDS={limit:g}"
        except ArtefactError as error:
            self.failure = str(error)
        except Exception as error:
            self.failure = f"the engine did not start: {error!r}"
        else:
            self._warm = True
            event(log, logging.INFO, "ready", golden_rows=rows, seconds=round(time.perf_counter() - started, 3))
        finally:
            faulthandler.cancel_dump_traceback_later()

    async def _replay_golden_rows(self) -> int:
        while True:
            # An engine that is unavailable restarts by itself, so try again. A wrong probability raises ArtefactError.
            with contextlib.suppress(EngineUnavailable):
                return await golden.replay(self._artefact, self.parser, self.engine)
            await asyncio.sleep(0.25)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `POST /score`. Plain ASGI without Starlette, because this path must be fast."""
        started = time.perf_counter()
        state = scope.get("state", {})
        received: float = state.get("received", started)
        ahead = state.get("ahead", 0) - self._in_flight
        overdue = ahead > _NEVER_SHED and started - received > self.settings.queue_seconds
        if overdue or self._in_flight >= self.settings.max_in_flight:
            status, (headers, body) = 503, _OVERLOADED
            headers = headers.copy()
        else:
            self._in_flight += 1
            try:
                status, headers, body = await self._answer(dict(scope["headers"]), receive)
            except ClientDisconnect:
                return
            finally:
                self._in_flight -= 1
        if self.draining:
            headers.append(CLOSE)
        seconds = time.perf_counter() - received
        self.metrics.observe(status, seconds)
        self.summary.observe(status, seconds)
        respond = state.get("respond") or partial(_respond, send)
        await respond(status, headers, body)

    async def _answer(self, request_headers: Mapping[bytes, bytes], receive: Receive) -> tuple[int, RawHeaders, bytes]:
        traceparent = request_headers.get(b"traceparent", b"")
        trace = trace_id(traceparent) if traceparent else None
        fields: dict[str, object] = {"trace": trace} if trace else {}
        try:
            body = await self._scored(request_headers, receive)
            status, headers = 200, [_JSON, (b"content-length", b"%d" % len(body))]
        except Problem as problem:
            if problem.status != 503:  # the metrics count these; a log line for each would add to the overload
                fields |= {"status": problem.status, "reason": problem.reason, **problem.place()}
                event(log, logging.INFO, "refused", **fields)
            self.summary.without_features += problem.reason == WITHOUT_FEATURES
            status, (headers, body) = problem.status, problem.raw()
        except ClientDisconnect:
            raise
        except Exception as error:
            # Not the exception's text, which may quote a feature value.
            frames = "".join(traceback.format_tb(error.__traceback__))
            event(log, logging.ERROR, "failed", error=type(error).__name__, traceback=frames, **fields)
            status, (headers, body) = 500, Problem(500, "internal error").raw()
        if trace:
            headers.append((b"traceparent", traceparent))
        return status, headers, body

    async def _scored(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        try:
            accept = headers.get(b"accept", _ANY)
            if accept != _ANY and not accepts_json(accept):
                raise Problem(406, "answers are application/json: include it in Accept")
            body = await read_json_body(headers, receive, self.settings.max_bytes)
            request = self.parser.parse(body)
            if not self._warm:
                raise Problem(503, "starting", headers=RETRY)
            probabilities = await self.engine.probabilities(request.rows)
        except EngineUnavailable as error:
            raise Problem(503, str(error), headers=RETRY) from None
        self.metrics.missing.sample(request.rows[0])
        self.metrics.rows += len(probabilities)
        self.summary.rows += len(probabilities)
        if request.ids is None:
            return msgspec.json.encode(Probabilities(self.settings.model, probabilities))
        # Sorting is stable: items with equal probabilities keep the order of the request.
        best = sorted(zip(request.ids, probabilities, strict=True), key=itemgetter(1), reverse=True)[: request.top]
        return msgspec.json.encode(Ranking(self.settings.model, [RankedItem(*item) for item in best]))


async def _respond(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """Send an answer as ASGI's two messages, for servers other than `Server`, whose `respond` needs one write."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def application(service: Service, contract_document: bytes) -> ASGIApp:
    """Return the ASGI application: `POST /score` goes directly to the service, other requests through Starlette."""

    async def live(_request: Request) -> Response:
        return Response(b"live\n", media_type="text/plain")

    async def ready(_request: Request) -> Response:
        reason = service.unready_reason
        body = msgspec.json.encode({"ready": reason is None, "reason": reason})
        return Response(body, 200 if reason is None else 503, media_type="application/json")

    async def metrics(_request: Request) -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.media_type)

    async def openapi_document(_request: Request) -> Response:
        return Response(contract_document, media_type="application/json")

    async def refuse(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        service.metrics.count(error.status_code)
        return Problem(error.status_code, error.detail, headers=error.headers).response()

    async def fail(_request: Request, _error: Exception) -> Response:
        return Problem(500, "internal error").response()

    routes = Starlette(
        routes=[
            Route("/score", service, methods=["POST"]),
            Route("/live", live),
            Route("/ready", ready),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi_document),
        ],
        exception_handlers={HTTPException: refuse, Exception: fail},
        lifespan=service.lifespan,
    )
    # A redirect would point to the host in the request's Host header, which the caller chooses.
    routes.router.redirect_slashes = False

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        is_score = scope["type"] == "http" and scope["path"] == "/score" and scope["method"] == "POST"
        await (service if is_score else routes)(scope, receive, send)

    return front


class Server(uvicorn.Server):
    """uvicorn's server with a drain: after a signal /ready returns 503 while requests are still answered for
    `drain_seconds`; then the requests in flight finish and the server stops. A second signal stops it at once."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        super().__init__(Config(app, service.settings, service.metrics.count))
        self._service = service
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining = True
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self._service.settings.drain_seconds
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._service.failure or (self._stop_at is not None and time.monotonic() >= self._stop_at):
            self.should_exit = True
        now = time.perf_counter()
        for connection in list(self.server_state.connections):
            assert isinstance(connection, Protocol)
            connection.close_if_overdue(now)
        return await super().on_tick(counter)
