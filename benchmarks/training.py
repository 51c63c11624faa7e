"""Cost of training by rows and cores: `python benchmarks/training.py [--rows 100000 1000000] [--cores 1 2]`.

Each pair of sizes runs in a separate process: generated rows in Criteo's shape, the Spark settings of the product's
job, 50 trees of 31 leaves, and the stages of the job. Then native LightGBM fits the same encoded matrix with the same
parameters and number of threads, for comparison. Seconds are elapsed time after the start of Spark. Prints Markdown
tables. The rows are synthetic, so the figures show speed, and the distance of the AUC from the best possible one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from cli import local_spark
from workloads import session as workload_session
from workloads import spec
from workloads.data import raw_file, split, synthesize
from workloads.features import encode_split
from workloads.spec import Spec
from workloads.tasks import prepare, train
from workloads.training import fit, spark_ml_io

TREES, LEAVES = 50, 31
STAGES = ("prepare", "encode", "fit", "save", "baseline", "drift", "evaluate")


def dataset(trees: int) -> Spec:
    """Criteo's spec with this number of trees, or unchanged with early stopping if it is 0."""
    whole = spec.load("criteo")
    if not trees:
        return whole
    return whole.with_model(num_iterations=trees, num_leaves=LEAVES, early_stopping_round=0)


def session(cores: int, heap: str, folder: Path) -> SparkSession:
    SparkSession.builder.config(map=local_spark.settings(folder, cores, heap)).getOrCreate()
    spark = workload_session.start()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def measure(rows: int, cores: int, heap: str, trees: int, native: bool) -> dict[str, Any]:
    of = dataset(trees)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesize.synthesize(folder / "raw", rows)
        best = json.loads((folder / "raw" / raw_file.SYNTHETIC).read_text())["best_auc"]
        spark = session(cores, heap, folder)
        started = time.monotonic()
        prepare.prepare(spark, of, folder / "raw", folder / "features")
        prepared = time.monotonic() - started
        metrics = train.train(
            spark,
            train.TrainRequest(dataset=of, features=folder / "features", artefact=folder / "model", run_id="benchmark"),
        )
        whole = time.monotonic() - started
        found: dict[str, Any] = {
            "rows": rows,
            "cores": cores,
            "seconds": {"prepare": prepared, **metrics["seconds"]},
            "whole": whole,
            "rows_train": metrics["rows_train"],
            "columns": len(of.model_columns),
            "trees": metrics["trees"],
            "auc": metrics["auc"],
            "best_auc": best,
            "heap_peak": _heap_peak(spark),
            "memory_peak": _memory_peak(spark),
        }
        matrix = _matrix(spark, of, folder) if native else None
        spark.stop()
        if matrix is not None:
            found["native"] = _native(matrix, of, cores)
        return found


def _heap_peak(spark: SparkSession) -> int:
    """Bytes of JVM heap: the sum of the peaks of its pools."""
    factory = spark._jvm.java.lang.management.ManagementFactory
    pools = factory.getMemoryPoolMXBeans()
    return sum(pool.getPeakUsage().getUsed() for pool in pools if pool.getType().toString() == "Heap memory")


def _memory_peak(spark: SparkSession) -> int:
    """Peak resident bytes of the JVM's process, including LightGBM's native memory."""
    process = spark._jvm.java.lang.ProcessHandle.current().pid()
    return int(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


def _matrix(spark: SparkSession, of: Spec, folder: Path) -> np.ndarray:
    """The encoded training rows, (rows, 1 + columns), label first. They pass through a file."""
    rows = split.by_time(spark.read.parquet(str(folder / "features")), prepare.prepared(folder / "features", of), of)
    values = [F.col("values")[i].alias(str(i)) for i in range(len(of.model_columns))]
    with encode_split.encode_learning_rows(rows, of) as encoded:
        plain = encoded.rows.select("label", spark_ml_io.vector_to_array("features").alias("values"))
        plain.select("label", *values).write.csv(str(folder / "matrix"), sep="\t")
    parts = sorted((folder / "matrix").glob("part-*"))
    return np.concatenate([np.loadtxt(part, delimiter="\t", ndmin=2) for part in parts if part.stat().st_size])


def _native(matrix: np.ndarray, of: Spec, cores: int) -> float:
    """Seconds of binning and boosting, which a fit of SynapseML includes too."""
    parameters = of.model.parameters | {"objective": "binary", "num_threads": cores, "verbose": -1}
    parameters |= {"bin_construct_sample_cnt": fit.BIN_SAMPLE, "force_col_wise": True, "deterministic": True}
    trees = parameters.pop("num_iterations")
    started = time.monotonic()
    data = lightgbm.Dataset(matrix[:, 1:], matrix[:, 0], params=parameters)
    booster = lightgbm.train(parameters, data, trees)
    assert booster.num_trees() == trees
    return time.monotonic() - started


def _tables(found: list[dict[str, Any]]) -> str:
    lines = [
        f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        "",
        "| rows | cores | " + " | ".join(STAGES) + " | whole | rows/s | fit ÷ native | cell-trees/s/core | heap, GB | "
        "process, GB | AUC | best AUC |",
        "| --- " * (12 + len(STAGES)) + "|",
    ]
    for of in found:
        seconds = of["seconds"]
        cells = of["rows_train"] * of["columns"] * of["trees"] / seconds["fit"] / of["cores"]
        ratio = f"{seconds['fit'] / of['native']:.2f}" if "native" in of else ""
        figures = [
            f"{of['rows']:,}",
            str(of["cores"]),
            *(f"{seconds[stage]:.1f}" for stage in STAGES),
            f"**{of['whole']:.1f}**",
            f"{of['rows'] / of['whole']:,.0f}",
            ratio,
            f"{cells / 1e6:.0f} M",
            f"{of['heap_peak'] / 1e9:.1f}",
            f"{of['memory_peak'] / 1e9:.1f}",
            f"{of['auc']:.4f}",
            f"{of['best_auc']:.4f}",
        ]
        lines.append("| " + " | ".join(figures) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--heap", default="5500m", help="of the JVM")
    parser.add_argument("--trees", type=int, default=TREES, help="0: as many as the spec and early stopping give")
    parser.add_argument("--no-native", action="store_true", help="without native LightGBM on the same matrix")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.one:
        rows, cores = arguments.rows[0], arguments.cores[0]
        print("\n" + json.dumps(measure(rows, cores, arguments.heap, arguments.trees, not arguments.no_native)))
        return
    found = []
    for rows in arguments.rows:
        for cores in arguments.cores:
            options = ["--heap", arguments.heap, "--trees", str(arguments.trees)]
            options += ["--no-native"] if arguments.no_native else []
            command = [sys.executable, __file__, "--one", "--rows", str(rows), "--cores", str(cores), *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{rows:,} rows on {cores} cores: {found[-1]['whole']:.1f} s", flush=True)
    print("\n" + _tables(found))


if __name__ == "__main__":
    main()
