"""The deployments behind the endpoint: traffic, and what their own metrics say of the last minutes.

Rate, errors and p99 are of the summary that the scoring service logs each minute (`scoring/summary.py`), read through
Azure ML's own log call: of one replica where several serve. Missing features are of the replicas' Prometheus metrics,
which are seen where their addresses can be reached. Neither is kept: alerts and the workbook look at all of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from cli.dashboard.stack_source import UNANSWERED, machine_learning, reason
from cli.stacks.lineage import reference

MINUTES = 15
_LOG_LINES = 400
_SECONDS = 5


@dataclass(frozen=True)
class Figures:
    """Of the last `MINUTES`, or of as many of them as were logged."""

    minutes: float
    requests: int
    errors: int
    without_features: int
    p99_ms: float | None
    """Of the slowest minute."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / (self.minutes * 60) if self.minutes else 0.0


@dataclass(frozen=True)
class Deployment:
    name: str
    share: int
    model: str
    image: str
    state: str
    figures: Figures | None
    says: str
    """Why there are no figures."""
    missing: list[tuple[str, float]]
    """Features and their share of requests without a value, of the model's replicas; most first."""
    missing_says: str
    """How many requests that is of, or why there is none."""


@dataclass(frozen=True)
class Serving:
    endpoint: str
    scoring_uri: str
    state: str
    deployments: list[Deployment]


def of(outputs: Mapping[str, Any], replicas: Sequence[str], now: datetime | None = None) -> Serving:
    """Raises one of `UNANSWERED` where Azure ML does not answer."""
    client = machine_learning(outputs)
    endpoint = client.online_endpoints.get(outputs["endpoint_name"])
    traffic = endpoint.traffic or {}
    missing = _missing(replicas)
    deployments = [
        _deployment(client, found, traffic.get(found.name, 0), missing, bool(replicas), now or datetime.now(UTC))
        for found in client.online_deployments.list(endpoint.name)
    ]
    deployments.sort(key=lambda deployment: (-deployment.share, deployment.name))
    return Serving(endpoint.name, endpoint.scoring_uri or "", _word(endpoint.provisioning_state), deployments)


def _deployment(
    client: Any, found: Any, share: int, missing: Mapping[str, "_Missing"], asked: bool, now: datetime
) -> Deployment:
    figures, says = None, ""
    try:
        log = client.online_deployments.get_logs(found.name, found.endpoint_name, lines=_LOG_LINES)
    except UNANSWERED as error:
        says = f"its log was not given: {reason(error)}"
    else:
        figures = summed(summaries(log.splitlines()), now)
        says = "" if figures else f"it logged no summary in the last {MINUTES} minutes"
    name, version = reference(found.model)
    served = f"{name}:{version}" if version else name or "not recorded"
    of_model = missing.get(served)
    if of_model and of_model.rows:
        missing_says = f"of {of_model.rows:,.0f} requests since its replicas started"
    elif of_model:
        missing_says = "no request since its replicas started"
    elif asked:
        missing_says = "not available: no replica of it answers"
    else:
        missing_says = (
            "not available: no address of a replica's metrics is known. Where they are inside a cluster, forward one "
            "(`kubectl port-forward`) and open the page with `--metrics http://127.0.0.1:PORT/metrics`"
        )
    environment, version = reference(found.environment)
    return Deployment(
        name=found.name,
        share=share,
        model=served,
        image=f"{environment}:{version}" if version else environment or "not recorded",
        state=_word(found.provisioning_state),
        figures=figures,
        says=says,
        missing=of_model.shares() if of_model else [],
        missing_says=missing_says,
    )


def _word(state: Any) -> str:
    """The SDK's enumerations print their class."""
    return str(getattr(state, "value", state) or "")


# --- the minute's summary


def summaries(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The service's own lines among whatever else a container writes, and a platform writes before each."""
    for line in lines:
        if '"summary"' not in line:
            continue
        try:
            found = json.loads(line[line.index("{") :])
        except ValueError:  # cut off in the middle
            continue
        if found.get("message") == "summary":
            yield found


def summed(found: Iterable[Mapping[str, Any]], now: datetime) -> Figures | None:
    """None where nothing was logged lately: that is no traffic of zero."""
    begin = now - timedelta(minutes=MINUTES)
    recent = [line for line in found if datetime.fromisoformat(line["time"]) >= begin]
    if not recent:
        return None
    # A line is written at the end of its minute.
    minutes = {datetime.fromisoformat(line["time"]).replace(second=0, microsecond=0) for line in recent}
    slowest = [line["p99_ms"] for line in recent if line["p99_ms"] is not None]
    return Figures(
        minutes=len(minutes),
        requests=sum(line["requests"] for line in recent),
        errors=sum(line["errors"] for line in recent),
        without_features=sum(line["without_features"] for line in recent),
        p99_ms=max(slowest, default=None),
    )


# --- missing features


@dataclass
class _Missing:
    rows: float
    by_feature: dict[str, float]

    def shares(self) -> list[tuple[str, float]]:
        if not self.rows:
            return []
        found = [(feature, count / self.rows) for feature, count in self.by_feature.items()]
        return sorted(found, key=lambda one: -one[1])


def _missing(replicas: Sequence[str]) -> dict[str, _Missing]:
    """By model, over its replicas; those that do not answer are left out."""
    found: dict[str, _Missing] = {}
    for address in replicas:
        try:
            text = httpx.get(address, timeout=_SECONDS).raise_for_status().text
            count(text, found)
        except (httpx.HTTPError, ValueError):
            continue
    return found


def count(text: str, found: dict[str, _Missing]) -> None:
    """Add one replica's metrics. Raises `ValueError` for what is not Prometheus' text."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name not in ("scoring_sampled_rows_total", "scoring_missing_total"):
                continue
            of_model = found.setdefault(sample.labels["model"], _Missing(0, {}))
            if sample.name == "scoring_sampled_rows_total":
                of_model.rows += sample.value
            else:
                feature = sample.labels["feature"]
                of_model.by_feature[feature] = of_model.by_feature.get(feature, 0) + sample.value
