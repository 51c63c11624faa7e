"""Databricks runs that end at once: a function of the test takes the place of Spark, which needs ten seconds per run.

Jobs, runs, idempotency tokens and states are the sandbox's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.databricks.execution import runner
from sandbox.databricks.execution.cluster import SparkCluster


@contextmanager
def instant_runs(work: Callable[[str], None]) -> Iterator[None]:
    """Execute each task in the sandboxes of this process by calling `work` with the id of its run.

    If `work` raises `sandbox.databricks.execution.cluster.TaskFailed`, the task fails.
    """

    class InstantCluster(SparkCluster):
        async def start(self) -> None:
            pass

        async def execute(self, order: dict[str, Any]) -> dict[str, Any]:
            work(Path(order["log"]).parent.name)
            return {"error": None}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "SparkCluster", InstantCluster)
        yield
