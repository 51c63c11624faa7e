"""What a deployment must show before users reach it, and again at each step of its rollout.

Golden rows come back as training computed them; then the same rows are sent at a fixed rate, whatever the answers take
(an open loop, so that a stall counts against every request that was due in it), to the new deployment and beside it to
the one that serves. Posts to the scoring URI itself: the SDK's `invoke` keeps headers of earlier calls in the class.
Does not judge what users' own requests met; alerts do.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import httpx

TOLERANCE = 1e-9
"""Largest difference between a probability served and the one training computed for the same row."""
SLOWER = 1.5
"""Times what serves: nobody is slow who is within this, such as for being asked from far away."""
_BATCH = 50
_AT_ONCE = 32
_TIMEOUT = 30.0  # seconds
_SAID = 120  # characters of an answer
_KINDS = 3  # of failure that a message names


class CheckFailed(Exception):
    """What the deployment did not do, with its figures."""


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
    """None where the model was chosen by a person, as in a rollback: it may differ as it will. Pulumi leaves it out."""


@dataclass(frozen=True)
class Figures:
    requests: int
    error_share: float
    """Of requests that were not answered 200."""
    p99_ms: float | None
    """99th percentile from when a request was due to its answer; None where nothing was answered."""
    live_p99_ms: float | None = None
    """The same of what serves; None where nothing does, or it does not take these rows."""
    drift: float | None = None
    """Mean absolute difference of the two probabilities of a row, as a share of the mean of what serves."""
    failures: dict[str, int] = field(default_factory=dict)
    """How many requests failed, by what was said to them."""


class _Answer(NamedTuple):
    milliseconds: float
    """From when the request was due."""
    probability: float | None
    """None where the request failed."""
    said: str
    """The status and how the answer begins, or the name of a transport's error."""


def broken(found: Figures, limits: Limits) -> list[str]:
    """The limits it does not keep to, in words."""
    said = []
    if found.error_share > limits.error_share_max:
        kinds = ", ".join(f"{count} times {kind}" for kind, count in Counter(found.failures).most_common(_KINDS))
        said.append(
            f"{found.error_share:.1%} of {found.requests} requests failed "
            f"(release:error_share_max {limits.error_share_max:g}): {kinds}"
        )
    if found.p99_ms is not None and found.p99_ms > max(limits.p99_ms_max, SLOWER * (found.live_p99_ms or 0)):
        beside = f", what serves takes {found.live_p99_ms:.0f} ms" if found.live_p99_ms is not None else ""
        said.append(f"p99 is {found.p99_ms:.0f} ms{beside} (release:p99_ms_max {limits.p99_ms_max:g})")
    if found.drift is not None and limits.drift_max is not None and found.drift > limits.drift_max:
        said.append(
            f"probabilities differ by {found.drift:.1%} from those of what serves, on the same rows "
            f"(release:prediction_shift_max {limits.drift_max:g})"
        )
    return said


class Probe:
    """Checks one model behind one endpoint. A context manager: on exit it closes the connections to the endpoint.

    golden: rows, each with the `probability` that training computed.
    """

    def __init__(
        self, scoring_uri: str, key: str, model: str, golden: Sequence[Mapping[str, Any]], limits: Limits
    ) -> None:
        self._uri, self._model, self._golden, self._limits = scoring_uri, model, golden, limits
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check(self, deployment: str, live: str | None, *, takes_all: bool, measured: bool = True) -> Figures:
        """Replay and measure `deployment` beside `live`; `CheckFailed` if it does not keep to what it must.

        Where it `takes_all` traffic the rows are replayed by the route that users take. Before, that may be answered by
        another model and its contract. Without `measured` there are no requests in the figures.
        """
        self._replay(None if takes_all else deployment)
        if not measured:
            return Figures(requests=0, error_share=0, p99_ms=None)
        found = self._measure(deployment, live)
        if reasons := broken(found, self._limits):
            raise CheckFailed("; ".join(reasons))
        return found

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

    def _measure(self, deployment: str, live: str | None) -> Figures:
        names = [deployment, *([live] if live else [])]
        began = time.monotonic()

        def one(number: int, name: str) -> _Answer:
            due = began + number / self._limits.probe_rps
            time.sleep(max(0.0, due - time.monotonic()))
            probability, said = self._ask(self._golden[number % len(self._golden)]["row"], name)
            return _Answer(1000 * (time.monotonic() - due), probability, said)

        requests = math.ceil(self._limits.probe_rps * self._limits.probe_seconds)
        due = [(number, name) for number in range(requests) for name in names]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(lambda each: one(*each), due))
        of_new = answers[:: len(names)]
        of_live = answers[1::2] if live else []
        pairs = [
            (new.probability, old.probability)
            for new, old in zip(of_new, of_live, strict=bool(live))
            if new.probability is not None and old.probability is not None
        ]
        failures = Counter(answer.said for answer in of_new if answer.probability is None)
        return Figures(
            requests=requests,
            error_share=failures.total() / requests,
            p99_ms=_p99(of_new),
            live_p99_ms=_p99(of_live),
            drift=sum(abs(new - old) for new, old in pairs) / sum(old for _, old in pairs) if pairs else None,
            failures=dict(failures),
        )

    def _ask(self, row: Any, deployment: str) -> tuple[float | None, str]:
        """The probability, or None, and what was said."""
        try:
            answer = self._post([row], deployment)
            probability = answer.json()["probabilities"][0] if answer.status_code == 200 else None
            return probability, f"HTTP {answer.status_code} {answer.text[:_SAID]}"
        except (httpx.TransportError, json.JSONDecodeError) as error:
            return None, type(error).__name__

    def _post(self, rows: list[Any], deployment: str | None) -> httpx.Response:
        headers = {"azureml-model-deployment": deployment} if deployment else {}
        return self._client.post(self._uri, json={"rows": rows}, headers=headers)


def _p99(answers: Sequence[_Answer]) -> float | None:
    """By the nearest-rank method, of what was answered."""
    times = sorted(answer.milliseconds for answer in answers if answer.probability is not None)
    return times[math.ceil(0.99 * len(times)) - 1] if times else None
