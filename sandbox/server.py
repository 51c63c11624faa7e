"""The server process of one sandbox folder: all services on one TLS port of 127.0.0.1, until SIGTERM.

Does not detach from the terminal; `sandbox start` does.
"""

import asyncio
import contextlib
import logging
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from functools import partial
from pathlib import Path

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
from sandbox.blob import BlobService
from sandbox.context import Behaviour, CloudError, Sandbox
from sandbox.databricks.service import DatabricksService
from sandbox.faults import Faults
from sandbox.identity import authority, entra, metadata, role_assignments
from sandbox.instance_lock import CannotServe, Damaged, lock, remembered_port
from sandbox.machine_learning.service import MachineLearningService
from sandbox.registry import containers
from sandbox.registry.service import RegistryService
from sandbox.resource_rules import agent_pools, azure_monitor, budgets, private_dns, private_endpoints, virtual_networks
from sandbox.service import MachineRules, ResourceRules, Service
from sandbox.state_files import Unreadable

MACHINE_RULES: tuple[MachineRules, ...] = (agent_pools,)
RULES: tuple[ResourceRules, ...] = (
    *MACHINE_RULES,
    azure_monitor,
    budgets,
    private_dns,
    private_endpoints,
    role_assignments,
    virtual_networks,
)
# Below the ports that Linux and macOS hand out to clients, so that a stopped sandbox finds its port free again.
_PORTS = range(20000, 30000)


def serve(folder: Path, port: int | None) -> None:
    lock_file = lock(folder)
    if containers.engine_of(folder) is None:
        # With an engine, containers run as another user and must be able to read the model.
        os.umask(0o077)
    authority.ensure(folder)
    authority.require_usable(folder)
    listener = _listen(folder, port)
    listening_port = listener.getsockname()[1]
    store = _store(folder)
    sandbox = Sandbox(folder, listening_port, store, environment.prepare(folder, listening_port, os.environ))
    certificate, key = authority.certificate_files(folder)
    access_log.configure()
    config = uvicorn.Config(
        application(sandbox),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        # Services reap their processes by Popen objects, and uvloop would reap them first.
        loop="asyncio",
        # Idle TLS connections of clients that do not answer the close message count as busy, too.
        timeout_graceful_shutdown=1,
        log_config=None,
    )
    server = uvicorn.Server(config)
    server.run([listener])
    lock_file.close()
    if not server.started:
        sys.exit(1)


def services(sandbox: Sandbox) -> list[Service]:
    return [
        BlobService(sandbox),
        RegistryService(sandbox),
        DatabricksService(sandbox),
        MachineLearningService(sandbox),
    ]


def application(sandbox: Sandbox) -> Starlette:
    running = services(sandbox)
    behaviours: dict[str, Behaviour] = {}
    for rules in (*RULES, *running):
        behaviours |= rules.behaviours()
    records = ResourceStore(sandbox.folder / "operations.sqlite")
    machines = [partial(rules.machines, sandbox) for rules in MACHINE_RULES] + [service.machines for service in running]
    arm, faults = Arm(sandbox, records, resource_types.load(), behaviours, machines), Faults(sandbox)
    proxy = caller_network.Proxy(sandbox)
    resumed = asyncio.Event()
    not_resumed: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        arm.operations.fail_unfinished()
        await proxy.open()
        # Not awaited: a resumed process may send requests to this server.
        resuming = asyncio.create_task(_resume(running, not_resumed, resumed))
        yield
        resuming.cancel()
        await proxy.close()
        await arm.operations.stop()
        for service in running:
            await _error_of(f"shutdown of {service.name}", service.shutdown())
        records.close()
        sandbox.store.close()

    async def ready(request: Request) -> Response:
        content = {"folder": str(sandbox.folder), "not_resumed": not_resumed}
        return JSONResponse(content, 200 if resumed.is_set() else 503)

    return Starlette(
        routes=[
            Route("/sandbox/ready", ready),
            *faults.routes(),
            *environment.routes(sandbox),
            *metadata.routes(sandbox),
            *entra.routes(sandbox),
            *(route for service in running for route in service.routes()),
            *arm.routes(),
            *unsupported_services.routes(sandbox),
        ],
        middleware=[Middleware(faults.wrap)],
        exception_handlers={CloudError: _error, HTTPException: _error, Exception: _error},
        lifespan=lifespan,
    )


def _store(folder: Path) -> ResourceStore:
    """The folder's store of resources. The first start creates it before it writes the port.

    Raises `Damaged` if only one of the two files exists.
    """
    path = folder / "resources.sqlite"
    started, has_content = (folder / "environment.json").exists(), path.exists() and path.stat().st_size > 0
    if started and not has_content:
        raise Damaged(Unreadable(path, "the file is empty or missing"))
    store = ResourceStore(path)
    if not started and any(store.below("")):
        raise Damaged(Unreadable(folder / "environment.json", "the file is missing"))
    return store


def _listen(folder: Path, port: int | None) -> socket.socket:
    """Listen on the port of the first start, because stored resources contain the address."""
    remembered = remembered_port(folder)
    if port and remembered and port != remembered:
        message = f"{folder} belongs to port {remembered}, which its resources' addresses contain, not to {port}."
        raise CannotServe(f"{message} Start it without --port, or name another --folder.")
    wanted = port or remembered
    for candidate in [wanted] if wanted else random.sample(_PORTS, 50):
        # Without the protocol asyncio does not recognise TCP and leaves Nagle's algorithm on: 40 ms per answer.
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
        raise CannotServe(f"{message} end the process that listens there, or start again in another --folder.")
    raise CannotServe(f"port {wanted} is taken: {reason}. Name another --port, or none for any that is free.")


async def _resume(running: Sequence[Service], not_resumed: list[str], resumed: asyncio.Event) -> None:
    for service in running:
        if error := await _error_of(f"resume of {service.name}", service.resume()):
            not_resumed.append(f"{service.name}: {error}")
    resumed.set()


async def _error_of(step: str, work: Awaitable[None]) -> str:
    """Await the step of one service. An error is logged and returned, so that the other services continue."""
    try:
        await work
    except Exception as error:
        logging.exception(step)
        return str(error) or type(error).__name__
    return ""


async def _error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path}: {error.detail}"
        error = CloudError(error.status_code, error.detail.replace(" ", ""), message)
    elif not isinstance(error, CloudError):
        error = CloudError(500, "InternalServerError", f"{type(error).__name__}: {error}")
    return JSONResponse({"error": {"code": error.code, "message": error.message}}, error.status, error.headers)
