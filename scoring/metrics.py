"""What Prometheus reads: outcomes, latency, rows, missing values and readiness, each with its engine and model."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from scoring.contract import Row

_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_NAMES = ("engine", "model")


class Metrics:
    media_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: str, model: str, features: Sequence[str], ready: Callable[[], bool]) -> None:
        self._served = (engine, model)
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.missing = MissingValues(features, self._served)
        registry.register(self.missing)
        Gauge("scoring_ready", "1 while requests are answered.", _NAMES, registry=registry).labels(
            *self._served
        ).set_function(ready)
        self.rows = Counter("scoring_rows", "Rows scored.", _NAMES, registry=registry).labels(*self._served)
        self._requests = Counter(
            "scoring_requests", "Requests to /score, and what was refused before, by status.", [*_NAMES, "status"],
            registry=registry,
        )  # fmt: skip
        self._by_status: dict[int, Counter] = {}
        self._seconds = Histogram(
            "scoring_request_seconds", "From a head's arrival to its answer.", _NAMES, buckets=_SECONDS,
            registry=registry,
        ).labels(*self._served)  # fmt: skip

    def observe(self, status: int, seconds: float) -> None:
        self.count(status)
        self._seconds.observe(seconds)

    def count(self, status: int) -> None:
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._requests.labels(*self._served, str(status))
        counter.inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class MissingValues(Collector):
    """Share of missing values by feature, from one row of each request: all of them would cost more than scoring."""

    def __init__(self, features: Sequence[str], served: tuple[str, str]) -> None:
        self._features = features
        self._served = served
        self._rows = 0
        self._missing = [0] * len(features)

    def sample(self, row: Row) -> None:
        self._rows += 1
        if None in row:
            for place, value in enumerate(row):
                if value is None:
                    self._missing[place] += 1

    def collect(self) -> Iterator[Metric]:
        rows = CounterMetricFamily("scoring_sampled_rows", "The first row of each answered request.", labels=_NAMES)
        rows.add_metric(self._served, self._rows)
        yield rows
        missing = CounterMetricFamily("scoring_missing", "Sampled rows without a value.", labels=[*_NAMES, "feature"])
        for feature, count in zip(self._features, self._missing, strict=True):
            missing.add_metric([*self._served, feature], count)
        yield missing
