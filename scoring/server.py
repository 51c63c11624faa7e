"""The HTTP front: routes, admission, health and drain, the same for every engine.

Does not know how rows are scored; does not authenticate: Azure ML's router does that before a request gets here.
"""

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import AsyncIterator
from types import FrameType

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from scoring import golden
from scoring.artefact import Artefact, ArtefactError
from scoring.body import read_json_body
from scoring.contract import Probabilities, RankedItem, Ranking
from scoring.engines import Engine, EngineUnavailable
from scoring.logs import event
from scoring.metrics import Metrics
from scoring.parsing import WITHOUT_FEATURES, RequestParser
from scoring.problems import Problem
from scoring.settings import Settings
from scoring.summary import Summary

log = logging.getLogger("scoring")
_RETRY = {"Retry-After": "1"}


class Service:
    """One model being served."""

    def __init__(self, settings: Settings, artefact: Artefact, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.parser = RequestParser(artefact.contract, settings.max_rows)
        self.metrics = Metrics(settings.engine, settings.model, lambda: self.unready_reason is None)
        self.summary = Summary(settings.model, artefact.trained_at())
        self.draining = False
        self.failure: str | None = None
        """Why this service can never become ready."""
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
        try:
            await self.engine.start()
            rows = await self._replay_golden_rows()
        except ArtefactError as error:
            self.failure = str(error)
        except Exception as error:
            self.failure = f"the engine did not start: {error!r}"
        else:
            self._warm = True
            event(log, logging.INFO, "ready", golden_rows=rows, seconds=round(time.perf_counter() - started, 3))

    async def _replay_golden_rows(self) -> int:
        while True:
            # An engine that falters here looks after itself; one that answers wrongly is refused.
            with contextlib.suppress(EngineUnavailable):
                return await golden.replay(self._artefact, self.parser, self.engine)
            await asyncio.sleep(0.25)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /score`, as plain ASGI: this is the path that must be fast."""
        started = time.perf_counter()
        try:
            response = Response(await self._answer(Headers(scope=scope), receive), media_type="application/json")
        except Problem as problem:
            if problem.status != 503:  # the metrics count these; a line each would add to the overload
                event(log, logging.INFO, "refused", status=problem.status, reason=problem.reason, **problem.place())
            self.summary.without_features += problem.reason == WITHOUT_FEATURES
            response = problem.response()
        except ClientDisconnect:
            return
        except Exception as error:
            # Not the exception's text, which may quote a feature value.
            frames = "".join(traceback.format_tb(error.__traceback__))
            event(log, logging.ERROR, "failed", error=type(error).__name__, traceback=frames)
            response = Problem(500, "internal error").response()
        seconds = time.perf_counter() - started
        self.metrics.observe(response.status_code, seconds)
        self.summary.observe(response.status_code, seconds)
        await response(scope, receive, send)

    async def _answer(self, headers: Headers, receive: Receive) -> bytes:
        if self._in_flight >= self.settings.max_in_flight:
            raise Problem(503, "overloaded", headers=_RETRY)
        self._in_flight += 1
        try:
            body = await read_json_body(headers, receive, self.settings.max_bytes, self.settings.body_seconds)
            request = self.parser.parse(body)
            if not self._warm:
                raise Problem(503, "starting", headers=_RETRY)
            probabilities = await self.engine.probabilities(request.rows)
        except EngineUnavailable as error:
            raise Problem(503, str(error), headers=_RETRY) from None
        finally:
            self._in_flight -= 1
        self.metrics.rows.inc(len(probabilities))
        self.summary.rows += len(probabilities)
        if request.ids is None:
            return msgspec.json.encode(Probabilities(self.settings.model, probabilities))
        # Sorting is stable, so ties stay in the order of the request.
        best = sorted(zip(request.ids, probabilities, strict=True), key=lambda item: -item[1])[: request.top]
        return msgspec.json.encode(Ranking(self.settings.model, [RankedItem(*item) for item in best]))


def application(service: Service, contract_document: bytes) -> Starlette:
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
        return Problem(error.status_code, error.detail, headers=error.headers).response()

    return Starlette(
        routes=[
            Route("/score", service, methods=["POST"]),
            Route("/live", live),
            Route("/ready", ready),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi_document),
        ],
        exception_handlers={HTTPException: refuse},
        lifespan=service.lifespan,
    )


class Server(uvicorn.Server):
    """Uvicorn that first stops being ready, goes on answering for a while, then drains and stops."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
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
        return await super().on_tick(counter)
