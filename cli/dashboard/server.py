"""Web server of the dashboard: seven views on 127.0.0.1, each of which queries its data when it is opened.

A view whose data is unavailable shows the reason; the other views still work. The only POST request, a ranking, changes
nothing, and is accepted only from the dashboard's own form. Requests with another host name are refused, so that no
website can reach the dashboard through a name that resolves to this address (DNS rebinding).
"""

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cli.changes import plan
from cli.dashboard import architecture, release, serving
from cli.dashboard.ranking import TOP, Ranker, previous_ranking
from cli.dashboard.stack_source import (
    EXPECTED_ERRORS,
    StackSource,
    live_artefact,
    machine_learning,
    reason,
    require_release,
)
from cli.errors import UserError
from cli.stacks import lineage
from infra.cloud import live_deployment

HOST = "127.0.0.1"
VIEWS = (
    ("architecture", "/", "Architecture"),
    ("release", "/release", "Release"),
    ("serving", "/serving", "Serving"),
    ("plan", "/plan", "Plan"),
    ("model", "/model", "Model"),
    ("lineage", "/lineage", "Lineage"),
    ("try", "/try", "Try it"),
)
_FOLDER = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# The model card is one file with embedded style and pictures, written by a training run: no scripts, no forms.
_CARD_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
_FRAGMENT = "x-fragment"
_FORM_BYTES = 2_000_000

_INTERNAL_ERROR = "internal error of the dashboard; see the terminal in which it was started"

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def application(source: StackSource) -> Starlette:
    """Return the dashboard of one stack as an ASGI application."""
    pages = _Pages(source)
    return Starlette(
        routes=[
            *(Route(path, pages.view(name), name=name) for name, path, _ in VIEWS if name != "try"),
            Route("/try", pages.view("try"), methods=["GET"]),
            Route("/try", pages.rank, methods=["POST"]),
            Route("/users", pages.users),
            Route("/card", pages.card),
            Mount("/static", StaticFiles(directory=_FOLDER / "static")),
        ],
        middleware=[
            Middleware(_SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False),
        ],
        exception_handlers={HTTPException: pages.refuse, Exception: pages.fail},
    )


def serve(source: StackSource, port: int | None, report: Callable[[str], None]) -> None:
    """Serve the dashboard until Ctrl-C. Raises `UserError` if the port is in use."""
    listener = listen(port)
    report(f"stack {source.stack}: http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)")
    uvicorn.Server(config(source)).run([listener])


def listen(port: int | None) -> socket.socket:
    """Return a listening socket on `port`, or on a free port. Raises `UserError` if the port is in use."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port or 0))
        listener.listen()  # from now on clients can connect; they wait until the server accepts
    except OSError as error:
        raise UserError(
            f"port {port} of {HOST} is not available: {error.strerror}. Omit --port to use a free one"
        ) from None
    return listener


def config(source: StackSource) -> uvicorn.Config:
    """Return the server's configuration, without access log and server header."""
    return uvicorn.Config(application(source), log_level="warning", access_log=False, server_header=False)


