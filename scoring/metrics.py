"""Prometheus metrics: outcomes, latency, rows, missing values and readiness, labelled with the engine and the model."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from scoring.contract import Row

_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_NAMES = ("engine", "model")


class Metrics(Collector):
    """Metrics of one service, counted in plain attributes.

    prometheus_client's own counters take a lock on every update, several times per request. This service counts on one
    thread and needs none.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: str, model: str, features: Sequence[str], ready: Callable[[], bool]) -> None:
        self.missing = MissingValues(features, (engine, model))
        self.rows = 0
        self._served = (engine, model)
        self._ready = ready
        self._by_status: dict[int, int] = defaultdict(int)
        self._within = [0] * (len(_SECONDS) + 1)
        self._seconds = 0.0
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def observe(self, status: int, seconds: float) -> None:
        self.count(status)
        self._within[bisect_left(_SECONDS, seconds)] += 1
        self._seconds += seconds

    def count(self, status: int) -> None:
        self._by_status[status] += 1

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self.missing.collect()
        ready = GaugeMetricFamily("scoring_ready", "1 while requests are answered.", labels=_NAMES)
        ready.add_metric(self._served, self._ready())
        yield ready
        rows = CounterMetricFamily("scoring_rows", "Rows scored.", labels=_NAMES)
        rows.add_metric(self._served, self.rows)
        yield rows
        description = "Requests to /score and refused requests, by status."
        requests = CounterMetricFamily("scoring_requests", description, labels=[*_NAMES, "status"])
        for status, count in sorted(self._by_status.items()):
            requests.add_metric([*self._served, str(status)], count)
        yield requests
        description = "Seconds from the arrival of a request's head to its answer."
        seconds = HistogramMetricFamily("scoring_request_seconds", description, labels=_NAMES)
        bounds = [*map(str, _SECONDS), "+Inf"]
        seconds.add_metric(self._served, list(zip(bounds, accumulate(self._within), strict=True)), self._seconds)
        yield seconds


class MissingValues:
    """Share of missing values by feature, sampled from one row per request.

    Counting every row of a request would cost more than scoring it.
    """

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
