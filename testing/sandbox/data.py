"""A sandbox served over TLS in this process, and the ARM resources that its blob and Databricks services need.

The resources are written into the store directly, because ARM has its own tests.
"""

import asyncio
import contextlib
import datetime
import os
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from azure.core.credentials import AccessToken
from azure.identity import ClientSecretCredential

from sandbox.arm.store import ResourceStore
from sandbox.blob import CONTAINER, BlobService
from sandbox.context import Sandbox
from sandbox.identity import authority
from sandbox.server import application

GROUP = "resourceGroups/rg"
BLOB_CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"


class Served:
    """A running sandbox, with credentials and helpers for a test."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        who = sandbox.identity
        self.tls = ssl.create_default_context(cafile=str(authority.ca_bundle(sandbox.folder)))
        self.group = f"/subscriptions/{who.subscription_id}/{GROUP}"
        self.credential = ClientSecretCredential(
            who.tenant_id,
            who.client_id,
            who.client_secret,
            authority=sandbox.url,
            disable_instance_discovery=True,
            connection_verify=str(authority.ca_bundle(sandbox.folder)),
        )

    @property
    def login(self) -> dict[str, str]:
        """Variables with which the program finds this cloud and logs in."""
        who = self.sandbox.identity
        return {
            "ARM_TENANT_ID": who.tenant_id,
            "ARM_CLIENT_ID": who.client_id,
            "ARM_CLIENT_SECRET": who.client_secret,
            "ARM_METADATA_HOSTNAME": self.sandbox.authority,
            "ARM_DISABLE_INSTANCE_DISCOVERY": "true",
        }

    def token(self, audience: str) -> str:
        token: AccessToken = self.credential.get_token(f"{audience}/.default")
        return token.token

    def faults(self, *rules: Mapping[str, object]) -> None:
        """Set these fault rules; remaining earlier ones are removed."""
        for method, content in (("DELETE", None), ("POST", list(rules))):
            answer = httpx.request(method, f"{self.sandbox.url}/sandbox/faults", json=content, verify=self.tls)
            assert answer.status_code == 200, answer.text

    def faults_left(self) -> list[dict[str, Any]]:
        left: list[dict[str, Any]] = httpx.get(f"{self.sandbox.url}/sandbox/faults", verify=self.tls).json()
        return left

    @contextlib.contextmanager
    def settings(self, **changed: float) -> Iterator[None]:
        """Change the sandbox's settings within the context."""
        address = f"{self.sandbox.url}/sandbox/settings"
        httpx.put(address, json=changed, verify=self.tls).raise_for_status()
        try:
            yield
        finally:
            httpx.put(address, json={}, verify=self.tls).raise_for_status()

    def put(self, path: str, **body: object) -> str:
        return self._put(self.group, path, body)

    def _put(self, scope: str, path: str, body: Mapping[str, object]) -> str:
        namespace, *parts = path.split("/")
        resource_id, kind = f"{scope}/providers/{path}", "/".join([namespace, *parts[::2]])
        resource = {"id": resource_id, "name": parts[-1], "type": kind, "systemData": {}, **body}
        self.sandbox.store.put(resource_id, resource)
        return resource_id

    def account(self, name: str, *containers: str) -> str:
        account_id = self.put(f"Microsoft.Storage/storageAccounts/{name}", properties={"allowSharedKeyAccess": False})
        for container in containers:
            self.container(name, container)
        return account_id

    def container(self, account: str, name: str) -> None:
        path = f"Microsoft.Storage/storageAccounts/{account}/blobServices/default/containers/{name}"
        resource_id = self.put(path, properties={})
        hook = BlobService(self.sandbox).behaviours()[CONTAINER].on_put
        assert hook is not None
        asyncio.run(hook(self.sandbox, resource_id, {}))

    def connector(self, name: str, principal: str) -> str:
        path = f"Microsoft.Databricks/accessConnectors/{name}"
        return self.put(path, identity={"type": "SystemAssigned", "principalId": principal})

    def assign(self, scope: str, principal: str, role: str = BLOB_CONTRIBUTOR, *, seconds_ago: float = 3600) -> None:
        """Assign the role so many seconds ago; by default it is in effect."""
        definition = f"/subscriptions/s/providers/Microsoft.Authorization/roleDefinitions/{role}"
        properties = {"principalId": principal, "roleDefinitionId": definition}
        created = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds_ago)
        made = {"properties": properties, "systemData": {"createdAt": created.isoformat()}}
        self._put(scope, f"Microsoft.Authorization/roleAssignments/{uuid.uuid4()}", made)


@contextlib.contextmanager
def served_lake(folder: Path, container: str) -> Iterator[Served]:
    """A sandbox with account `lake`, one container, and the right to write to it."""
    with served(folder) as running:
        running.assign(running.account("lake", container), running.sandbox.identity.object_id)
        yield running


def put_as_written(served: Served, path: str, audience: str) -> bytes:
    """Answer to a PUT with exactly this path, which clients would normalise."""
    lines = [
        f"PUT {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {served.token(audience)}",
        "x-ms-blob-type: BlockBlob",
        "Content-Length: 1",
    ]
    with (
        socket.create_connection(("127.0.0.1", served.sandbox.port)) as plain,
        served.tls.wrap_socket(plain, server_hostname="127.0.0.1") as stream,
    ):
        stream.sendall("\r\n".join([*lines, "", "x"]).encode())
        return stream.recv(4096)


@contextlib.contextmanager
def served(folder: Path, *, port: int = 0) -> Iterator[Served]:
    """Serve the sandbox of `folder` within the context, then stop it regularly."""
    folder.mkdir(parents=True, exist_ok=True)
    authority.ensure(folder)
    # Clients here trust only this sandbox, which is faster to load.
    authority.write_ca_bundle(folder, {"SSL_CERT_FILE": os.devnull})
    certificate, key = authority.certificate_files(folder)
    with socket.create_server(("127.0.0.1", port)) as listener:
        sandbox = Sandbox(folder, listener.getsockname()[1], ResourceStore(folder / "resources.db"), dict(os.environ))
        config = uvicorn.Config(
            application(sandbox),
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_level="warning",
            timeout_graceful_shutdown=0,  # clients that keep their connections would count as busy
        )
        with _running(uvicorn.Server(config), listener):
            running = Served(sandbox)
            while httpx.get(f"{sandbox.url}/sandbox/ready", verify=running.tls).status_code != 200:
                time.sleep(0.01)
            yield running


@contextlib.contextmanager
def _running(server: uvicorn.Server, listener: socket.socket) -> Iterator[None]:
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()
