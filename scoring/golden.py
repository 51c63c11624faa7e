"""Check that the engine reproduces the probabilities that training computed, before the service becomes ready.

The check is the warm-up too: golden rows go through the same parser and engine as the rows of a request.
"""

import msgspec

from scoring.artefact import Artefact, ArtefactError
from scoring.engines import Engine
from scoring.http.parsing import RequestParser
from scoring.http.problems import Problem

TOLERANCE = 1e-9


async def replay(artefact: Artefact, parser: RequestParser, engine: Engine) -> int:
    """Score the golden rows and return their number.

    Raises `ArtefactError` with the number of the first row that differs by more than `TOLERANCE`; the message never
    holds feature values.
    """
    golden = artefact.golden()
    for number, expected in enumerate(golden):
        try:
            rows = parser.parse(msgspec.json.encode({"rows": [expected.row]})).rows
        except Problem as problem:
            raise ArtefactError(f"golden.jsonl row {number} breaks contract.json: {problem.detail}") from None
        (probability,) = await engine.probabilities(rows)
        if not abs(probability - expected.probability) <= TOLERANCE:
            raise ArtefactError(
                f"golden.jsonl row {number}: this engine gives {probability!r}, training gave {expected.probability!r}"
            )
    return len(golden)
