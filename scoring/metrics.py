"""What Prometheus reads: outcomes, latency, rows, readiness."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    media_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: str, model: str, ready: Callable[[], bool]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("scoring_model", "What is served.", registry=self._registry).info({"engine": engine, "model": model})
        Gauge("scoring_ready", "1 while requests are answered.", registry=self._registry).set_function(ready)
        self.rows = Counter("scoring_rows", "Rows scored.", registry=self._registry)
        self._requests = Counter(
            "scoring_requests", "Requests to /score by status.", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            "scoring_request_seconds", "From first byte read to answer made.", buckets=_SECONDS, registry=self._registry
        )

    def observe(self, status: int, seconds: float) -> None:
        self._requests.labels(status).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)
