"""Log trainings and tunings to MLflow: parameters, metrics by step, files and nested runs.

A background thread sends the requests in order, so that none delays the training. After the first error nothing more is
sent; on exit `run` prints one line listing the requests that were not sent. MLflow's own setting selects the server:
the one of the Databricks runtime, or `MLFLOW_TRACKING_URI`.

Nothing reads from MLflow, and everything logged is in the artefact or the tuning's evidence, too. This is the only
module that uses MLflow's client, and it imports it only if an experiment is given.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any

WAIT_SECONDS = 10.0
"""Total wait for a server that does not answer; MLflow itself would wait for minutes."""
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # otherwise two lines per trial in its output
}
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE = 1_000, 100  # the service's limits
_PARAMETER_MAX = 500
_NAMED_MAX = 8


class _Sender:
    """Sends requests one after the other on a background thread, until one fails."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        self.fault = ""
        self.pending: list[str] = []
        self._queue: Queue[tuple[str, Callable[[], None]] | Event] = Queue()
        Thread(target=self._work, name="tracking", daemon=True).start()

    def send(self, title: str, request: Callable[[], None]) -> None:
        """Queue a request. `title` names it in the message about requests that failed."""
        self.pending.append(title)
        self._queue.put((title, request))

    def mark(self) -> Event:
        """Return an event that is set once all requests queued so far were sent, or have failed."""
        mark = Event()
        self._queue.put(mark)
        return mark

    def wait(self, mark: Event, seconds: float) -> None:
        if not mark.wait(max(0.0, seconds)):
            self.fault = self.fault or f"no answer within {WAIT_SECONDS:.0f} s"

    def _work(self) -> None:
        while True:
            entry = self._queue.get()
            if isinstance(entry, Event):
                entry.set()
                continue
            title, request = entry
            if self.fault:
                continue
            try:
                request()
                self.pending.remove(title)
            except Exception as fault:  # no failure of MLflow may stop a training
                first_line = (str(fault).strip().splitlines() or [""])[0]
                # An address may hold a password.
                message = re.sub(r"//[^/@\s]*@", "//", f"{type(fault).__name__}: {first_line}")
                self.fault = self.fault or (message if len(message) <= 300 else f"{message[:299]}…")

    @cached_property
    def client(self) -> Any:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        return MlflowClient()

    @cached_property
    def experiment_id(self) -> str:
        experiment = self.client.get_experiment_by_name(self.experiment)
        return experiment.experiment_id if experiment else self.client.create_experiment(self.experiment)


class Run:
    """A run in MLflow. All methods that log return immediately; without a sender they do nothing."""

    def __init__(self, sender: _Sender | None = None, name: str = "", parent: "Run | None" = None) -> None:
        self._sender = sender
        self._name = name
        self._parent = parent
        self._id = ""
        self._send("creation of the run", self._create)
        self._since = time.monotonic()
        self._created = sender.mark() if sender else Event()

    @property
    def on(self) -> bool:
        return self._sender is not None and not self._sender.fault

    @property
    def id(self) -> str:
        """MLflow's id of the run; empty if the server returned none within `WAIT_SECONDS` of the request."""
        if self._sender:
            self._sender.wait(self._created, self._since + WAIT_SECONDS - time.monotonic())
        return self._id

    def parameters(self, values: Mapping[str, Any]) -> None:
        texts = [(name, _text(value)) for name, value in _flat(values, lists=False)]

        def send() -> None:
            from mlflow.entities import Param

            for batch in _batches(texts, _PARAMETERS_AT_ONCE):
                self._client.log_batch(self._id, params=[Param(name, value) for name, value in batch])

        self._send("parameters", send)

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Log every number in `values`: `{"a": {"b": [1]}}` as `a/b/0`."""
        numbers = {name: [value] for name, value in _flat(values) if type(value) in (int, float)}
        self._send_metrics("metrics", numbers)

    def by_step(self, values: Mapping[str, Sequence[float]]) -> None:
        """Log series by name; the index of a value is its step."""
        self._send_metrics("metrics by step", values)

    def file(self, path: Path) -> None:
        self._send(path.name, lambda: self._client.log_artifact(self._id, str(path)))

    def end(self, succeeded: bool) -> None:
        status = "FINISHED" if succeeded else "FAILED"
        self._send("end of the run", lambda: self._client.set_terminated(self._id, status))

    def child(self, name: str) -> "Run":
        return Run(self._sender, name, self)

    @property
    def _client(self) -> Any:
        assert self._sender is not None
        return self._sender.client

    def _send(self, title: str, request: Callable[[], None]) -> None:
        if self._sender:
            self._sender.send(f"{self._name}: {title}" if self._parent else title, request)

    def _create(self) -> None:
        assert self._sender is not None
        tags = {"mlflow.parentRunId": self._parent._id} if self._parent else {}
        created = self._client.create_run(self._sender.experiment_id, tags=tags, run_name=self._name)
        self._id = created.info.run_id

    def _send_metrics(self, title: str, values: Mapping[str, Sequence[float]]) -> None:
        now = int(time.time() * 1000)
        numbers = [(name, float(value), step) for name, series in values.items() for step, value in enumerate(series)]

        def send() -> None:
            from mlflow.entities import Metric

            for batch in _batches(numbers, _METRICS_AT_ONCE):
                self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value, step in batch])

        self._send(title, send)


OFF = Run()


@contextmanager
def run(experiment: str, name: str) -> Iterator[Run]:
    """Create a run in this MLflow experiment, and the experiment if it does not exist; empty: log nothing.

    The run's status is that of the block: failed after an exception. Leaving the block takes at most `WAIT_SECONDS`
    longer, and prints the run's id or a list of failed requests.
    """
    sender = _Sender(experiment) if experiment else None
    new = Run(sender, name)
    succeeded = False
    try:
        yield new
        succeeded = True
    finally:
        if sender:
            new.end(succeeded)
            sender.wait(sender.mark(), 0 if sender.fault else WAIT_SECONDS)
            logged = f"MLflow run {new.id} of experiment {experiment}"
            print(_not_logged(list(sender.pending), sender.fault) if sender.fault else logged, flush=True)


def _batches(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))


def _not_logged(pending: Sequence[str], fault: str) -> str:
    named = ", ".join(pending[:_NAMED_MAX])
    more = f" and {len(pending) - _NAMED_MAX} more" if len(pending) > _NAMED_MAX else ""
    return f"not logged to MLflow: {named}{more} ({fault}). Nothing else depends on it."


def _flat(value: Any, name: str = "", *, lists: bool = True) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        parts = ((str(key), part) for key, part in value.items())
    elif lists and isinstance(value, list | tuple):
        parts = ((str(index), part) for index, part in enumerate(value))
    else:
        yield name, value
        return
    for key, part in parts:
        yield from _flat(part, f"{name}/{metric_name(key)}" if name else metric_name(key), lists=lists)


def metric_name(key: str) -> str:
    """Return one level of a metric's name; characters that MLflow refuses are replaced by their code points."""
    if not key.strip("."):  # MLflow refuses empty names, `.` and `..`, as in paths
        return f"_{key}_"
    return re.sub(r"[^A-Za-z0-9_.\- ]", lambda match: f"_{ord(match[0]):x}_", key)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:_PARAMETER_MAX]
