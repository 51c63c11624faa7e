"""Refusals by a service's network rules, as opposed to its roles, with their remedy.

In a private network the lake, Databricks, the registry and the endpoint answer inside it alone, so a release runs from
a machine there. Waiting helps against a role that is not in effect yet, and not against this. Does not ask in advance:
`personalization preflight` does.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

REMEDY = (
    "Run `up` with a release from a machine inside the stack's network, or inside one that is peered with it "
    "(docs/operations.md, A private stack); `personalization preflight --reach` reports whether one is. The "
    "infrastructure can be deployed from here: set release:enabled to false."
)
# Source: fgarofalo56/csa-inabox#4765; fgarofalo56/csa-inabox#1466; databricks/databricks-sdk-py#647
_OF_DATABRICKS = re.compile(r"Unauthorized network access to workspace: \d+|private-link-validation-error:\d+")
# Source: MicrosoftDocs/SupportArticles-docs
# support/azure/azure-storage/blobs/authentication/storage-troubleshoot-403-errors.md (a role that is missing or not in
# effect yet is AuthorizationPermissionMismatch)
_OF_STORAGE = "AuthorizationFailure"


class OutsideNetwork(Exception):
    """A service does not answer this machine, from wherever it is."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: this machine is outside the stack's private network: {reason}. {REMEDY}")


def network_refusal(error: BaseException) -> str | None:
    """The refusal in the words of its service, where the error or one that led to it is one; else None."""
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
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
