"""Looks after one LightGBM fit: ends it as soon as it cannot succeed any more.

Without it, Spark starts the task of a lost worker again, which the ring no longer takes, while the other workers may
hold their cores and wait without a limit. Never fits again: whoever runs the job decides that.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from uuid import uuid4

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkContext

from workloads.errors import WorkloadError

POLL_SECONDS = 1.0
STALL_SECONDS = 300.0
"""Rows are spread evenly, so executors end their parts of a job at about the same time."""
SETTLE_SECONDS = 45.0
"""A worker that waits in native code does not hear that its task is over; Spark's task reaper ends its executor."""
_GROUP_PROPERTIES = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")


@contextmanager
def over_fit(context: SparkContext) -> Iterator[None]:
    """A lost executor, a failed task or a stall inside the block becomes a `WorkloadError`.

    The fit is given up `POLL_SECONDS` (a stall: `STALL_SECONDS`) after Spark knows, which of a machine that vanishes
    without a word it does after `spark.network.timeout`. Then it may take `SETTLE_SECONDS` until the others are free.
    """
    group, ended, given_up = f"fit-{uuid4()}", Event(), list[str]()
    lost_before = _lost_executors(context)
    properties = {name: context.getLocalProperty(name) for name in _GROUP_PROPERTIES}
    context.setJobGroup(group, "LightGBM fit", interruptOnCancel=True)

    def watch() -> None:
        stall = Stall()
        while not ended.wait(POLL_SECONDS):
            if reason := _failure(context, group) or stall.found(time.monotonic(), *_running(context, group)):
                given_up.append(reason)
                context.cancelJobGroup(group)
                return

    watcher = Thread(target=watch, name=group, daemon=True)
    watcher.start()
    try:
        yield
    except Py4JJavaError as fault:
        if fault.java_exception.getClass().getName() != "org.apache.spark.SparkException":
            raise
        # First, because executors that the reaper ends are lost as well.
        loss = _loss(context, lost_before)
        _settle(context, group)
        reason = loss or _loss(context, lost_before) or (given_up or [_first_line(fault)])[0]
        raise WorkloadError(
            f"the fit was given up: {reason}. LightGBM's ring can neither lose nor repeat a worker. No model was made "
            "and nothing was written: run again. A worker that is lost again most often lacks memory outside its heap."
        ) from fault
    finally:
        ended.set()
        watcher.join()
        for name, value in properties.items():
            context.setLocalProperty(name, value)


@dataclass
class Stall:
    """Whether some executors have long ended their part of a job while others are still in theirs.

    So it looks when one worker left the ring in order, after a fault of its own, and another waits for its rows.
    """

    _job: int | None = None
    _worked: set[str] = field(default_factory=set)
    _since: float | None = None

    def found(self, now: float, job: int | None, running: Mapping[str, int]) -> str:
        """`running`: tasks by executor. Empty while all is well."""
        busy = {executor for executor, tasks in running.items() if tasks}
        if job != self._job:
            self._job, self._worked, self._since = job, set(), None
        self._worked |= busy
        if not busy or busy == self._worked:
            self._since = None
            return ""
        self._since = now if self._since is None else self._since
        if now - self._since < STALL_SECONDS:
            return ""
        return f"{', '.join(sorted(busy))} still works {STALL_SECONDS:.0f} s after other executors were done"


def _failure(context: SparkContext, group: str) -> str:
    """Of any task of the group that has failed, for whatever reason."""
    tracker = context.statusTracker()
    for job in tracker.getJobIdsForGroup(group):
        for stage in found.stageIds if (found := tracker.getJobInfo(job)) else ():
            state = tracker.getStageInfo(stage)
            if state and (state.numFailedTasks or state.currentAttemptId):
                return f"a task of stage {stage} ({state.name}) failed, and the log of its executor says why"
    return ""


def _running(context: SparkContext, group: str) -> tuple[int | None, dict[str, int]]:
    """The group's last job, and the number of tasks that each executor is in."""
    executors = context._jsc.sc().statusTracker().getExecutorInfos()
    job = max(context.statusTracker().getJobIdsForGroup(group), default=None)
    return job, {f"executor at {e.host()}:{e.port()}": e.numRunningTasks() for e in executors}


def _settle(context: SparkContext, group: str) -> None:
    """Waits for the tasks that are left, so that the next fit does not find their cores taken."""
    until = time.monotonic() + SETTLE_SECONDS
    while any(_running(context, group)[1].values()) and time.monotonic() < until:
        time.sleep(0.1)


def _loss(context: SparkContext, before: Mapping[str, str]) -> str:
    """Which executors were lost since."""
    lost = {name: why for name, why in _lost_executors(context).items() if name not in before}
    return " and ".join(f"executor {name} was lost mid-fit ({why})" for name, why in lost.items())


def _lost_executors(context: SparkContext) -> dict[str, str]:
    """Why, by executor. Spark has no public way to ask; a runtime that answers otherwise only costs the reason."""
    try:
        known = context._jsc.sc().statusStore().executorList(False)
        executors = [known.apply(i) for i in range(known.size())]
        return {e.id(): e.removeReason().getOrElse(None) or "no reason" for e in executors if not e.isActive()}
    except Py4JError:
        return {}


def _first_line(fault: Py4JJavaError) -> str:
    return str(fault.java_exception.getMessage()).splitlines()[0].rstrip(".")
