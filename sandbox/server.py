"""The server process of one sandbox folder: every service behind one TLS port on 127.0.0.1, until SIGTERM.

Does not detach from the terminal: `sandbox start` does that around it.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import random
import socket
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import ModuleType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import access_log, caller_network, environment, unsupported_services
from sandbox.arm import resource_types
from sandbox.arm.service import Arm
from sandbox.arm.store import ResourceStore
from sandbox.context import Behaviour, CloudError, Sandbox
from sandbox.faults import Faults
from sandbox.identity import authority, entra, metadata, role_assignments
from sandbox.instance_lock import CannotServe, Damaged, lock, remembered_port
from sandbox.registry import containers
from sandbox.resource_rules import agent_pools, azure_monitor, budgets, private_dns, private_endpoints, virtual_networks
from sandbox.state_files import Unreadable

BEHAVIOURS = (role_assignments, budgets, azure_monitor, agent_pools, private_dns, private_endpoints, virtual_networks)
SERVICES = ("blob", "registry.service", "databricks", "machine_learning")
# Below the ports that Linux and macOS hand out to clients, so that a stopped sandbox finds its port free again.
_PORTS = range(20000, 30000)


def serve(folder: Path, port: int | None) -> None:
    held = lock(folder)
    if containers.engine_of(folder) is None:
        # Containers run as another user, who has to read the model.
        os.umask(0o077)
    authority.ensure(folder)
    authority.require_usable(folder)
    listener = _listen(folder, port)
    used = listener.getsockname()[1]
    store = _store(folder)
    sandbox = Sandbox(folder, used, store, environment.prepare(folder, used, os.environ))
    certificate, key = authority.certificate_files(folder)
    access_log.configure()
    config = uvicorn.Config(
        application(sandbox),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        # The children that services start are reaped by their Popen objects: no event loop may do it first.
        loop="asyncio",
        # Idle TLS connections of clients that do not answer the goodbye count as busy, too.
        timeout_graceful_shutdown=1,
        log_config=None,
    )
    server = uvicorn.Server(config)
    server.run([listener])
    held.close()
    if not server.started:
        sys.exit(1)


def application(sandbox: Sandbox) -> Starlette:
    services = [importlib.import_module(f"sandbox.{name}") for name in SERVICES]
    behaviours: dict[str, Behaviour] = {}
    for module in (*BEHAVIOURS, *services):
        if hasattr(module, "behaviours"):
            behaviours |= module.behaviours(sandbox)
    records = ResourceStore(sandbox.folder / "operations.sqlite")
    machines = [partial(module.machines, sandbox) for module in (agent_pools, *services) if hasattr(module, "machines")]
    arm, faults = Arm(sandbox, records, resource_types.load(), behaviours, machines), Faults(sandbox)
    inside = caller_network.Proxy(sandbox)
    resumed = asyncio.Event()
    unwell: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        arm.operations.fail_unfinished()
        await inside.open()
        # Not awaited: what a service brings back may itself ask this server.
        resuming = asyncio.create_task(_resume(sandbox, services, unwell, resumed))
        yield
        resuming.cancel()
        await inside.close()
        await arm.operations.stop()
        for module in services:
            await _call(module, "shutdown", sandbox)
        records.close()
        sandbox.store.close()

    async def ready(request: Request) -> Response:
        return JSONResponse({"folder": str(sandbox.folder), "unwell": unwell}, 200 if resumed.is_set() else 503)

    return Starlette(
        routes=[
            Route("/sandbox/ready", ready),
            *faults.routes(),
            *environment.routes(sandbox),
            *metadata.routes(sandbox),
            *entra.routes(sandbox),
            *(route for module in services if hasattr(module, "routes") for route in module.routes(sandbox)),
            *arm.routes(),
            *unsupported_services.routes(sandbox),
        ],
        middleware=[Middleware(faults.wrap)],
        exception_handlers={CloudError: _error, HTTPException: _error, Exception: _error},
        lifespan=lifespan,
    )


def _store(folder: Path) -> ResourceStore:
    """The resources of this folder: those of its first start, which makes the store before it names the port."""
    path = folder / "resources.sqlite"
    started, known = (folder / "environment.json").exists(), path.exists() and path.stat().st_size > 0
    if started and not known:
        raise Damaged(Unreadable(path, "the file is empty or missing"))
    store = ResourceStore(path)
    if not started and any(store.below("")):
        raise Damaged(Unreadable(folder / "environment.json", "the file is missing"))
    return store


def _listen(folder: Path, port: int | None) -> socket.socket:
    """The port of the first start for ever: the address is part of every stored resource."""
    remembered = remembered_port(folder)
    if port and remembered and port != remembered:
        message = f"{folder} belongs to port {remembered}, which its resources' addresses contain, not to {port}."
        raise CannotServe(f"{message} Start it without --port, or name another --folder.")
    wanted = port or remembered
    for candidate in [wanted] if wanted else random.sample(_PORTS, 50):
        # Named, or asyncio would not know it for TCP and leave Nagle's algorithm on: 40 ms an answer.
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            return listener
        except OSError as error:
            listener.close()
            reason = error.strerror
    if remembered:
        message = f"port {wanted} of the sandbox in {folder} is taken: {reason}. Its resources' addresses contain it:"
        raise CannotServe(f"{message} end what listens there, or start afresh in another --folder.")
    raise CannotServe(f"port {wanted} is taken: {reason}. Name another --port, or none for any that is free.")


async def _resume(sandbox: Sandbox, services: list[ModuleType], unwell: list[str], resumed: asyncio.Event) -> None:
    errors = [(module.__name__, await _call(module, "resume", sandbox)) for module in services]
    unwell += [f"{name}: {error}" for name, error in errors if error]
    resumed.set()


async def _call(module: ModuleType, hook: str, sandbox: Sandbox) -> str:
    """The error, if there was one. It is logged, and the other services go on."""
    try:
        if hasattr(module, hook):
            await getattr(module, hook)(sandbox)
    except Exception as error:
        logging.exception("%s of %s", hook, module.__name__)
        return str(error) or type(error).__name__
    return ""


async def _error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path}: {error.detail}"
        error = CloudError(error.status_code, error.detail.replace(" ", ""), message)
    elif not isinstance(error, CloudError):
        error = CloudError(500, "InternalServerError", f"{type(error).__name__}: {error}")
    return JSONResponse({"error": {"code": error.code, "message": error.message}}, error.status, error.headers)
