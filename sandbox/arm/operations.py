"""ARM's asynchronous operations: work that continues after its request, its status document, and its lock.

After a restart, an unfinished operation is `Failed`, and so is its resource.
Some resources accept one write at a time, of themselves and of resources below them: `Turn`.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.arm.store import Body, ResourceStore
from sandbox.context import CloudError, Sandbox
from sandbox.identity.entra import require_token

Work = Callable[[], Awaitable[None]]
_STATUS = "/subscriptions/{subscription}/providers/Microsoft.Resources/operations/{operation}"
_RESULT = "/subscriptions/{subscription}/providers/Microsoft.Resources/operationResults/{operation}"


@dataclass(frozen=True)
class Turn:
    """One write of a resource that accepts one at a time."""

    resource_id: str
    doing: str
    """Name of the operation in the refusal of another write: `operation (Updating)`."""


class Operations:
    def __init__(self, sandbox: Sandbox, records: ResourceStore, visible: Callable[[Body], Body]) -> None:
        """`visible` returns the part of a stored resource that answers contain."""
        self._sandbox, self._records, self._visible = sandbox, records, visible
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._busy: set[str] = set()
        self._turns: dict[str, list[Turn]] = {}

    def routes(self) -> list[BaseRoute]:
        return [Route(_STATUS, self._status), Route(_RESULT, self._result)]

    def require_idle(self, resource_id: str, turn: Turn | None = None, *, below: bool = False) -> None:
        """Refuse a write while another runs on the resource, on one it lies in, or (`below`) on one inside it.

        With a `turn`, also while another has the turn. An extension resource (a role assignment, diagnostics) is not in
        the resource that it extends, because another provider writes it.
        Source: Azure/terraform-azurerm-avm-ptn-aks-production#25; cilium/cilium#25944 (AKS: code and words)
        """
        if turn and (others := self._turns.get(turn.resource_id.lower())):
            message = (
                f"Operation is not allowed: Another {others[0].doing} is in progress, please wait for it to finish "
                "before starting a new operation. See https://aka.ms/aks-pending-operation for more details"
            )
            raise CloudError(409, "OperationNotAllowed", message)
        key = resource_id.lower()
        for busy in self._busy:
            extends = "/providers/" in busy and key.startswith(f"{busy}/providers/")
            inside = key.startswith(f"{busy}/") and not extends
            if key == busy or inside or (below and busy.startswith(f"{key}/")):
                # Source: MicrosoftDocs/azure-docs
                # articles/azure-resource-manager/troubleshooting/common-deployment-errors.md
                # (`AnotherOperationInProgress`; the status is not shown)
                raise CloudError(409, "AnotherOperationInProgress", f"Another operation is in progress on '{busy}'.")

    def is_busy(self, resource_id: str) -> bool:
        """Whether a write has the turn of a resource that accepts one at a time."""
        return resource_id.lower() in self._turns

    async def run(self, resource_id: str, work: Work, turn: Turn | None = None) -> None:
        """Run `work` while the request waits; its error is the request's answer."""
        key = resource_id.lower()
        self._busy.add(key)
        self._take(turn)
        try:
            await work()
        finally:
            self._busy.discard(key)
            self._leave(turn)

    def start(self, resource_id: str, work: Work, turn: Turn | None = None) -> dict[str, str]:
        """Start `work`; returns the headers with the addresses of the operation."""
        operation = str(uuid.uuid4())
        record = {"name": operation, "resource": resource_id, "status": "InProgress", "began": time.time()}
        self._records.put(f"/operations/{operation}", record)
        self._busy.add(resource_id.lower())
        self._take(turn)
        self._keep(operation, self._finish(record, work, turn))
        return self._headers(record)

    def stay_busy(self, turn: Turn, seconds: float) -> None:
        """Hold the turn for so many seconds, for work of Azure's that no request started."""

        async def wait() -> None:
            try:
                await asyncio.sleep(seconds)
            finally:
                self._leave(turn)

        self._take(turn)
        self._keep(str(uuid.uuid4()), wait())

    def _keep(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = self._tasks[name] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    def _take(self, turn: Turn | None) -> None:
        if turn:
            self._turns.setdefault(turn.resource_id.lower(), []).append(turn)

    def _leave(self, turn: Turn | None) -> None:
        if turn:
            key = turn.resource_id.lower()
            self._turns[key].remove(turn)
            if not self._turns[key]:
                del self._turns[key]

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def fail_unfinished(self) -> None:
        for _, record in self._records.below("/operations"):
            if record["status"] == "InProgress":
                message = "The sandbox was stopped before the operation finished: send the request again."
                self._fail(record, CloudError(500, "OperationAborted", message))

    async def _finish(self, record: Body, work: Work, turn: Turn | None) -> None:
        try:
            try:
                await self.run(record["resource"], work)
            finally:
                self._leave(turn)
            self._records.put(f"/operations/{record['name']}", {**record, "status": "Succeeded"})
        except CloudError as error:
            self._fail(record, error)
        except Exception as error:
            logging.exception("operation on %s", record["resource"])
            self._fail(record, CloudError(500, "InternalServerError", f"{type(error).__name__}: {error}"))

    def _fail(self, record: Body, error: CloudError) -> None:
        failure = {"status": "Failed", "error": {"code": error.code, "message": error.message}, "http": error.status}
        self._records.put(f"/operations/{record['name']}", {**record, **failure})
        body = self._sandbox.store.get(record["resource"])
        if body is not None:
            body.setdefault("properties", {})["provisioningState"] = "Failed"
            self._sandbox.store.put(record["resource"], body)

    def _headers(self, record: Body) -> dict[str, str]:
        # Short pauses at first, so that a client sees the end of a short operation soon; longer ones later.
        wait = min(1000, max(10, int((time.time() - record["began"]) * 100)))
        ids = {"subscription": self._sandbox.identity.subscription_id, "operation": record["name"]}
        return {
            "Azure-AsyncOperation": f"{self._sandbox.url}{_STATUS.format_map(ids)}?api-version=2022-09-01",
            "Location": f"{self._sandbox.url}{_RESULT.format_map(ids)}?api-version=2022-09-01",
            "retry-after-ms": str(wait),
        }

    # No source: read an operation that does not exist on Azure, and read the code.
    def _record(self, request: Request) -> Body:
        require_token(self._sandbox, request, self._sandbox.url)
        record = self._records.get(f"/operations/{request.path_params['operation']}")
        if record is None:
            raise CloudError(
                404, "OperationNotFound", f"The operation {request.path_params['operation']} does not exist."
            )
        return record

    # Source: Azure/azure-resource-manager-rpc v1.0/async-api-reference.md ("Azure-AsyncOperation Resource format")
    async def _status(self, request: Request) -> Response:
        record = self._record(request)
        shown = {key: record[key] for key in ("name", "status", "error") if key in record}
        headers = self._headers(record) if record["status"] == "InProgress" else None
        return JSONResponse({"id": request.url.path, **shown}, headers=headers)

    # Source: Azure/azure-resource-manager-rpc v1.0/async-api-reference.md ("202 Accepted and Location Headers")
    async def _result(self, request: Request) -> Response:
        record = self._record(request)
        if record["status"] == "InProgress":
            return Response(status_code=202, headers=self._headers(record))
        if record["status"] == "Failed":
            return JSONResponse({"error": record["error"]}, record["http"])
        body = self._sandbox.store.get(record["resource"])
        return JSONResponse(self._visible(body)) if body is not None else Response(status_code=204)
