"""Faults that tests inject, to prove that clients recover.

`POST /sandbox/faults` with a list of rules adds them, GET returns the remaining ones, DELETE removes all. A rule acts
on the next `times` requests that it matches, of any service; the first matching rule wins. It does one or more of: wait
`delay` seconds, `reset` the connection, answer `status`, do the work but lose the answer (`lost`), delay the operation
that the request starts by `operation_delay` seconds or end it with `operation_failure`. The operation of a Databricks
run is each start of its cluster.
`PUT /sandbox/settings` sets values for all requests: `context.SandboxSettings`.
"""

import asyncio
import contextlib
import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.context import CloudError, Sandbox, SandboxSettings

T = TypeVar("T")
_KEY = "sandbox.fault"


class Failure(msgspec.Struct):
    code: str
    message: str


class Fault(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    path: str
    """Regular expression, searched in the URL's path without regard to case."""
    method: str = ""
    times: int = 1
    delay: float = 0.0
    reset: bool = False
    """Reset the connection, without an answer, before any work."""
    lost: bool = False
    """Reset the connection after the work, so that the client cannot know its result."""
    status: int = 0
    headers: dict[str, str] = {}
    body: Any = None
    operation_delay: float = 0.0
    operation_failure: Failure | None = None

    def matches(self, scope: Scope) -> bool:
        method_fits = self.method.upper() in ("", scope["method"])
        return method_fits and re.search(self.path, scope["path"], re.IGNORECASE) is not None


def hinders_operation(request: Request) -> bool:
    fault: Fault | None = request.scope.get(_KEY)
    return fault is not None and bool(fault.operation_delay or fault.operation_failure)


async def hinder_operation(request: Request) -> None:
    fault: Fault | None = request.scope.get(_KEY)
    if fault is not None:
        await asyncio.sleep(fault.operation_delay)
        if fault.operation_failure:
            raise CloudError(500, fault.operation_failure.code, fault.operation_failure.message)


class Faults:
    def __init__(self, sandbox: Sandbox) -> None:
        self._settings = sandbox.settings
        self._rules: list[Fault] = []

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/sandbox/faults", self._serve, methods=["GET", "POST", "DELETE"]),
            Route("/sandbox/settings", self._set, methods=["GET", "PUT"]),
        ]

    def wrap(self, app: ASGIApp) -> ASGIApp:
        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            fault = self._take(scope)
            if fault is None:
                return await app(scope, receive, send)
            await asyncio.sleep(fault.delay)
            if fault.reset:
                return await abort(receive)
            if fault.lost:
                with contextlib.suppress(Exception):
                    await app({**scope, _KEY: fault}, receive, _discard)
                return await abort(receive)
            if fault.status:
                body = fault.body or {"error": {"code": f"Fault{fault.status}", "message": "A fault set by a test."}}
                return await JSONResponse(body, fault.status, fault.headers)(scope, receive, send)
            await app({**scope, _KEY: fault}, receive, send)

        return faulty

    def _take(self, scope: Scope) -> Fault | None:
        if scope["type"] != "http" or scope["path"].startswith("/sandbox/"):
            return None
        fault = next((rule for rule in self._rules if rule.matches(scope)), None)
        if fault is not None:
            fault.times -= 1
            self._rules = [rule for rule in self._rules if rule.times > 0]
        return fault

    async def _serve(self, request: Request) -> Response:
        if request.method == "POST":
            self._rules += await _decoded(request, list[Fault])
        elif request.method == "DELETE":
            self._rules = []
        return Response(msgspec.json.encode(self._rules), media_type="application/json")

    async def _set(self, request: Request) -> Response:
        if request.method == "PUT":
            for name, value in msgspec.structs.asdict(await _decoded(request, SandboxSettings)).items():
                setattr(self._settings, name, value)
        return Response(msgspec.json.encode(self._settings), media_type="application/json")


async def _decoded(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except msgspec.MsgspecError as error:
        raise CloudError(400, "InvalidFault", f"Not a fault or setting of the sandbox: {error}.") from error


async def _discard(message: Message) -> None:
    pass


async def abort(receive: Receive) -> None:
    """Reset the connection. ASGI has no message for that, so this uses the connection behind uvicorn's `receive`."""
    receive.__self__.transport.abort()  # type: ignore[attr-defined]  # without a close message of TLS
    while (await receive())["type"] != "http.disconnect":
        pass  # after the disconnect, uvicorn accepts a request without an answer
