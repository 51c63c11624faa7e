"""The answer to a refused request: RFC 9457 problem details with the row, the field and the reason.

Never repeats a feature value: problems are logged, and values may be personal data. Names and media types that come
from the request are cut to a maximal length, and characters that cannot be encoded are replaced.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

RETRY = {"Retry-After": "1"}
_NAME_SHOWN = 100
_REASON_SHOWN = 1000
RawHeaders = list[tuple[bytes, bytes]]


class ProblemDetails(msgspec.Struct, omit_defaults=True):
    type: Annotated[str, Meta(description="Always about:blank.")]
    title: Annotated[str, Meta(description="Name of the status.")]
    status: Annotated[int, Meta(description="The answer's status.")]
    detail: Annotated[str, Meta(description="The place in the request, if there is one, and the reason.")]
    reason: Annotated[str, Meta(description="Why the request is refused.")]
    part: Annotated[str | None, Meta(description="Part of the request: rows, items or user.")] = None
    row: Annotated[int | None, Meta(description="Number of the row or item, counted from 0.")] = None
    field: Annotated[str | None, Meta(description="Name of the member.")] = None


class Problem(Exception):
    """A request that cannot be answered, and why. `part` is `rows`, `items` or `user`; `row` counts from 0."""

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        part: str | None = None,
        row: int | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = _shown(reason, _REASON_SHOWN)
        self.part = None if part is None else _shown(part, _NAME_SHOWN)
        self.row = row
        self.field = None if field is None else _shown(field, _NAME_SHOWN)
        self.headers = dict(headers or {})

    @property
    def detail(self) -> str:
        place = (self.part or "") + ("" if self.row is None else f"[{self.row}]")
        place = ".".join(name for name in (place, self.field) if name)
        return f"{place}: {self.reason}" if place else self.reason

    def place(self) -> dict[str, str | int]:
        """Part, row and field of the error, as far as they are known; never a value of the request."""
        named = {"part": self.part, "row": self.row, "field": self.field}
        return {name: value for name, value in named.items() if value is not None}

    def raw(self) -> tuple[RawHeaders, bytes]:
        """Headers and body of the answer."""
        response = self.response()
        return response.raw_headers, bytes(response.body)

    def response(self) -> Response:
        title = HTTPStatus(self.status).phrase
        details = ProblemDetails(
            "about:blank", title, self.status, self.detail, self.reason, self.part, self.row, self.field
        )
        return Response(
            msgspec.json.encode(details), self.status, headers=self.headers, media_type="application/problem+json"
        )


def _shown(text: str, most: int) -> str:
    """The first `most` characters of `text`; half of a surrogate pair, which cannot be encoded, becomes a `?`."""
    return text[:most].encode(errors="replace").decode()
