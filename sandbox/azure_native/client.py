"""Azure Resource Manager over HTTP: finds its cloud, logs in at first use, waits for operations.

Retries and polling are azure-core's. Does not choose between logins: a sandbox hands out a service principal's secret.
"""

import os
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

_FEW = 4
"""Retries of what usually passes; what another operation holds may take minutes, and gets all of them."""
_MANY = 200


class ArmError(Exception):
    def __init__(self, status: int | None, code: str | None, message: str) -> None:
        shown_code = f' Code="{code}"' if code else ""
        super().__init__(f'Status={status}{shown_code} Message="{message}"')
        self.status = status


class OperationFailed(ArmError):
    """The resource was accepted, and then could not be finished: it exists."""


class ArmClient:
    def __init__(self, settings: Mapping[str, str]) -> None:
        """Uses `metadataHost`, `tenantId`, `clientId` and `clientSecret`; what is missing shows at first use."""
        self._settings = settings
        self.cancelled = threading.Event()

    def get(self, address: str, api_version: str) -> dict[str, Any] | None:
        try:
            body: dict[str, Any] = self._send("GET", address, api_version).http_response.json()
        except ArmError as error:
            if error.status == 404:
                return None
            raise
        return body

    def put(self, address: str, api_version: str, body: Mapping[str, Any], query: Mapping[str, str]) -> None:
        self._finish(self._send("PUT", address, api_version, query, json=body))

    def delete(self, address: str, api_version: str) -> None:
        try:
            self._finish(self._send("DELETE", address, api_version))
        except ArmError as error:
            if error.status != 404:
                raise

    def token(self) -> str:
        token: str = self._credential.get_token(self._scope).token
        return token

    @cached_property
    def _cloud(self) -> dict[str, Any]:
        host = self._settings["metadataHost"]
        base = host if "://" in host else f"https://{host}"
        query = {"api-version": "2022-09-01"}
        cloud: dict[str, Any] = self._answer(
            self._pipeline(base), "GET", "/metadata/endpoints", query
        ).http_response.json()
        return cloud

    @property
    def _scope(self) -> str:
        return str(self._cloud["authentication"]["audiences"][0]).rstrip("/") + "/.default"

    @cached_property
    def _credential(self) -> Any:
        from azure.identity import ClientSecretCredential

        names = ("tenantId", "clientId", "clientSecret")
        if missing := [name for name in names if name not in self._settings]:
            raise ArmError(401, "CredentialMissing", f"no {', '.join(missing)} in provider config or ARM_* environment")
        return ClientSecretCredential(
            *(self._settings[name] for name in names),
            authority=self._cloud["authentication"]["loginEndpoint"],
            disable_instance_discovery=True,
            connection_verify=os.environ.get("SSL_CERT_FILE", True),
        )

    @cached_property
    def _arm(self) -> Any:
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy

        login = BearerTokenCredentialPolicy(self._credential, self._scope)
        return self._pipeline(self._cloud["resourceManager"].rstrip("/"), login)

    def _pipeline(self, base: str, *policies: Any) -> Any:
        from azure.core.pipeline.policies import RequestIdPolicy, RetryPolicy
        from azure.core.pipeline.transport import RequestsTransport
        from azure.mgmt.core import ARMPipelineClient

        cancelled = self.cancelled

        class Retry(RetryPolicy):
            def is_retry(self, settings: dict[str, Any], response: Any) -> bool:
                answer = response.http_response
                if answer.status_code == 409 and "AnotherOperationInProgress" in answer.text():
                    return True
                return len(settings["history"]) < _FEW and super().is_retry(settings, response)

        class Transport(RequestsTransport):
            def sleep(self, duration: float) -> None:
                if cancelled.wait(duration):
                    raise ArmError(None, "Cancelled", "the deployment was cancelled")

        counts = {"retry_total": _MANY, "retry_status": _MANY, "retry_connect": _FEW, "retry_read": _FEW}
        retry = Retry(**counts, retry_backoff_factor=0.1, retry_backoff_max=2)
        transport = Transport(connection_verify=os.environ.get("SSL_CERT_FILE", True))
        return ARMPipelineClient(base, policies=[RequestIdPolicy(), retry, *policies], transport=transport)

    def _send(
        self, method: str, address: str, api_version: str, query: Mapping[str, str] | None = None, **content: Any
    ) -> Any:
        return self._answer(self._arm, method, address, {"api-version": api_version, **(query or {})}, **content)

    @staticmethod
    def _answer(client: Any, method: str, path: str, query: Mapping[str, str], **content: Any) -> Any:
        from azure.core.exceptions import AzureError, HttpResponseError
        from azure.core.rest import HttpRequest

        try:
            request = HttpRequest(method, client.format_url(path), params=dict(query), **content)
            answer = client.send_request(request, _return_pipeline_response=True)
            if answer.http_response.status_code >= 400:
                raise HttpResponseError(response=answer.http_response)
        except AzureError as error:
            raise _shown(ArmError, error) from error
        return answer

    def _finish(self, accepted: Any) -> None:
        """Follow an operation to its end, the way its first answer asks."""
        from azure.core.exceptions import AzureError
        from azure.mgmt.core.polling.arm_polling import ARMPolling

        polling = ARMPolling(timeout=1)
        try:
            polling.initialize(self._arm, accepted, lambda _: None)
            polling.run()
        except AzureError as error:
            raise _shown(OperationFailed, error) from error


def _shown(kind: type[ArmError], error: Any) -> ArmError:
    told = getattr(error, "error", None)
    message = getattr(told, "message", None) or error.message
    return kind(getattr(error, "status_code", None), getattr(told, "code", None), message)
