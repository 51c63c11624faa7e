"""The OpenAPI 3.1 document of one contract, generated from the types that decode its requests."""

from typing import Any

import msgspec

from scoring.contract import Contract, Probabilities, Ranking, RequestTypes
from scoring.problems import ProblemDetails

_PROBLEMS = {
    "400": "The request was not understood; names part, row, field and reason.",
    "408": "The body did not arrive in time.",
    "413": "Too many bytes, or too many rows.",
    "415": "Not application/json.",
    "503": "Overloaded, starting or stopping; see Retry-After.",
}


def document(contract: Contract, types: RequestTypes) -> dict[str, Any]:
    requests, answers = (types.rows_request, types.rank_request), (Probabilities, Ranking)
    (rows, rank, scored, ranked, problem), schemas = msgspec.json.schema_components(
        [*requests, *answers, ProblemDetails], ref_template="#/components/schemas/{name}"
    )
    problems = {
        status: {"description": text, "content": {"application/problem+json": {"schema": problem}}}
        for status, text in _PROBLEMS.items()
    }
    answer = {"description": "Click probabilities, or the best items first."}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Click probability: {contract.dataset}",
            "version": contract.contract_version,
            "description": "Null and absent features are missing values. Of a key sent twice, the last counts.",
        },
        "paths": {
            "/score": {
                "post": {
                    "operationId": "score",
                    "summary": "Score rows, or rank items for a user",
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": {"oneOf": [rows, rank]}}},
                    },
                    "responses": {
                        "200": {**answer, "content": {"application/json": {"schema": {"oneOf": [scored, ranked]}}}},
                        **problems,
                    },
                }
            },
            "/live": {"get": {"summary": "The process runs", "responses": {"200": {"description": "It does."}}}},
            "/ready": {
                "get": {
                    "summary": "Requests are answered",
                    "responses": {"200": {"description": "They are."}, "503": {"description": "Not now."}},
                }
            },
        },
        "components": {"schemas": schemas},
    }
