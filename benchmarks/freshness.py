"""Gain from learning up to the last row: `python -m benchmarks.freshness [--cuts 60 70 80 90]`.

Splits MovieLens by time. For each cut, a snapshot has that percentage of the ratings, and the next 5 % are the days
that follow. The judged and the served model of one training run on the snapshot (`training:refit: all`), and the judged
trees with the served model's encodings, are evaluated on them. Prints a Markdown table. The interval is that of the
paired bootstrap of `workloads/evaluation/paired_bootstrap.py`.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cli import local_spark, paths
from cli.local_run import movielens
from workloads import session, spec
from workloads.data import split
from workloads.evaluation import metrics, paired_bootstrap
from workloads.features import encode_split
from workloads.spec import Spec
from workloads.tasks import prepare
from workloads.training import fit, pipeline, spark_ml_io
from workloads.training.pipeline import Pipeline

_FOLLOWING = 5
"""Percentage of the ratings that follow a cut."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, nargs="+", default=[60, 70, 80, 90], help="percentages of the ratings")
    cuts = parser.parse_args().cuts
    dataset = spec.load("movielens")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        raw = movielens.fetch(paths.folder() / "movielens", print)
        SparkSession.builder.config(map=local_spark.settings(folder)).getOrCreate()
        spark = session.start()
        spark.sparkContext.setLogLevel("ERROR")
        prepare.prepare(spark, dataset, raw, folder / "features")
        table = spark.read.parquet(str(folder / "features")).persist()
        print("\n| cut | rows that follow | model | trees | AUC | log loss |\n| --- | --- | --- | --- | --- | --- |")
        for cut in cuts:
            for line in _compare(table, dataset, cut / 100, folder):
                print(line, flush=True)


def _compare(table: DataFrame, dataset: Spec, cut: float, folder: Path) -> Iterator[str]:
    """Yield the lines of one cut."""
    shares = [cut * percent / 100 for percent in range(101)]
    *percentiles, end = table.approxQuantile("time", [*shares, cut + _FOLLOWING / 100], 0.0)
    snapshot = table.filter(F.col("time") < percentiles[-1])
    following = table.filter((F.col("time") >= percentiles[-1]) & (F.col("time") < end))
    rows = split.by_time(snapshot, {"time_percentiles": percentiles}, dataset, learns_from_test=True)
    with (
        encode_split.encode_learning_rows(rows, dataset) as encoded,
        fit.laid_out(encoded.rows, 0) as laid_out,
    ):
        judged = fit.fit_twice(laid_out.filter("not test"), dataset).judged
        served = fit.refit(laid_out, judged, dataset)
        models = {
            "judged": (judged, encoded.judged),
            "judged, encodings of all rows": (judged, encoded.served),
            "served": (served, encoded.served),
        }
        probabilities: dict[str, np.ndarray] = {}
        for name, (model, levels) in models.items():
            saved = pipeline.save(folder / f"{cut}-{len(probabilities)}", dataset, levels, model, SparkSession.active())
            labels, probabilities[name] = _score(saved, following)
            figures = (
                f"{metrics.auc(labels, probabilities[name]):.4f} | {metrics.log_loss(labels, probabilities[name]):.4f}"
            )
            yield f"| {cut:.0%} | {len(labels):,} | {name} | {model.getBoosterNumTotalIterations()} | {figures} |"
    change = paired_bootstrap.paired(labels, probabilities["served"], probabilities["judged"], dataset.model.seed)
    yield f"| {cut:.0%} | | served less judged | | {_change(change, 'auc')} | {_change(change, 'log_loss')} |"


def _score(model: Pipeline, rows: DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities, in the order of the rows' content."""
    click = spark_ml_io.vector_to_array("probability")[1].alias("click")
    scored = model.transform(rows).select("time", "user_id", "item_id", "label", click)
    collected = scored.orderBy("time", "user_id", "item_id").collect()
    return np.array([row.label for row in collected]), np.array([row.click for row in collected])


def _change(change: Mapping[str, Any], figure: str) -> str:
    low, high = change[f"{figure}_change_interval"]
    return f"{change[f'{figure}_change']:+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
