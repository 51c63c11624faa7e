"""The OpenAPI 3.1 document of one contract, generated from the types that decode its requests.

    python -m scoring.openapi docs/contract.movielens.json docs/openapi.movielens.json

writes the example that is kept in the repository, and refuses to change it under the version it has.
"""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from scoring.contract import Contract, Probabilities, Ranking, RequestTypes, read_contract
from scoring.http.problems import ProblemDetails
from scoring.settings import Limits

VERSION = "2.1"
"""Version of the HTTP API. Any change of the document needs a new one; one that breaks clients, a new major one."""

_JSON = "application/json"
_PROBLEMS = {
    "400": "The request does not follow this document; part, row, field and reason say where and why.",
    "406": "Accept excludes application/json.",
    "408": "The head or the body did not arrive in time.",
    "413": "Too many bytes, after inflation too, or too many rows.",
    "415": "Not application/json, or encoded otherwise than with gzip.",
    "431": "Too many or too large headers.",
    "500": "An error of the service, or of the router.",
    "501": "A Transfer-Encoding other than chunked.",
    "503": "Overloaded, starting or stopping, or all replicas are busy; see Retry-After.",
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


_READY = {
    "ready": {"type": "boolean", "description": "Whether requests are answered."},
    "reason": {"type": ["string", "null"], "description": "Why they are not; null if they are."},
}


class VersionError(ValueError):
    """The document differs from the one that is published under its version."""


def document(contract: Contract, types: RequestTypes) -> dict[str, Any]:
    requests, answers = (types.rows_request, types.rank_request), (Probabilities, Ranking)
    (rows, rank, scored, ranked, problem), schemas = msgspec.json.schema_components(
        [*requests, *answers, ProblemDetails], ref_template="#/components/schemas/{name}"
    )
    # A row without any value is refused; in a ranking, user and item make the row together.
    schemas["Row"] |= _has_a_value(contract, ("user", "item", "context"))
    schemas["RankRequest"]["anyOf"] = [
        {"properties": {"user": _has_a_value(contract, ("user", "context"))}},
        {"properties": {"items": {"items": _has_a_value(contract, ("item",))}}},
    ]
    retry = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    problems = {
        status: {
            "description": text,
            **({"headers": retry} if status == "503" else {}),
            "content": {"application/problem+json": {"schema": problem}},
        }
        for status, text in _PROBLEMS.items()
    }
    problems |= {status: {"description": f"From the router: {text}"} for status, text in _ROUTER.items()}
    answer = {
        "description": "Click probabilities, or the best items first.",
        "headers": {"traceparent": _TRACEPARENT},
        "content": {_JSON: {"schema": {"oneOf": [scored, ranked]}}},
    }
    ready = {"type": "object", "properties": _READY}
    health = {"content": {_JSON: {"schema": ready}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Click probability: {contract.dataset}",
            "version": VERSION,
            "description": "Null and absent features are missing values; a row needs one that is not. "
            "A member that appears twice in one object is refused.",
        },
        "servers": _ROUTED,
        "paths": {
            "/score": {
                "post": {
                    "operationId": "score",
                    "summary": "Score rows, or rank items for a user",
                    "parameters": [{"name": "traceparent", "in": "header", **_TRACEPARENT}],
                    "requestBody": {
                        "description": "May be sent with Content-Encoding: gzip; limits hold after inflation.",
                        "required": True,
                        "content": {_JSON: {"schema": {"oneOf": [rows, rank]}}},
                    },
                    "security": [{"bearer": []}],
                    "responses": {"200": answer, **dict(sorted(problems.items()))},
                }
            },
            "/live": {"servers": _REPLICA, "get": _plain("Whether the process runs", "It runs.")},
            "/ready": {
                "servers": _REPLICA,
                "get": {
                    "summary": "Whether the service is ready to answer requests",
                    "responses": {
                        "200": {"description": "The service is ready.", **health},
                        "503": {"description": "The service is not ready; reason says why.", **health},
                    },
                },
            },
            "/metrics": {
                "servers": _REPLICA,
                "get": _plain("Prometheus metrics", "Metrics in the format of Prometheus."),
            },
            "/openapi.json": {
                "servers": _REPLICA,
                "get": {
                    "summary": "This document, as the replica serves it",
                    "responses": {"200": {"description": "OpenAPI 3.1.", "content": {_JSON: {"schema": {}}}}},
                },
            },
        },
        "components": {"schemas": schemas, "securitySchemes": {"bearer": _BEARER}},
    }


def _has_a_value(contract: Contract, sides: Collection[str]) -> dict[str, Any]:
    features = [feature.name for feature in contract.features if feature.side in sides]
    return {"not": {"properties": {name: {"type": "null"} for name in features}}}


def _plain(summary: str, success: str) -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {"summary": summary, "responses": {"200": {"description": success, "content": content}}}


def publish(contract: Contract, file: Path) -> None:
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
