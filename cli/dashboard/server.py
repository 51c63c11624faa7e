"""The page's server: seven views, each asked when it is opened, on 127.0.0.1 alone.

A view that cannot be had says what did not answer, and the others go on. The one POST, trying a ranking, changes
nothing either; it is taken from this page's own forms alone. Other names than this address are refused, so that no
site can reach the page by a name of its own that leads here (DNS rebinding).
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
from rich.text import Text
from rich.tree import Tree
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
from cli.dashboard.ranking import TOP, Ranker, before_of
from cli.dashboard.stack_source import UNANSWERED, Subject, machine_learning, reason, require_release, serving_artefact
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
# The card is one file with its style and its pictures in it, made by a training run: it may only be looked at.
_CARD_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
_FRAGMENT = "x-fragment"
_FORM_BYTES = 2_000_000

_TWO_WORDS = ("training run", "joined table", "trained at")  # in which a line of the lineage begins
_OWN_MISTAKE = "this failed by a mistake of the page's own: the terminal it was opened in says more"

log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


def application(subject: Subject) -> Starlette:
    page = _Page(subject)
    return Starlette(
        routes=[
            *(Route(path, page.view(name), name=name) for name, path, _ in VIEWS if name != "try"),
            Route("/try", page.view("try"), methods=["GET"]),
            Route("/try", page.rank, methods=["POST"]),
            Route("/users", page.users),
            Route("/card", page.card),
            Mount("/static", StaticFiles(directory=_FOLDER / "static")),
        ],
        middleware=[
            Middleware(_Guarded),
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False),
        ],
        exception_handlers={HTTPException: page.refuse, Exception: page.fail},
    )


def serve(subject: Subject, port: int | None, say: Callable[[str], None]) -> None:
    """Until Ctrl-C. Raises `UserError` where the port is taken."""
    listener = listen(port)
    say(f"stack {subject.stack}: http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)")
    uvicorn.Server(config(subject)).run([listener])


def listen(port: int | None) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port or 0))
        listener.listen()  # from here on who is told the address may call, and waits until the page is served
    except OSError as error:
        raise UserError(
            f"port {port} of {HOST} cannot be had: {error.strerror}. Leave --port out for a free one"
        ) from None
    return listener


def config(subject: Subject) -> uvicorn.Config:
    return uvicorn.Config(application(subject), log_level="warning", access_log=False, server_header=False)


class _Page:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._ranker = Ranker(subject)
        threading.Thread(target=self._ranker.warm, daemon=True).start()
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"commands": _commands, "json": json.dumps}
        self._templates.globals |= {"views": VIEWS, "stack": subject.stack}
        self._asks: dict[str, Callable[[], dict[str, Any]]] = {
            "architecture": self._architecture,
            "release": self._release,
            "serving": self._serving,
            "plan": self._plan,
            "model": self._model,
            "lineage": self._lineage,
            "try": self._try,
        }

    # --- what each view asks; any of `UNANSWERED` is told on the page

    def _architecture(self) -> dict[str, Any]:
        found = architecture.areas(self._subject.resources())
        if not found:
            raise UserError("the stack's state is empty: nothing was stood up yet, or all of it was taken down")
        drawings = {form: architecture.drawing(found, form == "narrow") for form in ("wide", "narrow")}
        return {"areas": found, "drawings": drawings}

    def _release(self) -> dict[str, Any]:
        return {"release": release.of(self._subject.outputs(), self._subject.resources())}

    def _serving(self) -> dict[str, Any]:
        outputs = self._subject.outputs()
        return {"serving": serving.of(outputs, self._subject.replicas()), "minutes": serving.MINUTES}

    def _plan(self) -> dict[str, Any]:
        outputs = self._subject.outputs()
        missing = [name for name in (plan.CAPACITY, plan.COST) if name not in outputs]
        if missing:
            raise UserError(
                f"the stack tells no {' and no '.join(missing)} yet: its first `up` is still at work, or failed"
            )
        estimate = outputs[plan.COST]
        tables = (plan.capacity(outputs[plan.CAPACITY]), plan.cost(estimate))
        capacity, cost = (
            [list(row) for row in zip(*(column.cells for column in it.columns), strict=True)] for it in tables
        )
        return {"capacity": capacity, "cost": cost, "estimate": estimate}

    def _model(self) -> dict[str, Any]:
        outputs = self._subject.outputs()
        require_release(outputs)
        run = live_deployment.run_id(machine_learning(outputs), outputs["endpoint_name"])
        return {"outputs": outputs, "run": run, "metrics": outputs["metrics"]}

    def _lineage(self) -> dict[str, Any]:
        outputs = self._subject.outputs()
        machine_learning(outputs)
        return {"tree": _nested(lineage.of_endpoint(outputs))}

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

    def _tried(self, ask: Callable[[], _Answer]) -> tuple[_Answer | None, str, str]:
        """The answer; or why there is none, and what to do where what was said does not say it."""
        try:
            return ask(), "", ""
        except UNANSWERED as error:
            return None, reason(error), "" if isinstance(error, UserError) else self._subject.remedy
        except Exception:
            log.exception("the page failed")
            return None, _OWN_MISTAKE, ""

    # --- routes

    def view(self, name: str) -> Callable[[Request], Response]:
        def show(request: Request) -> Response:
            context, down, remedy = self._tried(self._asks[name])
            return self._html(name, {**(context or {}), "down": down, "remedy": remedy})

        return show

    async def rank(self, request: Request) -> Response:
        """A fragment for the page's script, a whole page for a browser without it."""
        if request.headers.get("origin") != f"{request.url.scheme}://{request.headers['host']}":
            raise HTTPException(403, "a ranking is tried from this page's own form")
        if int(request.headers.get("content-length") or _FORM_BYTES) >= _FORM_BYTES:
            raise HTTPException(413, f"a form holds at most {_FORM_BYTES:,} bytes")
        async with request.form() as sent:
            form = {name: value for name, value in sent.items() if isinstance(value, str)}
        return await run_in_threadpool(self._ranked, form, _FRAGMENT in request.headers)

    def _ranked(self, form: dict[str, str], fragment: bool) -> Response:
        before = before_of(form.get("before", ""))
        began = time.perf_counter()
        ranking, refused, remedy = self._tried(lambda: self._ranker.rank(form, before))
        result = {
            "ranking": ranking,
            "before": before,
            "asked_before": form.get("asked", ""),
            "refused": refused,
            "remedy": remedy,
            "seconds": time.perf_counter() - began,
        }
        if fragment:
            return HTMLResponse(self._templates.get_template("ranking.html").render(result))
        context, down, remedy = self._tried(self._try)
        return self._html(
            "try", {**(context or {}), **result, "form": form, "down": down, "remedy": remedy or result["remedy"]}
        )

    def users(self, request: Request) -> Response:
        typed = request.query_params.get("q", "")[:100]
        found, _, _ = self._tried(lambda: self._ranker.catalogue.suggested(typed))
        return JSONResponse([{"key": key, "words": words} for key, words in found or []])

    def card(self, _request: Request) -> Response:
        """The model card of what serves, as training wrote it."""
        content, down, _ = self._tried(self._card)
        if content is None:
            content = f'<!doctype html><html lang="en"><title>Model card</title><p>{escape(down)}</p></html>'
        return HTMLResponse(content, headers={"content-security-policy": _CARD_POLICY})

    def _card(self) -> str:
        return serving_artefact(self._subject.outputs()).text("model_card.html")

    async def refuse(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._html("", {"down": f"{error.detail}.", "remedy": ""}, error.status_code)

    async def fail(self, _request: Request, error: Exception) -> Response:
        log.error("the page failed", exc_info=error)
        return self._html("", {"down": _OWN_MISTAKE, "remedy": ""}, 500)

    def _html(self, name: str, context: dict[str, Any], status: int = 200) -> Response:
        title = next((title for view, _, title in VIEWS if view == name), "Not here")
        template = self._templates.get_template(f"{name or 'frame'}.html")
        return HTMLResponse(template.render({"view": name, "title": title, **context}), status)


class _Guarded:
    """Every answer: nothing from elsewhere, in no one's frame, kept by nobody."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", _POLICY)
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"
                headers["cross-origin-resource-policy"] = "same-origin"
                headers["cache-control"] = "no-store"
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)


def _nested(tree: Tree) -> dict[str, Any]:
    label = tree.label.plain if isinstance(tree.label, Text) else str(tree.label)
    kind = next((kind for kind in _TWO_WORDS if label.startswith(kind)), label.partition(" ")[0])
    children = [_nested(child) for child in tree.children]
    return {"kind": kind, "rest": label.removeprefix(kind), "children": children}


def _commands(text: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
