"""The OpenAPI 3.1 document of one contract, generated from the types that decode its requests.

    python -m scoring.openapi docs/contract.movielens.json docs/openapi.movielens.json

writes the repository's example. It refuses to write a changed document without a new `VERSION`.
"""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from scoring.contract import Contract, Probabilities, Ranking, RequestTypes, read_contract
from scoring.http.problems import ProblemDetails
from scoring.settings import Limits

VERSION = "2.2"
"""Version of the HTTP API. Raise it with every change of the document: the major part if the change breaks clients."""

_JSON = "application/json"
_PROBLEMS = {
    "400": "The request does not follow this document; part, row, field and reason say where and why.",
    "406": "Accept excludes application/json.",
    "408": "The head or the body did not arrive in time.",
    "413": "Too many bytes, after inflation too, or too many rows.",
    "415": "Not application/json, or encoded otherwise than with gzip.",
    "431": "Too many or too large headers or trailers, or a body in too many small chunks.",
    "500": "An error of the service, or of the router.",
    "501": "A Transfer-Encoding other than chunked.",
    "503": "Overloaded, starting or stopping; from the router: all replicas are busy. Obey Retry-After.",
}
# MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md, "HTTP status codes":
# 500, 502, 503 and 504 of Kubernetes endpoints; 401 and 404 are in its table of managed ones, and both kinds take
# keys and tokens (how-to-authenticate-online-endpoint.md). Neither page defines a body.
_ROUTER = {
    "401": "The key or token is missing, wrong or expired.",
    "404": "No such endpoint, or none of its deployments gets traffic.",
    "502": "The replica was lost while it worked on the request. Try again.",
    "504": "No answer within the deployment's request timeout, 5 s unless set. Send fewer rows, or try again.",
}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key or token of the endpoint, which Azure ML's router checks (auth_mode key or aml_token).",
}
_ROUTED = [
    {
        "url": "{router}/api/v1/endpoint/{endpoint}",
        "description": "The endpoint's scoring URI without /score; Azure ML's router passes this one route on.",
        "variables": {
            "router": {"default": "https://localhost", "description": "The router's scheme and host."},
            "endpoint": {"default": "click", "description": "The endpoint's name."},
        },
    }
]
_REPLICA = [
    {
        "url": "http://{replica}:5001",
        "description": "One replica, from within the cluster.",
        "variables": {"replica": {"default": "localhost", "description": "The pod's address."}},
    }
]
_TRACEPARENT = {
    "description": "W3C trace context. The answer has it too, and the log line of a refused request has its trace id.",
    "schema": {"type": "string"},
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


class VersionError(ValueError):
    """The document differs from the published one, but has the same version."""


def document(contract: Contract, types: RequestTypes) -> dict[str, Any]:
    """Return the OpenAPI document of `contract`; `types` are the types that decode its requests."""
    messages = (types.rows_request, types.rank_request, Probabilities, Ranking, ProblemDetails)
    references, schemas = msgspec.json.schema_components(messages, ref_template="#/components/schemas/{name}")
    _require_a_value(schemas, contract)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Click probability: {contract.dataset}",
            "version": VERSION,
            "description": "Null and absent features are missing values; a row needs one that is not. "
            "A member that appears twice in one object is refused.",
        },
        "servers": _ROUTED,
        "paths": {"/score": {"post": _score_operation(*references)}, **_REPLICA_PATHS},
        "components": {"schemas": schemas, "securitySchemes": {"bearer": _BEARER}},
    }


def _require_a_value(schemas: dict[str, Any], contract: Contract) -> None:
    """State in the request schemas that a row without any value is refused; user and item make a row together."""
    schemas["Row"] |= _has_a_value(contract, ("user", "item", "context"))
    schemas["RankRequest"]["anyOf"] = [
        {"properties": {"user": _has_a_value(contract, ("user", "context"))}},
        {"properties": {"items": {"items": _has_a_value(contract, ("item",))}}},
    ]


def _has_a_value(contract: Contract, sides: Collection[str]) -> dict[str, Any]:
    """Schema of an object in which not every feature of `sides` is null."""
    features = [feature.name for feature in contract.features if feature.side in sides]
    return {"not": {"properties": {name: {"type": "null"} for name in features}}}


def _score_operation(
    rows: dict[str, Any], rank: dict[str, Any], scored: dict[str, Any], ranked: dict[str, Any], problem: dict[str, Any]
) -> dict[str, Any]:
    """`POST /score`. The arguments are references to the schemas of both requests, both answers and of a problem."""
    answer = {
        "description": "Click probabilities, or the best items first.",
        "headers": {"traceparent": _TRACEPARENT},
        "content": {_JSON: {"schema": {"oneOf": [scored, ranked]}}},
    }
    return {
        "operationId": "score",
        "summary": "Score rows, or rank items for a user",
        "parameters": [{"name": "traceparent", "in": "header", **_TRACEPARENT}],
        "requestBody": {
            "description": "May be sent with Content-Encoding: gzip; limits hold after inflation.",
            "required": True,
            "content": {_JSON: {"schema": {"oneOf": [rows, rank]}}},
        },
        "security": [{"bearer": []}],
        "responses": {"200": answer, **dict(sorted(_problem_responses(problem).items()))},
    }


def _problem_responses(problem: dict[str, Any]) -> dict[str, Any]:
    """Error responses by status: those of the service have a body, those of Azure ML's router have none defined."""
    responses: dict[str, Any] = {}
    for status, text in _PROBLEMS.items():
        responses[status] = {"description": text}
        if status == "503":
            responses[status]["headers"] = _RETRY_AFTER
        responses[status]["content"] = {"application/problem+json": {"schema": problem}}
    return responses | {status: {"description": f"From the router: {text}"} for status, text in _ROUTER.items()}


def _get_from_replica(summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"servers": _REPLICA, "get": {"summary": summary, "responses": responses}}


def _response(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


_READY = {
    "type": "object",
    "properties": {
        "ready": {"type": "boolean", "description": "Whether requests are answered."},
        "reason": {"type": ["string", "null"], "description": "Why they are not; null if they are."},
    },
}
_TEXT = {"type": "string"}
_REPLICA_PATHS = {
    "/live": _get_from_replica("Whether the process runs", {"200": _response("It runs.", "text/plain", _TEXT)}),
    "/ready": _get_from_replica(
        "Whether the service is ready to answer requests",
        {
            "200": _response("The service is ready.", _JSON, _READY),
            "503": _response("The service is not ready; reason says why.", _JSON, _READY),
        },
    ),
    "/metrics": _get_from_replica(
        "Prometheus metrics", {"200": _response("Metrics in the format of Prometheus.", "text/plain", _TEXT)}
    ),
    "/openapi.json": _get_from_replica(
        "This document, as the replica serves it", {"200": _response("OpenAPI 3.1.", _JSON, {})}
    ),
}
"""Paths that only a replica serves; Azure ML's router does not pass them on."""


def publish(contract: Contract, file: Path) -> None:
    """Write the document to `file`. Raises `VersionError` if it changed under the version that `file` has."""
    made = document(contract, RequestTypes(contract, Limits()))
    if file.exists():
        published = msgspec.json.decode(file.read_bytes())
        if published != made and published["info"]["version"] == VERSION:
            raise VersionError(f"{file.name} differs under version {VERSION}: raise VERSION in scoring/openapi.py")
    file.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


if __name__ == "__main__":
    try:
        publish(read_contract(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))
    except VersionError as error:
        sys.exit(str(error))
