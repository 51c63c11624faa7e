"""ARM's asynchronous operations: work that outlives its request, its status document, and the lock it holds meanwhile.

An operation that the sandbox did not live to finish is found `Failed` after the restart, and its resource with it.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.cloud import CloudError, Sandbox
from sandbox.entra import require_token
from sandbox.store import Body, ResourceStore

Work = Callable[[], Awaitable[None]]
_STATUS = "/subscriptions/{subscription}/providers/Microsoft.Resources/operations/{operation}"
_RESULT = "/subscriptions/{subscription}/providers/Microsoft.Resources/operationResults/{operation}"


class Operations:
    def __init__(self, sandbox: Sandbox, records: ResourceStore) -> None:
        self._sandbox, self._records = sandbox, records
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._busy: set[str] = set()

    def routes(self) -> list[BaseRoute]:
        return [Route(_STATUS, self._status), Route(_RESULT, self._result)]

    def require_idle(self, resource_id: str, *, below: bool = False) -> None:
        """Refuse a write while another runs on the resource, on one it lies in, or (`below`) on one inside it."""
        key = resource_id.lower()
        for busy in self._busy:
            if key == busy or key.startswith(f"{busy}/") or (below and busy.startswith(f"{key}/")):
                # Source: MicrosoftDocs/azure-docs
                # articles/azure-resource-manager/troubleshooting/common-deployment-errors.md
                # (`AnotherOperationInProgress`; the status is not shown)
                raise CloudError(409, "AnotherOperationInProgress", f"Another operation is in progress on '{busy}'.")

    async def run(self, resource_id: str, work: Work) -> None:
        """Do `work` while the request waits; its error is the request's answer."""
        key = resource_id.lower()
        self._busy.add(key)
        try:
            await work()
        finally:
            self._busy.discard(key)

    def start(self, resource_id: str, work: Work) -> dict[str, str]:
        """Begin `work`; returns the headers by which the client finds the operation."""
        operation = str(uuid.uuid4())
        record = {"name": operation, "resource": resource_id, "status": "InProgress", "began": time.time()}
        self._records.put(f"/operations/{operation}", record)
        self._busy.add(resource_id.lower())
        task = asyncio.create_task(self._finish(record, work))
        self._tasks[operation] = task
        task.add_done_callback(lambda _: self._tasks.pop(operation, None))
        return self._headers(record)

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

    async def _finish(self, record: Body, work: Work) -> None:
        try:
            await self.run(record["resource"], work)
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
        # A client should notice the end of a short operation at once, and not hammer through a long one.
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
            raise CloudError(404, "OperationNotFound", f"There is no operation {request.path_params['operation']}.")
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
        return JSONResponse(body) if body is not None else Response(status_code=204)
