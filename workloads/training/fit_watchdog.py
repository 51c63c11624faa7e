"""Watchdog of a LightGBM fit: ends the fit as soon as it can no longer succeed.

LightGBM's ring cannot re-admit a worker. Without the watchdog, Spark restarts the task of a lost worker, which the
ring refuses, while the other workers hold their cores and may wait forever. Does not repeat the fit: the job does.
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
"""Executors have equally many rows, so they finish their tasks of a job at about the same time."""
SETTLE_SECONDS = 45.0
"""A worker blocked in native code does not notice that its task was cancelled; Spark's task reaper then kills its
executor, which takes this long at most."""
_GROUP_PROPERTIES = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")


@contextmanager
def watch_fit(context: SparkContext) -> Iterator[None]:
    """Turn a lost executor, a failed task or a stall inside the block into a `WorkloadError`.

    The fit is cancelled `POLL_SECONDS` (a stall: `STALL_SECONDS`) after Spark notices the fault. Spark notices a
    machine that disappears silently after `spark.network.timeout`. The other workers are free up to `SETTLE_SECONDS`
    later.
    """
    group, ended, cancel_reasons = f"fit-{uuid4()}", Event(), list[str]()
    lost_before = _lost_executors(context)
    properties = {name: context.getLocalProperty(name) for name in _GROUP_PROPERTIES}
    context.setJobGroup(group, "LightGBM fit", interruptOnCancel=True)

    def watch() -> None:
        stall = Stall()
        while not ended.wait(POLL_SECONDS):
            if reason := _failure(context, group) or stall.check(time.monotonic(), *_running(context, group)):
                cancel_reasons.append(reason)
                context.cancelJobGroup(group)
                return

    watcher = Thread(target=watch, name=group, daemon=True)
    watcher.start()
    try:
        yield
    except Py4JJavaError as fault:
        if fault.java_exception.getClass().getName() != "org.apache.spark.SparkException":
            raise
        # Before `_settle`: executors that the reaper kills count as lost, too.
        loss = _loss(context, lost_before)
        _settle(context, group)
        reason = loss or _loss(context, lost_before) or (cancel_reasons or [_first_line(fault)])[0]
        raise WorkloadError(
            f"the fit was cancelled: {reason}. LightGBM can neither lose nor restart a worker during a fit. No model "
            "was made and nothing was written: run again. A worker that is lost repeatedly usually lacks memory "
            "outside its heap."
        ) from fault
    finally:
        ended.set()
        watcher.join()
        for name, value in properties.items():
            context.setLocalProperty(name, value)


@dataclass
class Stall:
    """Detects that some executors finished their tasks of a job long ago while others are still running theirs.

    This is the symptom of a worker that left the ring cleanly after an error while another still waits for its data.
    """

    _job: int | None = None
    _participants: set[str] = field(default_factory=set)
    _since: float | None = None

    def check(self, now: float, job: int | None, running: Mapping[str, int]) -> str:
        """Return a description of the stall; empty if there is none.

        now: seconds of a monotonic clock. running: number of tasks by executor.
        """
        busy = {executor for executor, tasks in running.items() if tasks}
        if job != self._job:
            self._job, self._participants, self._since = job, set(), None
        self._participants |= busy
        if not busy or busy == self._participants:
            self._since = None
            return ""
        self._since = now if self._since is None else self._since
        if now - self._since < STALL_SECONDS:
            return ""
        return f"{', '.join(sorted(busy))} still works {STALL_SECONDS:.0f} s after other executors finished"


def _failure(context: SparkContext, group: str) -> str:
    """Return a description of a failed task of the group; empty if none has failed."""
    tracker = context.statusTracker()
    for job in tracker.getJobIdsForGroup(group):
        for stage in info.stageIds if (info := tracker.getJobInfo(job)) else ():
            state = tracker.getStageInfo(stage)
            if state and (state.numFailedTasks or state.currentAttemptId):
                return f"a task of stage {stage} ({state.name}) failed; the log of its executor has the cause"
    return ""


def _running(context: SparkContext, group: str) -> tuple[int | None, dict[str, int]]:
    """Return the id of the group's last job and the number of running tasks by executor."""
    executors = context._jsc.sc().statusTracker().getExecutorInfos()
    job = max(context.statusTracker().getJobIdsForGroup(group), default=None)
    return job, {f"executor at {e.host()}:{e.port()}": e.numRunningTasks() for e in executors}


def _settle(context: SparkContext, group: str) -> None:
    """Wait until no task is running, so that cores are free for the next fit; at most `SETTLE_SECONDS`."""
    until = time.monotonic() + SETTLE_SECONDS
    while any(_running(context, group)[1].values()) and time.monotonic() < until:
        time.sleep(0.1)


def _loss(context: SparkContext, before: Mapping[str, str]) -> str:
    """Describe the executors that were lost and are not in `before`; empty if there are none."""
    lost = {name: reason for name, reason in _lost_executors(context).items() if name not in before}
    return " and ".join(f"executor {name} was lost mid-fit ({reason})" for name, reason in lost.items())


def _lost_executors(context: SparkContext) -> dict[str, str]:
    """Return the reason by lost executor.

    Spark has no public API for it. If a runtime's internal API differs, only the reason is missing in the message.
    """
    try:
        known = context._jsc.sc().statusStore().executorList(False)
        executors = [known.apply(i) for i in range(known.size())]
        return {e.id(): e.removeReason().getOrElse(None) or "no reason" for e in executors if not e.isActive()}
    except Py4JError:
        return {}


def _first_line(fault: Py4JJavaError) -> str:
    return str(fault.java_exception.getMessage()).splitlines()[0].rstrip(".")
