"""Client of Azure Resource Manager's REST API, for all clouds and independent of the management SDKs.

Only `delete` and `post` can change resources. Does not wait for the end of a deletion.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from azure.core import PipelineClient
from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy
from azure.core.rest import HttpRequest
from pydantic import BaseModel, ValidationError

Answer = TypeVar("Answer", bound=BaseModel)
_SECONDS = 30


class NotAnswered(Exception):
    """A request was refused, failed, or got a response of an unknown form. `status` is 0 without a response."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Page(BaseModel):
    value: list[Any]
    nextLink: str = ""


class _Refusal(BaseModel):
    error: dict[str, Any] = {}


class Arm:
    def __init__(self, url: str, credential: TokenCredential, scope: str) -> None:
        retries = RetryPolicy(retry_total=2, retry_backoff_factor=0.5)
        login: Any = BearerTokenCredentialPolicy(credential, scope)
        self._client: PipelineClient[Any, Any] = PipelineClient(url, policies=[retries, login])

    def get(self, kind: type[Answer], path: str, version: str) -> Answer | None:
        """Return the resource; None if it does not exist."""
        document = self._send(HttpRequest("GET", path, params={"api-version": version}))
        return None if document is None else _as(kind, document, path)

    def list(self, kind: type[Answer], path: str, version: str, query: Mapping[str, str] = {}) -> list[Answer]:
        """Return the items of all pages. Raises `NotAnswered` with status 404 if the collection does not exist."""
        items, url, parameters = [], path, {"api-version": version, **query}
        while url:
            document = self._send(HttpRequest("GET", url, params=parameters))
            if document is None:
                raise NotAnswered(f"{path} is not offered here", 404)
            page = _as(_Page, document, path)
            items += page.value
            url, parameters = page.nextLink, {}
        return [_as(kind, item, path) for item in items]

    def post(self, kind: type[Answer], path: str, version: str, body: Mapping[str, Any]) -> Answer:
        """Perform an action and return its result. Raises `NotAnswered` with status 404 if it does not exist."""
        document = self._send(HttpRequest("POST", path, params={"api-version": version}, json=dict(body)))
        if document is None:
            raise NotAnswered(f"{path} is not offered here", 404)
        return _as(kind, document, path)

    def delete(self, path: str, version: str, query: Mapping[str, str] = {}) -> None:
        """Start the deletion; no error if the resource does not exist."""
        self._send(HttpRequest("DELETE", path, params={"api-version": version, **query}))

    def _send(self, request: HttpRequest) -> Any:
        """Return the response's JSON; None for 404."""
        request.url = self._client.format_url(request.url)  # does not change an absolute URL
        try:
            answer = self._client.send_request(request, connection_timeout=_SECONDS, read_timeout=_SECONDS)
        except AzureError as failure:
            raise NotAnswered(str(failure).strip().partition("\n")[0]) from None
        if answer.status_code == 404:
            return None
        try:
            document = answer.json() if answer.content else {}
        except ValueError:
            message = f"{answer.status_code} {answer.reason}: the response is not JSON"
            raise NotAnswered(message, answer.status_code) from None
        if answer.status_code >= 400:
            error = _as(_Refusal, document, request.url).error
            message = f"{answer.status_code} {error.get('code', answer.reason)}: {error.get('message', '')}"
            raise NotAnswered(message, answer.status_code)
        return document


def _as(kind: type[Answer], document: Any, path: str) -> Answer:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise NotAnswered(f"{path} returned a response of an unknown form: {first['loc']}: {first['msg']}") from None
