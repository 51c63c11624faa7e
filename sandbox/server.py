"""The server process of one sandbox folder: every service behind one TLS port on 127.0.0.1, until SIGTERM.

Does not detach from the terminal: `sandbox start` does that around it.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import ModuleType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import authority, budgets, entra, metadata, role_assignments, types
from sandbox.arm import Arm
from sandbox.cloud import Behaviour, CloudError, Sandbox
from sandbox.faults import Faults
from sandbox.folder import CannotServe, lock, remembered_port
from sandbox.store import ResourceStore

SERVICES = ("blob", "registry", "databricks", "machine_learning")
# Below the ports that Linux and macOS hand out to clients, so that a stopped sandbox finds its port free again.
_PORTS = range(20000, 30000)
# What a caller may have set for itself and a job or a service of the cloud would never see.
_PRIVATE = ("ARM_", "AZURE_", "DATABRICKS_", "MLFLOW_", "PULUMI_", "PYSPARK_", "PYTHON", "SPARK_", "VIRTUAL_ENV")


def serve(folder: Path, port: int | None) -> None:
    held = lock(folder)
    authority.ensure(folder)
    authority.write_ca_bundle(folder, os.environ)
    listener = _listen(folder, port)
    environment = client_environment(folder, listener.getsockname()[1])
    authority.write_private(folder / "environment.json", json.dumps(environment, indent=2).encode())
    store = ResourceStore(folder / "resources.sqlite")
    sandbox = Sandbox(folder, listener.getsockname()[1], store, _service_environment(environment))
    certificate, key = authority.certificate_files(folder)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
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
    for module in (role_assignments, budgets, *services):
        if hasattr(module, "behaviours"):
            behaviours |= module.behaviours(sandbox)
    records = ResourceStore(sandbox.folder / "operations.sqlite")
    arm, faults = Arm(sandbox, records, types.load(), behaviours), Faults(sandbox)
    resumed = asyncio.Event()
    unwell: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        arm.operations.fail_unfinished()
        # Not awaited: what a service brings back may itself ask this server.
        resuming = asyncio.create_task(_resume(sandbox, services, unwell, resumed))
        yield
        resuming.cancel()
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
            *metadata.routes(sandbox),
            *entra.routes(sandbox),
            *(route for module in services if hasattr(module, "routes") for route in module.routes(sandbox)),
            *arm.routes(),
        ],
        middleware=[Middleware(faults.wrap)],
        exception_handlers={CloudError: _error, HTTPException: _error, Exception: _error},
        lifespan=lifespan,
    )


def client_environment(folder: Path, port: int) -> dict[str, str]:
    """What an unmodified client needs to find this cloud, log in to it and trust it."""
    who, authority_host = authority.identity(folder), f"127.0.0.1:{port}"
    bundle = str(authority.ca_bundle(folder))
    unproxied = (os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "").split(",")
    direct = ",".join(dict.fromkeys(filter(None, [*unproxied, "127.0.0.1", "localhost"])))
    return {
        "ARM_METADATA_HOSTNAME": authority_host,
        "ARM_DISABLE_INSTANCE_DISCOVERY": "true",
        "ARM_TENANT_ID": who.tenant_id,
        "ARM_SUBSCRIPTION_ID": who.subscription_id,
        "ARM_CLIENT_ID": who.client_id,
        "ARM_CLIENT_SECRET": who.client_secret,
        "AZURE_TENANT_ID": who.tenant_id,
        "AZURE_CLIENT_ID": who.client_id,
        "AZURE_CLIENT_SECRET": who.client_secret,
        "AZURE_AUTHORITY_HOST": f"https://{authority_host}",
        "SSL_CERT_FILE": bundle,
        "REQUESTS_CA_BUNDLE": bundle,
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


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


def _service_environment(client: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
    trust = {name: client[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NO_PROXY", "no_proxy")}
    return {**inherited, **trust, "SPARK_LOCAL_IP": "127.0.0.1"}


async def _resume(sandbox: Sandbox, services: list[ModuleType], unwell: list[str], resumed: asyncio.Event) -> None:
    unwell += [module.__name__ for module in services if not await _call(module, "resume", sandbox)]
    resumed.set()


async def _call(module: ModuleType, hook: str, sandbox: Sandbox) -> bool:
    """One service's fault is logged, and is no reason to leave the others alone."""
    try:
        if hasattr(module, hook):
            await getattr(module, hook)(sandbox)
    except Exception:
        logging.exception("%s of %s", hook, module.__name__)
        return False
    return True


async def _error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path}: {error.detail}"
        error = CloudError(error.status_code, error.detail.replace(" ", ""), message)
    elif not isinstance(error, CloudError):
        error = CloudError(500, "InternalServerError", f"{type(error).__name__}: {error}")
    return JSONResponse({"error": {"code": error.code, "message": error.message}}, error.status, error.headers)
