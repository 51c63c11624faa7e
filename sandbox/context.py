"""What every service of the sandbox shares: where it lives, what it holds, what it may start."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sandbox.arm.store import Body, ResourceStore
from sandbox.identity import authority


class SandboxSettings(msgspec.Struct, forbid_unknown_fields=True):
    """How long things take: short here, so that a program that does not wait fails. `PUT /sandbox/settings` changes
    them until the sandbox ends."""

    role_propagation: float = 1.0
    """Seconds for which a new role assignment grants nothing yet. On Azure up to 600.

    Source: MicrosoftDocs/azure-docs articles/role-based-access-control/troubleshooting.md
    """
    token_lifetime: int = 3600
    container_deletion: float = 0.0
    """Seconds for which a deleted blob container still holds its name."""
    instance_types: dict[str, dict[str, str]] = {}
    """Limits (`cpu`, `memory`) of Azure ML's instance types, as somebody creates them in a cluster with `kubectl`."""


@dataclass(frozen=True)
class Machines:
    """Machines of one size that a service has deployed in one region of the subscription."""

    location: str
    size: str
    count: int
    spot: bool = False


@dataclass(frozen=True)
class Sandbox:
    folder: Path
    """State of all services: `accounts/<account>/<container>/…`, `registries/…`, `runs/…`, `deployments/…`."""
    port: int
    store: ResourceStore
    environment: MutableMapping[str, str]
    """Environment for processes that services start (PATH, JAVA_HOME, trust, loopback settings); see `environment`."""
    settings: SandboxSettings = field(default_factory=SandboxSettings)
    callers: dict[int, str] = field(default_factory=dict)
    """Virtual networks of the open connections that come from inside one, by the port they come from."""

    @property
    def identity(self) -> authority.Identity:
        return authority.identity(self.folder)

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}"

    def container_folder(self, account: str, container: str) -> Path:
        """Where a blob container's bytes lie; the Databricks and Azure ML services read and write the same folder."""
        return self.folder / "accounts" / account / container


BeforePut = Callable[[Sandbox, str, Body, Body | None], None]
"""`(sandbox, resource id, body as sent, existing body)`; may change the body as sent, or raise `CloudError`."""
BeforeDelete = Callable[[Sandbox, str, Body], None]
"""`(sandbox, resource id, full body)`; may raise `CloudError`. Not called when the resource goes with its parent."""
Hook = Callable[[Sandbox, str, Body], Awaitable[None]]
"""`(sandbox, resource id, full body)`; may change the body's properties, or raise `CloudError`."""
Action = Callable[[Sandbox, str, Request], Awaitable[Response]]
"""Handles `POST {resource id}/{action}`."""


@dataclass(frozen=True)
class Behaviour:
    """What a resource type does beyond being stored. Keyed by lower-case type: `microsoft.storage/storageaccounts`."""

    before_put: BeforePut | None = None
    """Runs before anything is stored; its error is the answer to the request."""
    on_put: Hook | None = None
    """Runs inside the asynchronous operation, before it succeeds; an exception fails the operation and the resource."""
    before_delete: BeforeDelete | None = None
    on_delete: Hook | None = None
    actions: Mapping[str, Action] = field(default_factory=dict)
    """By lower-case action name, such as `listkeys`."""


class CloudError(Exception):
    """An error an Azure service answers: `{"error": {"code", "message"}}` with an HTTP status."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers
