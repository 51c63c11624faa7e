"""Types that all services of the sandbox share: its state and settings, behaviours of resource types, errors."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sandbox.arm.store import Body, ResourceStore
from sandbox.identity import authority


class SandboxSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Settings that `PUT /sandbox/settings` changes until the sandbox ends.

    Durations are shorter than on Azure, but long enough that a program that does not wait fails.
    """

    role_propagation: float = 1.0
    """Seconds until a new role assignment takes effect. On Azure up to 600.

    Source: MicrosoftDocs/azure-docs articles/role-based-access-control/troubleshooting.md
    """
    token_lifetime: int = 3600
    container_deletion: float = 0.0
    """Seconds for which the name of a deleted blob container stays taken."""
    instance_types: dict[str, dict[str, str]] = {}
    """Limits (`cpu`, `memory`) of Azure ML's instance types that were created in a cluster with `kubectl`."""


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
    """Environment of the processes that services start (PATH, JAVA_HOME, certificates, loopback); see `environment`."""
    settings: SandboxSettings = field(default_factory=SandboxSettings)
    callers: dict[int, str] = field(default_factory=dict)
    """Virtual network of each open connection from inside one, by the connection's local port."""

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
        """Folder of a blob container's bytes; Databricks and Azure ML read and write the same folder."""
        return self.folder / "accounts" / account / container


BeforePut = Callable[[Sandbox, str, Body, Body | None], None]
"""`(sandbox, resource id, body as sent, existing body)`; may change the body as sent, or raise `CloudError`."""
BeforeDelete = Callable[[Sandbox, str, Body], None]
"""`(sandbox, resource id, full body)`; may raise `CloudError`. Not called if the parent is being deleted."""
Hook = Callable[[Sandbox, str, Body], Awaitable[None]]
"""`(sandbox, resource id, full body)`; may change the body's properties, or raise `CloudError`."""
Action = Callable[[Sandbox, str, Request], Awaitable[Response]]
"""Handles `POST {resource id}/{action}`."""


@dataclass(frozen=True)
class Behaviour:
    """Functions of a resource type that run on its requests, in addition to storing it."""

    before_put: BeforePut | None = None
    """Runs before anything is stored; its error is the answer to the request."""
    on_put: Hook | None = None
    """Runs inside the asynchronous operation, before it succeeds; an exception fails the operation and the resource."""
    before_delete: BeforeDelete | None = None
    on_delete: Hook | None = None
    actions: Mapping[str, Action] = field(default_factory=dict)
    """Actions by lower-case name, such as `listkeys`."""


class CloudError(Exception):
    """An error answer of an Azure service: `{"error": {"code", "message"}}` with an HTTP status."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers
