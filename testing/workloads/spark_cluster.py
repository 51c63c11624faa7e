"""Fit on two executor JVMs, kill one of them during a fit, and fit again; write the results as JSON for the tests.

    python spark_cluster.py <folder> <JSON: Spark configuration>

Runs as a separate process, because a process can have only one Spark context.
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
"""Number of trees of the short fit."""


def spark_home(folder: Path) -> Path:
    """Return a Spark home of links to the installed package: Spark writes its workers' folders into its home."""
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
    """Kills the first executor whose log contains `text` from now on."""

    def __init__(self, home: Path, text: str) -> None:
        super().__init__(daemon=True)
        self.killed_at = 0.0
        """Seconds of the monotonic clock."""
        self._home, self._text = home, text
        self._sizes = {log: log.stat().st_size for log in self._logs()}

    def _logs(self) -> list[Path]:
        return sorted(self._home.glob("work/*/*/stderr"))

    def run(self) -> None:
        while not (logs := [log for log in self._logs() if self._text in log.read_text()[self._sizes.get(log, 0) :]]):
            time.sleep(0.02)
        # By its id: another executor may just be starting to replace a lost one; killing it would not affect the fit.
        backend, number = "CoarseGrainedExecutorBackend", logs[0].parent.name
        (executor,) = (
            child
            for child in psutil.Process().children(recursive=True)
            if child.name() == "java" and re.search(rf"{backend}.* --executor-id {number} ", " ".join(child.cmdline()))
        )
        self.killed_at = time.monotonic()
        executor.send_signal(signal.SIGKILL)


def fault(rows: DataFrame, home: Path, text: str) -> dict[str, Any]:
    """Return the message of a fit that loses an executor, and the seconds from the loss to the message."""
    killer = Killer(home, text)
    killer.start()
    try:
        probabilities(rows, num_iterations=2_000)
    except WorkloadError as error:
        return {"message": str(error), "seconds": time.monotonic() - killer.killed_at}
    return {"message": "no fault", "seconds": 0}


def main() -> None:
    folder, configuration = Path(sys.argv[1]), json.loads(sys.argv[2])
    home = spark_home(folder / "spark")
    spark = start(home, configuration)
    session.check_for_training(spark)
    rows = clicks.rows(spark, ROWS)
    first, few = probabilities(rows), probabilities(rows, num_iterations=FEW)
    machines = re.findall(r"total number of machines: (\d+)", "".join(p.read_text() for p in home.rglob("stdout")))
    results = {
        "first": first,
        "few": few,
        "machines": [int(count) for count in machines],
        "between trees": fault(rows, home, "starting iteration 100"),
        "before the ring": fault(rows, home, "connecting to host"),
        "again": probabilities(rows),
    }
    results["unpacked"] = sorted(path.name for path in (folder / "java").glob("mml-natives*"))
    results["fetched"] = len(list(home.glob("work/*/*/lib_lightgbm.so")))
    spark.stop()
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
