"""Fits on two executor JVMs, kills one of them in the middle of a fit, and fits again: what the tests read is JSON.

    python workloads_cluster.py <folder> <JSON: Spark configuration>

A process of its own, because a process has one Spark context.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyspark
from pyspark.sql import DataFrame, SparkSession

from testing.workloads import clicks
from workloads import session
from workloads.errors import WorkloadError
from workloads.training import fit, spark_ml_io

ROWS = 20_000
SCORED = 1_000
FEW = 10
"""Trees."""


def spark_home(folder: Path) -> Path:
    """Spark writes its workers' folders into its home, which here is not the installed package."""
    folder.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():
        (folder / entry.name).symlink_to(entry)
    return folder


def start(home: Path, configuration: dict[str, str]) -> SparkSession:
    os.environ |= {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"}
    builder = SparkSession.builder.master("local-cluster[2,1,1200]")
    for name, value in configuration.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    while len(spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos()) < 3:  # the driver is one of them
        time.sleep(0.1)
    return session.start()


def probabilities(rows: DataFrame, **model: Any) -> list[float]:
    with fit.laid_out(rows.select("label", "features"), tasks=2) as laid_out:
        fitted = fit.fit(laid_out, clicks.dataset(**model))
    scored = fitted.transform(rows.filter(f"id < {SCORED}")).orderBy("id")
    return [row.p for row in scored.select(spark_ml_io.vector_to_array("probability")[1].alias("p")).collect()]


class Killer(threading.Thread):
    """Kills the first executor whose log says `sign` in the fit after this moment."""

    def __init__(self, home: Path, sign: str) -> None:
        super().__init__(daemon=True)
        self.at = 0.0
        self._home, self._sign = home, sign
        self._read = {log: log.stat().st_size for log in self._logs()}

    def _logs(self) -> list[Path]:
        return sorted(self._home.glob("work/*/*/stderr"))

    def run(self) -> None:
        while not (said := [log for log in self._logs() if self._sign in log.read_text()[self._read.get(log, 0) :]]):
            time.sleep(0.02)
        # One of the fit: another, which is only about to take the place of one that was lost, would not be missed.
        backend, number = "CoarseGrainedExecutorBackend", said[0].parent.name
        (executor,) = (
            child
            for child in psutil.Process().children(recursive=True)
            if child.name() == "java" and re.search(rf"{backend}.* --executor-id {number} ", " ".join(child.cmdline()))
        )
        self.at = time.monotonic()
        executor.send_signal(signal.SIGKILL)


def fault(rows: DataFrame, home: Path, sign: str) -> dict[str, Any]:
    """What a fit says that loses an executor, and how many seconds later."""
    killer = Killer(home, sign)
    killer.start()
    try:
        probabilities(rows, num_iterations=2_000)
    except WorkloadError as said:
        return {"says": str(said), "seconds": time.monotonic() - killer.at}
    return {"says": "no fault", "seconds": 0}


def main() -> None:
    folder, configuration = Path(sys.argv[1]), json.loads(sys.argv[2])
    home = spark_home(folder / "spark")
    spark = start(home, configuration)
    session.check_for_training(spark)
    rows = clicks.rows(spark, ROWS)
    first, few = probabilities(rows), probabilities(rows, num_iterations=FEW)
    machines = re.findall(r"total number of machines: (\d+)", "".join(p.read_text() for p in home.rglob("stdout")))
    found = {
        "first": first,
        "few": few,
        "machines": [int(count) for count in machines],
        "between trees": fault(rows, home, "starting iteration 100"),
        "before the ring": fault(rows, home, "connecting to host"),
        "again": probabilities(rows),
    }
    found["unpacked"] = sorted(path.name for path in (folder / "java").glob("mml-natives*"))
    found["fetched"] = len(list(home.glob("work/*/*/lib_lightgbm.so")))
    spark.stop()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
