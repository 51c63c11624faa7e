"""The Spark driver of one job cluster: a separate program, started by `cluster.py`, that runs one task after another.

Starts Spark once with the cluster's definition, then reads orders from its folder: `<n>.json` names a task, and the
answer is `<n>.result.json`. A task's Python output goes to the task's log; output of the JVM and of native code to the
driver's. Tasks share one Python process, where Databricks gives each its own interpreter on a shared JVM; here only a
notebook has its own.
Imports nothing of the sandbox, so that a task finds only its wheels, Spark and this machine's packages.
"""

import contextlib
import importlib
import importlib.metadata
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyspark import SparkContext
from pyspark.sql import SparkSession

_TAIL = 5  # lines of output that explain an exit code


def main(folder: Path) -> None:
    signal.signal(signal.SIGTERM, _end)
    conf = json.loads((folder / "spark.json").read_text())
    _session(conf)
    (folder / "ready").touch()
    for number in itertools.count():
        order = folder / f"{number}.json"
        while not order.exists():
            time.sleep(0.02)
        _session(conf)
        task = json.loads(order.read_text())
        result = _notebook(order, Path(task["log"])) if "notebook" in task else _run(task)
        partial = folder / f"{number}.partial"
        partial.write_text(json.dumps(result))
        partial.rename(folder / f"{number}.result.json")


def _end(_signal: int, _frame: object) -> None:
    """End with the JVM, which gets the same signal: left to init, it may stay as a zombie in a container."""
    if SparkContext._gateway is not None:
        SparkContext._gateway.proc.wait()
    os._exit(128 + signal.SIGTERM)


def _session(conf: dict[str, str]) -> SparkSession:
    """The session; a new one if a task has stopped it. If the JVM has died, this raises and so ends the driver."""
    if SparkContext._active_spark_context is not None:
        spark = SparkSession.builder.getOrCreate()
        spark.sparkContext._jvm.System.nanoTime()
        return spark
    spark = SparkSession.builder.config(map=conf).getOrCreate()
    # A cloud store has no .crc files next to the data, so Spark must not write them into the lake's folder.
    files = spark.sparkContext._jvm.org.apache.hadoop.fs.FileSystem
    files.getLocal(spark.sparkContext._jsc.hadoopConfiguration()).setWriteChecksum(False)
    return spark


def _run(task: dict[str, Any]) -> dict[str, Any]:
    log = Path(task["log"])
    with _output_to(log):
        try:
            sys.argv = [task["name"], *task["parameters"]]
            if "python_file" in task:
                runpy.run_path(task["python_file"], run_name="__main__")
            else:
                _entry_point(task["package_name"], task["entry_point"])()
            return {"error": None}
        except SystemExit as stop:
            if stop.code in (None, 0):
                return {"error": None}
            print(stop.code if isinstance(stop.code, str) else f"SystemExit: {stop.code}", file=sys.stderr, flush=True)
            if isinstance(stop.code, str):
                return {"error": stop.code, "trace": traceback.format_exc()}
            lines = log.read_text(errors="replace").splitlines()
            return {"error": "\n".join(lines[-_TAIL - 1 :]), "trace": traceback.format_exc()}
        except BaseException as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


def _notebook(order: Path, log: Path) -> dict[str, Any]:
    """Run a notebook with `notebook.py`, in a separate Python process that attaches to this driver's JVM."""
    gateway = SparkContext._gateway.gateway_parameters
    attached = {"PYSPARK_GATEWAY_PORT": str(gateway.port), "PYSPARK_GATEWAY_SECRET": gateway.auth_token}
    own = dict.fromkeys(("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"), os.environ["TMPDIR"])
    program = Path(__file__).with_name("notebook.py")
    with log.open("ab") as file:
        ended = subprocess.run(
            [sys.executable, "-P", program, order], env={**os.environ, **own, **attached}, stdout=file, stderr=file
        )
    done = order.with_name(f"{order.name}.done")
    if not done.exists():
        lines = log.read_text(errors="replace").splitlines()
        return {"error": "\n".join((f"notebook.py ended with {ended.returncode}", *lines[-_TAIL:])), "trace": ""}
    answer: dict[str, Any] = json.loads(done.read_text())
    return answer


def _entry_point(package: str, name: str) -> Any:
    """The named entry point of the package, or the function of that name in it, as on Databricks."""
    for entry in importlib.metadata.distribution(package).entry_points:
        if entry.name == name:
            return entry.load()
    return getattr(importlib.import_module(package), name)


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Redirect the file descriptors, so that a logging handler of one task also works in the next."""
    originals = os.dup(1), os.dup(2)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        for stream, before, buffer in zip((1, 2), originals, (sys.stdout, sys.stderr), strict=True):
            buffer.flush()
            os.dup2(before, stream)
            os.close(before)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
