"""Before the first answer: does this engine reproduce the probabilities that training computed?

Also the warm-up: the rows go through the same parser and engine as a request.
"""

import msgspec

from scoring.artefact import Artefact, ArtefactError
from scoring.engines import Engine
from scoring.http.parsing import RequestParser
from scoring.http.problems import Problem

TOLERANCE = 1e-9


async def replay(artefact: Artefact, parser: RequestParser, engine: Engine) -> int:
    """Number of rows replayed; `ArtefactError` names the first row that differs, never its values."""
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
