"""Azure Resource Manager over HTTP: finds its cloud, logs in at first use, waits for operations.

Repeats requests as often as the genuine provider does and for the same errors, with a hundredth of its pauses, because
the sandbox's operations are short, too. Polling is azure-core's. Has one login only: with the secret of the sandbox's
service principal.

Source: pulumi/pulumi-azure-native provider/pkg/azure/client_azcore.go (`initPipelineOpts`, `shouldRetryConflict`);
pulumi/pulumi-azure-native#3653; pulumi/pulumi-azure-native#4497; pulumi/pulumi-azure-native#4765 (all before 3.29.0);
Azure/azure-sdk-for-go sdk/azcore/runtime/policy_retry.go (three retries, `calcDelay`)
"""

import os
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

_RETRIES = 3
_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_CONFLICTS = frozenset(
    {"AnotherOperationInProgress", "StorageAccountOperationInProgress", "ConflictingConcurrentWriteNotAllowed"}
)
"""Codes of a 409 that is repeated. AKS's `OperationNotAllowed` is not one of them."""
_PAUSE, _LONGEST_PAUSE = 0.2, 1.2
"""Seconds; 20 and 120 in the genuine provider."""


class ArmError(Exception):
    def __init__(self, status: int | None, code: str | None, message: str) -> None:
        shown_code = f' Code="{code}"' if code else ""
        super().__init__(f'Status={status}{shown_code} Message="{message}"')
        self.status = status


class OperationFailed(ArmError):
    """The request was accepted and its operation failed: the resource exists."""


class ArmClient:
    def __init__(self, settings: Mapping[str, str]) -> None:
        """Uses `metadataHost`, `tenantId`, `clientId`, `clientSecret`; the first request fails without one of them."""
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
                return answer.status_code in _STATUS or (answer.status_code == 409 and _code(answer) in _CONFLICTS)

            def get_backoff_time(self, settings: dict[str, Any]) -> float:
                return float(min(_LONGEST_PAUSE, _PAUSE * (2 ** len(settings["history"]) - 1)))

        class Transport(RequestsTransport):
            def sleep(self, duration: float) -> None:
                if cancelled.wait(duration):
                    raise ArmError(None, "Cancelled", "the deployment was cancelled")

        counts = dict.fromkeys(("retry_total", "retry_status", "retry_connect", "retry_read"), _RETRIES)
        retry = Retry(**counts)
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
        """Poll an operation to its end, by the method in its first answer."""
        from azure.core.exceptions import AzureError
        from azure.mgmt.core.polling.arm_polling import ARMPolling

        polling = ARMPolling(timeout=1)
        try:
            polling.initialize(self._arm, accepted, lambda _: None)
            polling.run()
        except AzureError as error:
            raise _shown(OperationFailed, error) from error


def _code(answer: Any) -> str:
    """Code of an error, as azcore's `ResponseError` reads it: from a header or the body, with or without `error`."""
    if header := answer.headers.get("x-ms-error-code"):
        return str(header)
    try:
        body = answer.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    nested = body.get("error")
    error = nested if isinstance(nested, dict) else body
    return str(error.get("code", ""))


def _shown(kind: type[ArmError], error: Any) -> ArmError:
    detail = getattr(error, "error", None)
    message = getattr(detail, "message", None) or error.message
    return kind(getattr(error, "status_code", None), getattr(detail, "code", None), message)
