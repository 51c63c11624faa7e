"""Serving view: the deployments of the endpoint with their traffic, and metrics of the last minutes.

Rate, errors and p99 are from the summary that the scoring service logs each minute (`scoring/summary.py`), read with
Azure ML's log request, which returns the log of one replica. Missing features are from the Prometheus metrics of the
replicas whose addresses this machine can reach. Does not store metrics: alerts and the workbook cover all replicas.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from cli.dashboard.stack_source import EXPECTED_ERRORS, machine_learning, reason
from cli.stacks.lineage import reference

MINUTES = 15
_LOG_LINES = 400
_SECONDS = 5


@dataclass(frozen=True)
class ServingMetrics:
    """Metrics of the last `MINUTES` minutes, as far as summaries were logged."""

    minutes: float
    """Number of minutes with a summary."""
    requests: int
    errors: int
    without_features: int
    p99_ms: float | None
    """The highest p99 of a minute; None without a request."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / (self.minutes * 60) if self.minutes else 0.0


@dataclass(frozen=True)
class DeploymentView:
    name: str
    share: int
    """Percent of the endpoint's traffic."""
    model: str
    image: str
    state: str
    metrics: ServingMetrics | None
    metrics_detail: str
    """Reason why metrics are missing."""
    missing: list[tuple[str, float]]
    """Features with their share (0 to 1) of requests without a value, highest first."""
    missing_detail: str
    """Number of requests that the shares refer to, or the reason why shares are missing."""


@dataclass(frozen=True)
class ServingView:
    endpoint: str
    scoring_uri: str
    state: str
    deployments: list[DeploymentView]


def of(outputs: Mapping[str, Any], replicas: Sequence[str], now: datetime | None = None) -> ServingView:
    """Query the endpoint and its deployments. Raises one of `EXPECTED_ERRORS` if Azure ML does not answer.

    replicas: addresses of Prometheus metrics.
    """
    client = machine_learning(outputs)
    endpoint = client.online_endpoints.get(outputs["endpoint_name"])
    traffic = endpoint.traffic or {}
    missing = _missing(replicas)
    deployments = [
        _deployment(
            client,
            deployment,
            share=traffic.get(deployment.name, 0),
            missing=missing,
            has_addresses=bool(replicas),
            now=now or datetime.now(UTC),
        )
        for deployment in client.online_deployments.list(endpoint.name)
    ]
    deployments.sort(key=lambda deployment: (-deployment.share, deployment.name))
    return ServingView(endpoint.name, endpoint.scoring_uri or "", _text(endpoint.provisioning_state), deployments)


def _deployment(
    client: Any,
    deployment: Any,
    *,
    share: int,
    missing: Mapping[str, "_Missing"],
    has_addresses: bool,
    now: datetime,
) -> DeploymentView:
    metrics, detail = None, ""
    try:
        log = client.online_deployments.get_logs(deployment.name, deployment.endpoint_name, lines=_LOG_LINES)
    except EXPECTED_ERRORS as error:
        detail = f"its log cannot be read: {reason(error)}"
    else:
        metrics = aggregate(summaries(log.splitlines()), now)
        detail = "" if metrics else f"it logged no summary in the last {MINUTES} minutes"
    name, version = reference(deployment.model)
    model = f"{name}:{version}" if version else name or "not recorded"
    of_model = missing.get(model)
    if of_model and of_model.rows:
        missing_detail = f"of {of_model.rows:,.0f} requests since its replicas started"
    elif of_model:
        missing_detail = "no request since its replicas started"
    elif has_addresses:
        missing_detail = "not available: none of its replicas answers"
    else:
        missing_detail = (
            "not available: no address of a replica's metrics is known. If the replicas are inside a cluster, forward "
            "a port (`kubectl port-forward`) and start the dashboard with `--metrics http://127.0.0.1:PORT/metrics`"
        )
    environment, version = reference(deployment.environment)
    return DeploymentView(
        name=deployment.name,
        share=share,
        model=model,
        image=f"{environment}:{version}" if version else environment or "not recorded",
        state=_text(deployment.provisioning_state),
        metrics=metrics,
        metrics_detail=detail,
        missing=of_model.shares() if of_model else [],
        missing_detail=missing_detail,
    )


def _text(state: Any) -> str:
    """Return the value of an SDK's enumeration, whose `str` contains the class."""
    return str(getattr(state, "value", state) or "")


# --- summaries of minutes


def summaries(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the service's summaries from a log with other lines; the platform may add a prefix to each line."""
    for line in lines:
        if '"summary"' not in line:
            continue
        try:
            record = json.loads(line[line.index("{") :])
        except ValueError:  # a truncated line
            continue
        if record.get("message") == "summary":
            yield record


def aggregate(records: Iterable[Mapping[str, Any]], now: datetime) -> ServingMetrics | None:
    """Return the metrics of the last `MINUTES` minutes; None without a summary, which does not mean zero requests."""
    begin = now - timedelta(minutes=MINUTES)
    recent = [line for line in records if datetime.fromisoformat(line["time"]) >= begin]
    if not recent:
        return None
    # A line is written at the end of its minute.
    minutes = {datetime.fromisoformat(line["time"]).replace(second=0, microsecond=0) for line in recent}
    slowest = [line["p99_ms"] for line in recent if line["p99_ms"] is not None]
    return ServingMetrics(
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
    """Requests since the replicas started."""
    by_feature: dict[str, float]

    def shares(self) -> list[tuple[str, float]]:
        if not self.rows:
            return []
        shares = [(feature, count / self.rows) for feature, count in self.by_feature.items()]
        return sorted(shares, key=lambda share: -share[1])


def _missing(replicas: Sequence[str]) -> dict[str, _Missing]:
    """Return the counts by model, summed over the replicas that answer."""
    by_model: dict[str, _Missing] = {}
    for address in replicas:
        try:
            text = httpx.get(address, timeout=_SECONDS).raise_for_status().text
            count(text, by_model)
        except (httpx.HTTPError, ValueError):
            continue
    return by_model


def count(text: str, by_model: dict[str, _Missing]) -> None:
    """Add one replica's metrics to the counts. Raises `ValueError` if the text is not in Prometheus' format."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name not in ("scoring_sampled_rows_total", "scoring_missing_total"):
                continue
            of_model = by_model.setdefault(sample.labels["model"], _Missing(0, {}))
            if sample.name == "scoring_sampled_rows_total":
                of_model.rows += sample.value
            else:
                feature = sample.labels["feature"]
                of_model.by_feature[feature] = of_model.by_feature.get(feature, 0) + sample.value
