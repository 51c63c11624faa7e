"""Evaluate a dataset's pipeline without writing an artefact: repeated cross-validation, or one split.

    crossvalidate --dataset criteo --features <table> --folds 2x5
    crossvalidate --dataset movielens --features <table> --split time

For each fold the rows are encoded and the model is fitted, saved as a serving pipeline, loaded again and evaluated on
rows that training did not see. `--split random` encodes with `history: others`, because time means nothing there.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from workloads import session, spec
from workloads.data import split, tables
from workloads.data.split import Split
from workloads.errors import UndefinedError, WorkloadError
from workloads.evaluation import metrics
from workloads.features import encode_split, sampling
from workloads.features.encode import Levels
from workloads.spec import Spec
from workloads.tasks import prepare
from workloads.tasks.command import run, writable
from workloads.training import fit, pipeline, spark_ml_io

SHOWN = ("auc", "log_loss", "base_log_loss", "mean_probability", "base_rate")


def evaluate_folds(
    spark: SparkSession, dataset: Spec, features: Path, *, repeats: int, count: int
) -> Iterator[dict[str, Any]]:
    """Yield the summary of each of `count` folds, `repeats` times; in each repeat every row is a test row once.

    A fold whose other rows cannot train a model has no metrics, and the reason under `undefined`.
    """
    table, prepared = spark.read.parquet(tables.literal(features)), prepare.prepared(features, dataset)
    for repeat in range(repeats):
        bucket = sampling.hash_bucket(dataset, seed=1000 * dataset.model.seed + repeat, buckets=count)
        for fold in range(count):
            rows = split.by_time(table, prepared, dataset, bucket == fold)
            try:
                yield evaluate_split(rows, dataset)
            except UndefinedError as reason:
                yield _undefined(rows.test, reason)


def evaluate_once(spark: SparkSession, dataset: Spec, features: Path, how: str) -> dict[str, Any]:
    """Return the summary of one split. how: `time` or `random`."""
    table = spark.read.parquet(tables.literal(features))
    if how == "time":
        return evaluate_split(split.by_time(table, prepare.prepared(features, dataset), dataset), dataset)
    dataset = dataclasses.replace(dataset, encoder=dataclasses.replace(dataset.encoder, history="others"))
    return evaluate_split(split.at_random(table, dataset), dataset)


def evaluate_split(rows: Split, dataset: Spec) -> dict[str, Any]:
    with (
        encode_split.encode_learning_rows(rows, dataset) as encoded,
        fit.laid_out(encoded.rows, 0) as laid_out,
    ):
        return fit_and_evaluate(laid_out, encoded.judged, rows.test, dataset)


def fit_and_evaluate(
    laid_out: DataFrame, levels: Mapping[str, Levels], test: DataFrame, dataset: Spec
) -> dict[str, Any]:
    """Fit on rows of `fit.laid_out` and return the summary on the test set.

    levels: serving tables by encoding.
    """
    model = fit.fit_twice(laid_out, dataset).judged
    with tempfile.TemporaryDirectory() as folder:
        reloaded = pipeline.save(Path(folder) / "pipeline", dataset, levels, model, test.sparkSession)
        scored = reloaded.transform(test).select("label", spark_ml_io.vector_to_array("probability")[1].alias("p"))
        arrays = scored.agg(F.collect_list("label").alias("label"), F.collect_list("p").alias("p")).first()
    assert arrays is not None
    summary = metrics.summary(np.array(arrays.label), np.array(arrays.p))
    return summary | {"trees": model.getBoosterNumTotalIterations()}


def _undefined(test: DataFrame, reason: UndefinedError) -> dict[str, Any]:
    counts = test.agg(F.count(F.lit(1)).alias("rows"), F.coalesce(F.sum("label"), F.lit(0)).alias("clicks")).first()
    assert counts is not None
    return metrics.undefined(counts.rows, int(counts.clicks)) | {"trees": None, "undefined": str(reason)}


def means(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of each metric over the folds that define it, and their number under `defined`."""
    values = {key: [summary[key] for summary in summaries if summary[key] is not None] for key in SHOWN}
    mean = {key: float(np.mean(defined)) if defined else None for key, defined in values.items()}
    return {"mean": mean, "defined": {key: len(defined) for key, defined in values.items()}}


def _line(name: str, summary: Mapping[str, Any]) -> str:
    values = ("   none" if summary[key] is None else f"{summary[key]:7.4f}" for key in SHOWN)
    return f"{name:>8}  " + "  ".join(values)


def main() -> None:
    parser = argparse.ArgumentParser(prog="crossvalidate", description="Evaluate a dataset's pipeline on test rows.")
    parser.add_argument("--dataset", required=True, help="name of a dataset spec")
    parser.add_argument("--features", required=True, type=Path, help="folder of the prepared table")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--folds", help="repeats x folds, such as 2x5")
    how.add_argument("--split", choices=["time", "random"], help="one split, with the spec's shares")
    parser.add_argument("--output", type=Path, help="JSON file to write the metrics to")
    arguments = parser.parse_args()

    def work() -> None:
        if arguments.output:
            writable(arguments.output)
        dataset = spec.load(arguments.dataset)
        spark = session.start()
        session.check_for_training(spark)
        print(f"{'fold':>8}  " + "  ".join(f"{key.replace('_', ' ')[:7]:>7}" for key in SHOWN), flush=True)
        summaries: list[dict[str, Any]] = []
        if arguments.split:
            summaries.append(evaluate_once(spark, dataset, arguments.features, arguments.split))
            _write(arguments.output, summaries)
        else:
            repeats, count = parse_folds(arguments.folds)
            for summary in evaluate_folds(spark, dataset, arguments.features, repeats=repeats, count=count):
                summaries.append(summary)
                print(_line(str(len(summaries)), summary), flush=True)
                _write(arguments.output, summaries)  # a later fold may fail
        print(_line("mean", means(summaries)["mean"]), flush=True)
        for note in _notes(summaries):
            print(note, flush=True)

    run(work)


def _write(output: Path | None, summaries: Sequence[Mapping[str, Any]]) -> None:
    if output:
        output.write_text(json.dumps({"folds": summaries, **means(summaries)}, indent=1, allow_nan=False), "utf-8")


def _notes(summaries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each fold without a metric, with the reason, and for each mean that leaves out folds."""
    for number, summary in enumerate(summaries, 1):
        if "undefined" in summary:
            yield f"fold {number}: no model, {summary['undefined']}"
        elif summary["auc"] is None:
            yield f"fold {number}: AUC is not defined, {summary['clicks']} of its {summary['rows']} rows are clicks"
    for key, count in means(summaries)["defined"].items():
        if count < len(summaries):
            yield f"{key.replace('_', ' ')}: mean of the {count} of {len(summaries)} folds that define it"


def parse_folds(text: str) -> tuple[int, int]:
    """Return (repeats, folds) of a text such as `2x5`."""
    repeats, _, count = text.partition("x")
    if not (repeats.isdigit() and count.isdigit() and int(repeats) >= 1 and int(count) >= 2):
        raise WorkloadError(f"--folds must be repeats x folds, such as 2x5, not {text!r}")
    return int(repeats), int(count)


if __name__ == "__main__":
    main()
