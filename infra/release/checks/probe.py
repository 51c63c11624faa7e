"""Checks of a deployment before it receives traffic, and again at each step of its rollout.

First the golden rows must return the probabilities that training computed. Then the probe sends the same rows at a
fixed rate to the candidate and to the live deployment, without waiting for answers (an open loop, so that a stall
counts against every request that was due in it). It posts to the scoring URI, because the SDK's `invoke` keeps headers
of earlier calls in its class. Does not measure requests of users: alerts do.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypedDict

import httpx

TOLERANCE = 1e-9
"""Largest difference between a returned probability and the one that training computed for the same row."""
SLOWER = 1.5
"""A candidate is never too slow if its p99 is within this multiple of the live deployment's, which cancels a long way
over the network."""
_BATCH = 50
_AT_ONCE = 32
_TIMEOUT = 30.0  # seconds
_ANSWER_CHARACTERS = 120
"""Length of an answer in a message."""
_FAILURE_KINDS = 3
"""Number of failures that a message names."""


class GoldenRow(TypedDict):
    row: Mapping[str, object]
    probability: float
    """The one that training computed."""


class CheckFailed(Exception):
    """The deployment failed a check; the message holds its figures."""


@dataclass(frozen=True)
class Limits:
    """Limits of `release:` under the names that they have in the state.

    `drift_max` is `release:prediction_shift_max`; the other names are equal.
    """

    error_share_max: float
    p99_ms_max: float
    probe_rps: float
    probe_seconds: float
    drift_max: float | None = None
    """None if a person chose the model, as in a rollback: its probabilities may differ. Pulumi drops such an input."""


@dataclass(frozen=True)
class ProbeResult:
    """Measurements of the candidate, and of the live deployment where both are compared."""

    requests: int
    error_share: float
    """Share of requests that were not answered with 200."""
    p99_ms: float | None
    """99th percentile of the time from when a request was due to its answer; None without an answer."""
    live_p99_ms: float | None = None
    """The same of the live deployment; None without one, or if it does not accept these rows."""
    drift: float | None = None
    """Prediction shift: mean absolute difference of the two probabilities of a row, as a share of the live mean."""
    failures: dict[str, int] = field(default_factory=dict)
    """Number of failed requests by their answer or error."""


class _Answer(NamedTuple):
    milliseconds: float
    """Time since the request was due."""
    probability: float | None
    """None if the request failed."""
    text: str
    """The status and the beginning of the answer, or the name of a transport error."""


def broken(result: ProbeResult, limits: Limits) -> list[str]:
    """Return a message for each limit that the candidate exceeds."""
    messages = []
    if result.error_share > limits.error_share_max:
        kinds = ", ".join(
            f"{count} times {kind}" for kind, count in Counter(result.failures).most_common(_FAILURE_KINDS)
        )
        messages.append(
            f"{result.error_share:.1%} of {result.requests} requests failed "
            f"(release:error_share_max {limits.error_share_max:g}): {kinds}"
        )
    if result.p99_ms is not None and result.p99_ms > max(limits.p99_ms_max, SLOWER * (result.live_p99_ms or 0)):
        live = f", that of the live deployment {result.live_p99_ms:.0f} ms" if result.live_p99_ms is not None else ""
        messages.append(f"p99 is {result.p99_ms:.0f} ms{live} (release:p99_ms_max {limits.p99_ms_max:g})")
    if result.drift is not None and limits.drift_max is not None and result.drift > limits.drift_max:
        messages.append(
            f"probabilities differ by {result.drift:.1%} from those of the live deployment, on the same rows "
            f"(release:prediction_shift_max {limits.drift_max:g})"
        )
    return messages


class Probe:
    """Checks one model behind one endpoint. A context manager: on exit it closes the connections to the endpoint."""

    def __init__(self, scoring_uri: str, key: str, model: str, golden: Sequence[GoldenRow], limits: Limits) -> None:
        self._uri, self._model, self._golden, self._limits = scoring_uri, model, golden, limits
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check(self, deployment: str, live: str | None, *, takes_all: bool, measured: bool = True) -> ProbeResult:
        """Replay the golden rows on `deployment`, then measure it next to `live`. Raises `CheckFailed`.

        takes_all: it has all traffic, so the rows are replayed on the route of users. Before, another model with
            another contract may answer there.
        measured: False to replay only; the result then has no requests.
        """
        self._replay(None if takes_all else deployment)
        if not measured:
            return ProbeResult(requests=0, error_share=0, p99_ms=None)
        result = self._measure(deployment, live)
        if reasons := broken(result, self._limits):
            raise CheckFailed("; ".join(reasons))
        return result

    def _replay(self, deployment: str | None) -> None:
        for start in range(0, len(self._golden), _BATCH):
            batch = self._golden[start : start + _BATCH]
            answer = self._post([line["row"] for line in batch], deployment)
            if answer.status_code != 200:
                raise CheckFailed(
                    f"golden rows {start}-{start + len(batch) - 1}: HTTP {answer.status_code} {answer.text}"
                )
            if answer.json()["model"] != self._model:
                raise CheckFailed(f"golden rows were answered by {answer.json()['model']}, not by {self._model}")
            for number, (line, served) in enumerate(zip(batch, answer.json()["probabilities"], strict=True), start):
                if not abs(line["probability"] - served) <= TOLERANCE:
                    raise CheckFailed(
                        f"golden row {number}: served {served!r}, training computed {line['probability']!r}"
                    )

    def _measure(self, deployment: str, live: str | None) -> ProbeResult:
        """Send the rows at the fixed rate, to both deployments at the same times."""
        names = [deployment, *([live] if live else [])]
        began = time.monotonic()

        def send(number: int, name: str) -> _Answer:
            due = began + number / self._limits.probe_rps
            time.sleep(max(0.0, due - time.monotonic()))
            probability, text = self._score(self._golden[number % len(self._golden)]["row"], name)
            return _Answer(1000 * (time.monotonic() - due), probability, text)

        requests = math.ceil(self._limits.probe_rps * self._limits.probe_seconds)
        due = [(number, name) for number in range(requests) for name in names]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(lambda request: send(*request), due))
        candidate_answers = answers[:: len(names)]
        live_answers = answers[1::2] if live else []
        pairs = [
            (new.probability, old.probability)
            for new, old in zip(candidate_answers, live_answers, strict=bool(live))
            if new.probability is not None and old.probability is not None
        ]
        failures = Counter(answer.text for answer in candidate_answers if answer.probability is None)
        return ProbeResult(
            requests=requests,
            error_share=failures.total() / requests,
            p99_ms=_p99(candidate_answers),
            live_p99_ms=_p99(live_answers),
            drift=sum(abs(new - old) for new, old in pairs) / sum(old for _, old in pairs) if pairs else None,
            failures=dict(failures),
        )

    def _score(self, row: Mapping[str, object], deployment: str) -> tuple[float | None, str]:
        """Return the probability, or None, and the text of the answer."""
        try:
            answer = self._post([row], deployment)
            probability = answer.json()["probabilities"][0] if answer.status_code == 200 else None
            return probability, f"HTTP {answer.status_code} {answer.text[:_ANSWER_CHARACTERS]}"
        except (httpx.TransportError, json.JSONDecodeError) as error:
            return None, type(error).__name__

    def _post(self, rows: Sequence[Mapping[str, object]], deployment: str | None) -> httpx.Response:
        headers = {"azureml-model-deployment": deployment} if deployment else {}
        return self._client.post(self._uri, json={"rows": rows}, headers=headers)


def _p99(answers: Sequence[_Answer]) -> float | None:
    """99th percentile of the successful answers by the nearest-rank method; None without one."""
    times = sorted(answer.milliseconds for answer in answers if answer.probability is not None)
    return times[math.ceil(0.99 * len(times)) - 1] if times else None
