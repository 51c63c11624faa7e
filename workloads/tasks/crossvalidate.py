"""How good a dataset's pipeline is, without making an artefact: repeated folds, or one split, through the same stages.

    crossvalidate --dataset criteo --features <table> --folds 2x5
    crossvalidate --dataset movielens --features <table> --split time

Each fold is encoded, fitted, saved as a serving pipeline, loaded again and judged on rows that it never saw. With
`--split random` parts know all others instead of earlier ones, because time means nothing there.
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
from workloads.features import encode_split, target_statistics
from workloads.features.encode import Levels
from workloads.spec import Spec
from workloads.tasks import prepare
from workloads.tasks.command import run, writable
from workloads.training import fit, pipeline, spark_ml_io

SHOWN = ("auc", "log_loss", "base_log_loss", "mean_probability", "base_rate")


def folds(spark: SparkSession, dataset: Spec, features: Path, repeats: int, count: int) -> Iterator[dict[str, Any]]:
    """The summary of each fold; within each repeat every row judges once.

    A fold whose other rows cannot train a model has no figures, and the reason under `undefined`.
    """
    table, prepared = spark.read.parquet(tables.literal(features)), prepare.prepared(features, dataset)
    for repeat in range(repeats):
        drawn = target_statistics.drawn(dataset, 1000 * dataset.model.seed + repeat, count)
        for fold in range(count):
            rows = split.by_time(table, prepared, dataset, drawn == fold)
            try:
                yield judged(rows, dataset)
            except UndefinedError as reason:
                yield _undefined(rows.test, reason)


def one_split(spark: SparkSession, dataset: Spec, features: Path, how: str) -> dict[str, Any]:
    table = spark.read.parquet(tables.literal(features))
    if how == "time":
        return judged(split.by_time(table, prepare.prepared(features, dataset), dataset), dataset)
    dataset = dataclasses.replace(dataset, encoder=dataclasses.replace(dataset.encoder, history="others"))
    return judged(split.at_random(table, dataset), dataset)


def judged(rows: Split, dataset: Spec) -> dict[str, Any]:
    with encode_split.encoded(rows.learning, dataset) as encoded, fit.laid_out(encoded.rows, 0) as laid_out:
        return fitted(laid_out, encoded.levels, rows.test, dataset)


def fitted(laid_out: DataFrame, levels: Mapping[str, Levels], test: DataFrame, dataset: Spec) -> dict[str, Any]:
    """The summary of one fit on rows that are encoded and laid out; `levels` is what serving will know."""
    model = fit.fit(laid_out, dataset)
    with tempfile.TemporaryDirectory() as folder:
        served = pipeline.save(Path(folder) / "pipeline", dataset, levels, model, test.sparkSession)
        scored = served.transform(test).select("label", spark_ml_io.vector_to_array("probability")[1].alias("p"))
        found = scored.agg(F.collect_list("label").alias("label"), F.collect_list("p").alias("p")).first()
    assert found is not None
    return metrics.summary(np.array(found.label), np.array(found.p)) | {"trees": model.getBoosterNumTotalIterations()}


def _undefined(test: DataFrame, reason: UndefinedError) -> dict[str, Any]:
    found = test.agg(F.count(F.lit(1)).alias("rows"), F.coalesce(F.sum("label"), F.lit(0)).alias("clicks")).first()
    assert found is not None
    return metrics.undefined(found.rows, int(found.clicks)) | {"trees": None, "undefined": str(reason)}


def means(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each figure over the folds that define it, None where none does; `defined` counts those folds."""
    values = {key: [of[key] for of in found if of[key] is not None] for key in SHOWN}
    mean = {key: float(np.mean(of)) if of else None for key, of in values.items()}
    return {"mean": mean, "defined": {key: len(of) for key, of in values.items()}}


def _line(name: str, of: Mapping[str, Any]) -> str:
    return f"{name:>8}  " + "  ".join("   none" if of[key] is None else f"{of[key]:7.4f}" for key in SHOWN)


def main() -> None:
    parser = argparse.ArgumentParser(prog="crossvalidate", description="Judge a dataset's pipeline on rows held out.")
    parser.add_argument("--dataset", required=True, help="name of a dataset spec")
    parser.add_argument("--features", required=True, type=Path, help="folder of the prepared table")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--folds", help="repeats x folds, such as 2x5")
    how.add_argument("--split", choices=["time", "random"], help="one split, as the spec's shares say")
    parser.add_argument("--output", type=Path, help="JSON file to write the figures to")
    arguments = parser.parse_args()

    def work() -> None:
        if arguments.output:
            writable(arguments.output)
        dataset = spec.load(arguments.dataset)
        spark = session.start()
        session.check_for_training(spark)
        print(f"{'fold':>8}  " + "  ".join(f"{key.replace('_', ' ')[:7]:>7}" for key in SHOWN), flush=True)
        found: list[dict[str, Any]] = []
        if arguments.split:
            found.append(one_split(spark, dataset, arguments.features, arguments.split))
            _write(arguments.output, found)
        else:
            repeats, count = parse_folds(arguments.folds)
            for summary in folds(spark, dataset, arguments.features, repeats, count):
                found.append(summary)
                print(_line(str(len(found)), summary), flush=True)
                _write(arguments.output, found)  # a later fold may fail
        print(_line("mean", means(found)["mean"]), flush=True)
        for note in _notes(found):
            print(note, flush=True)

    run(work)


def _write(output: Path | None, found: Sequence[Mapping[str, Any]]) -> None:
    if output:
        output.write_text(json.dumps({"folds": found, **means(found)}, indent=1, allow_nan=False), "utf-8")


def _notes(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Which folds a mean leaves out, and why."""
    for number, of in enumerate(found, 1):
        if "undefined" in of:
            yield f"fold {number}: no model, {of['undefined']}"
        elif of["auc"] is None:
            yield f"fold {number}: AUC is not defined, {of['clicks']} of its {of['rows']} rows are clicks"
    for key, count in means(found)["defined"].items():
        if count < len(found):
            yield f"{key.replace('_', ' ')}: mean of the {count} of {len(found)} folds that define it"


def parse_folds(text: str) -> tuple[int, int]:
    """(repeats, folds) of `2x5`."""
    repeats, _, count = text.partition("x")
    if not (repeats.isdigit() and count.isdigit() and int(repeats) >= 1 and int(count) >= 2):
        raise WorkloadError(f"--folds must be repeats x folds, such as 2x5, not {text!r}")
    return int(repeats), int(count)


if __name__ == "__main__":
    main()