class _Pages:
    def __init__(self, source: StackSource) -> None:
        self._source = source
        self._ranker = Ranker(source)
        threading.Thread(target=self._ranker.warm, daemon=True).start()
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"code": _code_spans, "json": json.dumps}
        self._templates.globals |= {"views": VIEWS, "stack": source.stack}
        self._queries: dict[str, Callable[[], dict[str, Any]]] = {
            "architecture": self._architecture,
            "release": self._release,
            "serving": self._serving,
            "plan": self._plan,
            "model": self._model,
            "lineage": self._lineage,
            "try": self._try,
        }

    # --- queries of the views; the views show any of `EXPECTED_ERRORS`

    def _architecture(self) -> dict[str, Any]:
        areas = architecture.areas(self._source.resources())
        if not areas:
            raise UserError("the stack's state is empty: nothing has been deployed yet, or everything was destroyed")
        drawings = {form: architecture.drawing(areas, narrow=form == "narrow") for form in ("wide", "narrow")}
        return {"areas": areas, "drawings": drawings}

    def _release(self) -> dict[str, Any]:
        return {"release": release.of(self._source.outputs(), self._source.resources())}

    def _serving(self) -> dict[str, Any]:
        outputs = self._source.outputs()
        return {"serving": serving.of(outputs, self._source.replicas()), "minutes": serving.MINUTES}

    def _plan(self) -> dict[str, Any]:
        outputs = self._source.outputs()
        missing = [name for name in (plan.CAPACITY, plan.COST) if name not in outputs]
        if missing:
            raise UserError(
                f"the stack has no output {' and '.join(missing)} yet: its first `up` is still running, or it failed"
            )
        return {"capacity": plan.capacity(outputs[plan.CAPACITY]), "cost": plan.cost(outputs[plan.COST])}

    def _model(self) -> dict[str, Any]:
        outputs = self._source.outputs()
        require_release(outputs)
        run = live_deployment.run_id(machine_learning(outputs), outputs["endpoint_name"])
        return {"outputs": outputs, "run": run, "metrics": outputs["metrics"]}

    def _lineage(self) -> dict[str, Any]:
        outputs = self._source.outputs()
        machine_learning(outputs)
        return {"lineage": lineage.of_endpoint(outputs)}

    def _try(self) -> dict[str, Any]:
        catalogue = self._ranker.catalogue
        return {
            "fields": self._ranker.fields(),
            "catalogue": catalogue,
            "suggested": catalogue.suggested(""),
            "form": {},
            "top": TOP,
            "ranking": None,
            "before": [],
            "refused": "",
            "seconds": 0.0,
        }

    def _attempt(self, query: Callable[[], _Result]) -> tuple[_Result | None, str, str]:
        """Return (result, "", ""), or (None, reason, remedy) after an error; a `UserError` contains its remedy."""
        try:
            return query(), "", ""
        except EXPECTED_ERRORS as error:
            return None, reason(error), "" if isinstance(error, UserError) else self._source.remedy
        except Exception:
            log.exception("a query of the dashboard failed")
            return None, _INTERNAL_ERROR, ""

    # --- routes

    def view(self, name: str) -> Callable[[Request], Response]:
        def show(request: Request) -> Response:
            context, down, remedy = self._attempt(self._queries[name])
            return self._html(name, {**(context or {}), "down": down, "remedy": remedy})

        return show

    async def rank(self, request: Request) -> Response:
        """Return the ranking: a fragment for the dashboard's script, a whole page for a browser without scripts."""
        if request.headers.get("origin") != f"{request.url.scheme}://{request.headers['host']}":
            raise HTTPException(403, "a ranking is accepted only from the dashboard's own form")
        if int(request.headers.get("content-length") or _FORM_BYTES) >= _FORM_BYTES:
            raise HTTPException(413, f"a form must be smaller than {_FORM_BYTES:,} bytes")
        async with request.form() as fields:
            form = {name: value for name, value in fields.items() if isinstance(value, str)}
        return await run_in_threadpool(self._ranked, form, _FRAGMENT in request.headers)

    def _ranked(self, form: dict[str, str], fragment: bool) -> Response:
        before = previous_ranking(form.get("before", ""))
        started = time.perf_counter()
        ranking, refused, remedy = self._attempt(lambda: self._ranker.rank(form, before))
        result = {
            "ranking": ranking,
            "before": before,
            "request_before": form.get("request", ""),
            "refused": refused,
            "remedy": remedy,
            "seconds": time.perf_counter() - started,
        }
        if fragment:
            return HTMLResponse(self._templates.get_template("ranking.html").render(result))
        context, down, remedy = self._attempt(self._try)
        return self._html(
            "try", {**(context or {}), **result, "form": form, "down": down, "remedy": remedy or result["remedy"]}
        )

    def users(self, request: Request) -> Response:
        typed = request.query_params.get("q", "")[:100]
        users, _, _ = self._attempt(lambda: self._ranker.catalogue.suggested(typed))
        return JSONResponse([{"key": key, "features": features} for key, features in users or []])

    def card(self, _request: Request) -> Response:
        """Return the live model's card as training wrote it."""
        content, down, _ = self._attempt(self._card)
        if content is None:
            content = f'<!doctype html><html lang="en"><title>Model card</title><p>{escape(down)}</p></html>'
        return HTMLResponse(content, headers={"content-security-policy": _CARD_POLICY})

    def _card(self) -> str:
        return live_artefact(self._source.outputs()).text("model_card.html")

    async def refuse(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._html("", {"down": f"{error.detail}.", "remedy": ""}, error.status_code)

    async def fail(self, _request: Request, error: Exception) -> Response:
        log.error("a request to the dashboard failed", exc_info=error)
        return self._html("", {"down": _INTERNAL_ERROR, "remedy": ""}, 500)

    def _html(self, name: str, context: dict[str, Any], status: int = 200) -> Response:
        title = next((title for view, _, title in VIEWS if view == name), "Not available")
        template = self._templates.get_template(f"{name or 'frame'}.html")
        return HTMLResponse(template.render({"view": name, "title": title, **context}), status)


class _SecurityHeaders:
    """Adds headers to all responses: no content from other origins, no framing by other sites, no caching."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", _POLICY)
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"
                headers["cross-origin-resource-policy"] = "same-origin"
                headers["cache-control"] = "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _code_spans(text: str) -> Markup:
    """Return the escaped text with parts between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
