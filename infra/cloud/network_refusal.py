"""Refusals by a service's network rules, in contrast to its roles, with their remedy.

The lake, Databricks, the registry and the endpoint of a private stack answer only inside its network, so a release must
run on a machine there. Waiting helps if a role is not in effect yet, but not here. Does not check in advance:
`personalization preflight` does.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

REMEDY = (
    "Run `up` with a release on a machine inside the stack's network, or inside a peered network "
    "(docs/operations.md, A private stack); `personalization preflight --reach` reports whether a machine is inside. "
    "To deploy only the infrastructure from here, set release:enabled to false."
)
# Source: fgarofalo56/csa-inabox#4765; fgarofalo56/csa-inabox#1466; databricks/databricks-sdk-py#647
_OF_DATABRICKS = re.compile(r"Unauthorized network access to workspace: \d+|private-link-validation-error:\d+")
# Source: MicrosoftDocs/SupportArticles-docs
# support/azure/azure-storage/blobs/authentication/storage-troubleshoot-403-errors.md (a role that is missing or not in
# effect yet is AuthorizationPermissionMismatch)
_OF_STORAGE = "AuthorizationFailure"


class OutsideNetwork(Exception):
    """A service refuses this machine because it is outside the private network."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: this machine is outside the stack's private network: {reason}. {REMEDY}")


def network_refusal(error: BaseException) -> str | None:
    """Return the service's text if the error or one of its causes is such a refusal; else None."""
    return next((reason for each in _chain(error) if (reason := _reason(each))), None)


def _reason(error: BaseException) -> str | None:
    if match := _OF_DATABRICKS.search(str(error)):
        return match[0]
    # Source: databricks-sdk==0.156.0 databricks/sdk/errors/private_link.py
    if type(error).__name__ == "PrivateLinkValidationError":
        return str(error)
    code = getattr(error, "error_code", None)
    if str(getattr(code, "value", code)) == _OF_STORAGE and getattr(error, "status_code", None) == 403:
        request = getattr(getattr(error, "response", None), "request", None)
        return f"{urlsplit(getattr(request, 'url', '')).netloc or 'storage'} answers 403 {_OF_STORAGE}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
