"""Azure Resource Manager by plain REST: the same in every cloud, and independent of any management SDK's version.

Only `delete` changes resources; everything else reads.
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
    """No usable answer to a request: refused, unreachable or of an unknown form. `status` is 0 without a response."""

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
        found = self._ask(HttpRequest("GET", path, params={"api-version": version}))
        return None if found is None else _as(kind, found, path)

    def list(self, kind: type[Answer], path: str, version: str, asked: Mapping[str, str] = {}) -> list[Answer]:
        found, url, parameters = [], path, {"api-version": version, **asked}
        while url:
            answer = self._ask(HttpRequest("GET", url, params=parameters))
            if answer is None:
                raise NotAnswered(f"{path} is not offered here", 404)
            page = _as(_Page, answer, path)
            found += page.value
            url, parameters = page.nextLink, {}
        return [_as(kind, item, path) for item in found]

    def post(self, kind: type[Answer], path: str, version: str, body: Mapping[str, Any]) -> Answer:
        found = self._ask(HttpRequest("POST", path, params={"api-version": version}, json=dict(body)))
        if found is None:
            raise NotAnswered(f"{path} is not offered here", 404)
        return _as(kind, found, path)

    def delete(self, path: str, version: str, asked: Mapping[str, str] = {}) -> None:
        """Start the deletion; no error if the resource is gone. Does not wait for the end."""
        self._ask(HttpRequest("DELETE", path, params={"api-version": version, **asked}))

    def _ask(self, request: HttpRequest) -> Any:
        """Return the answer's JSON; None for 404."""
        request.url = self._client.format_url(request.url)  # an absolute URL stays as it is
        try:
            answer = self._client.send_request(request, connection_timeout=_SECONDS, read_timeout=_SECONDS)
        except AzureError as error:
            raise NotAnswered(str(error).strip().partition("\n")[0]) from None
        if answer.status_code == 404:
            return None
        try:
            found = answer.json() if answer.content else {}
        except ValueError:
            message = f"{answer.status_code} {answer.reason}: the answer is not JSON"
            raise NotAnswered(message, answer.status_code) from None
        if answer.status_code >= 400:
            told = _as(_Refusal, found, request.url).error
            message = f"{answer.status_code} {told.get('code', answer.reason)}: {told.get('message', '')}"
            raise NotAnswered(message, answer.status_code)
        return found


def _as(kind: type[Answer], found: Any, path: str) -> Answer:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise NotAnswered(f"{path} returned an answer of an unknown form: {first['loc']}: {first['msg']}") from None
