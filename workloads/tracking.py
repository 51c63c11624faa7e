"""What MLflow is told of a training or a tuning: parameters, metrics by step, files, and the runs below a run.

Decides nothing, and is nobody's only record: what is told here is in the artefact or the evidence as well. A thread of
its own tells it, in order, so that no request delays the work. The first fault ends the telling, and `run` says at its
end, in one line, all that was not told. Which server is told is MLflow's own setting, that of the Databricks runtime
or `MLFLOW_TRACKING_URI`. The one module that needs MLflow's client, and that only where an experiment is given.
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
"""In all, for a server that does not answer; MLflow itself would wait for minutes."""
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each trial, in between its own
}
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE = 1_000, 100  # what the service takes
_PARAMETER_MAX = 500
_NAMED_MAX = 8


class _Teller:
    """Does what it is asked one after the other, until something fails."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        self.fault = ""
        self.untold: list[str] = []
        self._asked: Queue[tuple[str, Callable[[], None]] | Event] = Queue()
        Thread(target=self._work, name="tracking", daemon=True).start()

    def tell(self, what: str, request: Callable[[], None]) -> None:
        self.untold.append(what)
        self._asked.put((what, request))

    def mark(self) -> Event:
        """Set once all that was asked for until now is told, or has failed."""
        mark = Event()
        self._asked.put(mark)
        return mark

    def wait(self, mark: Event, seconds: float) -> None:
        if not mark.wait(max(0.0, seconds)):
            self.fault = self.fault or f"no answer within {WAIT_SECONDS:.0f} s"

    def _work(self) -> None:
        while True:
            asked = self._asked.get()
            if isinstance(asked, Event):
                asked.set()
                continue
            what, request = asked
            if self.fault:
                continue
            try:
                request()
                self.untold.remove(what)
            except Exception as fault:  # whatever it is, it is no reason to stop the work
                said = str(fault).strip().splitlines() or [""]
                # An address may hold a password.
                told = re.sub(r"//[^/@\s]*@", "//", f"{type(fault).__name__}: {said[0]}")
                self.fault = self.fault or (told if len(told) <= 300 else f"{told[:299]}…")

    @cached_property
    def client(self) -> Any:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        return MlflowClient()

    @cached_property
    def experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        return found.experiment_id if found else self.client.create_experiment(self.experiment)


class Run:
    """A run of MLflow. Whatever it is told it takes at once; without a teller it does nothing."""

    def __init__(self, teller: _Teller | None = None, name: str = "", parent: "Run | None" = None) -> None:
        self._teller = teller
        self._name = name
        self._parent = parent
        self._id = ""
        self._tell("the run itself", self._begin)
        self._since = time.monotonic()
        self._begun = teller.mark() if teller else Event()

    @property
    def on(self) -> bool:
        return self._teller is not None and not self._teller.fault

    @property
    def id(self) -> str:
        """MLflow's, which the server has had `WAIT_SECONDS` since the beginning to give; empty where there is none."""
        if self._teller:
            self._teller.wait(self._begun, self._since + WAIT_SECONDS - time.monotonic())
        return self._id

    def parameters(self, values: Mapping[str, Any]) -> None:
        texts = [(name, _text(value)) for name, value in _flat(values, lists=False)]

        def send() -> None:
            from mlflow.entities import Param

            for some in _parts(texts, _PARAMETERS_AT_ONCE):
                self._client.log_batch(self._id, params=[Param(name, value) for name, value in some])

        self._tell("parameters", send)

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Every number of `values`, `{"a": {"b": [1]}}` as `a/b/0`."""
        numbers = {name: [value] for name, value in _flat(values) if type(value) in (int, float)}
        self._send_metrics("metrics", numbers)

    def by_step(self, values: Mapping[str, Sequence[float]]) -> None:
        self._send_metrics("metrics by step", values)

    def file(self, path: Path) -> None:
        self._tell(path.name, lambda: self._client.log_artifact(self._id, str(path)))

    def end(self, succeeded: bool) -> None:
        status = "FINISHED" if succeeded else "FAILED"
        self._tell("its end", lambda: self._client.set_terminated(self._id, status))

    def child(self, name: str) -> "Run":
        return Run(self._teller, name, self)

    @property
    def _client(self) -> Any:
        assert self._teller is not None
        return self._teller.client

    def _tell(self, what: str, request: Callable[[], None]) -> None:
        if self._teller:
            self._teller.tell(f"{self._name}: {what}" if self._parent else what, request)

    def _begin(self) -> None:
        assert self._teller is not None
        tags = {"mlflow.parentRunId": self._parent._id} if self._parent else {}
        made = self._client.create_run(self._teller.experiment_id, tags=tags, run_name=self._name)
        self._id = made.info.run_id

    def _send_metrics(self, what: str, values: Mapping[str, Sequence[float]]) -> None:
        now = int(time.time() * 1000)
        every = [(name, float(value), step) for name, of in values.items() for step, value in enumerate(of)]

        def send() -> None:
            from mlflow.entities import Metric

            for some in _parts(every, _METRICS_AT_ONCE):
                self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value, step in some])

        self._tell(what, send)


OFF = Run()


@contextmanager
def run(experiment: str, name: str) -> Iterator[Run]:
    """A run of this MLflow experiment, which is made if it is not there; without one, nothing is told.

    Ends as the block does, `WAIT_SECONDS` later at most, and says what was not told.
    """
    teller = _Teller(experiment) if experiment else None
    begun = Run(teller, name)
    succeeded = False
    try:
        yield begun
        succeeded = True
    finally:
        if teller:
            begun.end(succeeded)
            teller.wait(teller.mark(), 0 if teller.fault else WAIT_SECONDS)
            told = f"MLflow run {begun.id} of experiment {experiment}"
            print(_said(list(teller.untold), teller.fault) if teller.fault else told, flush=True)


def _parts(every: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (every[start : start + size] for start in range(0, len(every), size))


def _said(untold: Sequence[str], fault: str) -> str:
    named = ", ".join(untold[:_NAMED_MAX])
    more = f" and {len(untold) - _NAMED_MAX} more" if len(untold) > _NAMED_MAX else ""
    return f"not logged to MLflow: {named}{more} ({fault}). Nothing else depends on it."


def _flat(value: Any, name: str = "", *, lists: bool = True) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        parts = ((str(key), part) for key, part in value.items())
    elif lists and isinstance(value, list | tuple):
        parts = ((str(place), part) for place, part in enumerate(value))
    else:
        yield name, value
        return
    for key, part in parts:
        yield from _flat(part, f"{name}/{metric_name(key)}" if name else metric_name(key), lists=lists)


def metric_name(key: str) -> str:
    """One level of a name as MLflow takes it: what else may stand in a value of the data becomes its code point."""
    if not key.strip("."):  # as in paths, these would be no names
        return f"_{key}_"
    return re.sub(r"[^A-Za-z0-9_.\- ]", lambda found: f"_{ord(found[0]):x}_", key)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:_PARAMETER_MAX]
