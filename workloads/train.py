"""The prepared table → a model artefact: encode, fit, save, and judge what was saved on the last part by time.

    train --dataset movielens --features <table> --artefact <folder> --run-id <id> --lineage <JSON> --tasks 0

Always writes its metrics and never refuses a weak model: the gate is the release's. The artefact is written whole or
not at all; a run that is started again after it was done finds its artefact and ends well.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.ml import PipelineModel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

import workloads
from workloads import (
    artefact,
    encode,
    evaluate,
    fit,
    golden,
    learn,
    model_card,
    pipeline,
    prepare,
    session,
    spec,
    split,
    stages,
)
from workloads.command import run
from workloads.errors import WorkloadError
from workloads.spec import Spec


def train(
    spark: SparkSession,
    dataset: Spec,
    features: Path,
    folder: Path,
    run_id: str,
    given_lineage: Mapping[str, Any],
    tasks: int = 0,
) -> dict[str, Any]:
    session.check_for_training(spark)
    prepared = prepare.prepared(features, dataset)
    lineage = {
        **given_lineage,
        "run_id": run_id,
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset.name,
        "synthetic": prepared["synthetic"] is not None,
        "spec_digest": dataset.digest,
        "data": {key: prepared[key] for key in ("digest", "rows", "clicks", "orphans", "tables", "synthetic")},
        "hyperparameters": asdict(dataset.model),
        "encoder": asdict(dataset.encoder),
        "seed": dataset.model.seed,
        "versions": _versions(spark),
    }
    seconds: dict[str, float] = {}
    with artefact.new(folder):
        rows = split.by_time(spark.read.parquet(str(features)), prepared, dataset)
        with ExitStack() as kept:
            with _timed(seconds, "encode"):
                encoded = kept.enter_context(learn.encoded(rows.learning, dataset))
                laid_out = kept.enter_context(fit.laid_out(encoded.rows, tasks))
            with _timed(seconds, "fit"):
                rows_validation = laid_out.filter("validation").count()
                model = fit.fit(laid_out, dataset)
            with _timed(seconds, "save"):
                levels = encode.collect_levels(encoded.served, dataset)
                (folder / "encoder.npz").write_bytes(artefact.encoder_arrays(levels))
                (folder / "model.txt").write_text(model.getNativeModel(), "utf-8")
                reloaded = pipeline.save(folder / "pipeline", dataset, encoded.served, model)
        with _timed(seconds, "evaluate"):
            (folder / "golden.jsonl").write_text(golden.lines(rows.test, dataset, reloaded), "utf-8")
            scored = _score(rows.test, dataset, reloaded)
        labels, probabilities = scored.pop("label"), scored.pop("probability")
        trained = {
            "rows_train": encoded.totals.rows[-1],
            "rows_validation": rows_validation,
            "trees": model.getBoosterNumTotalIterations(),
        }
        metrics = trained | _metrics(labels, probabilities, scored, prepared) | {"seconds": seconds}
        importance = dict(
            zip((f"{f} {v}" for f, v in dataset.model_columns), model.getFeatureImportances("gain"), strict=True)
        )
        artefact.write_json(folder / "metrics.json", metrics)
        artefact.write_json(folder / "lineage.json", lineage)
        artefact.write_json(folder / "contract.json", artefact.contract(dataset))
        card = model_card.html(dataset, metrics, lineage, importance, labels, probabilities)
        (folder / "model_card.html").write_text(card, "utf-8")
    return metrics


def already_trained(folder: Path, dataset: Spec, features: Path, given_lineage: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the whole artefact of the same inputs."""
    if not (folder / artefact.MANIFEST).exists():
        return False
    found = json.loads((folder / "lineage.json").read_text("utf-8"))
    wanted = {**given_lineage, "dataset": dataset.name, "spec_digest": dataset.digest}
    same_data = found["data"]["digest"] == prepare.prepared(features, dataset)["digest"]
    return same_data and all(found.get(key) == value for key, value in wanted.items())


def _score(test: DataFrame, dataset: Spec, reloaded: PipelineModel) -> dict[str, np.ndarray]:
    """Label and probability of every test row, and the columns to slice by."""
    columns = {"label": F.col("label"), "probability": stages.vector_to_array("probability")[1]}
    columns |= {part.feature: _slice_value(part) for part in dataset.slices} | {"day": F.col("day").cast("string")}
    for key in (dataset.user_id, dataset.item_id):
        if key:
            known = stages.vector_to_array(encode.encoded_column(key))[1] > 0
            columns[f"{key} in training"] = F.when(known, "known").otherwise("new")
    # A few long arrays reach Python far quicker than many small rows.
    lists = [F.collect_list(column).alias(name) for name, column in columns.items()]
    parts = reloaded.transform(test).groupBy(F.spark_partition_id()).agg(*lists).collect()
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in columns}


def _slice_value(part: spec.Slice) -> Column:
    column = F.col(part.feature)
    if not part.bands:
        return F.coalesce(column, F.lit("missing"))
    value = F.when(column < part.bands[0], f"below {part.bands[0]:g}")
    for low, high in zip(part.bands, part.bands[1:], strict=False):
        value = value.when(column < high, f"{low:g} to below {high:g}")
    return value.when(column.isNull(), "missing").otherwise(f"{part.bands[-1]:g} and above")


def _metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    by: Mapping[str, np.ndarray],
    prepared: Mapping[str, Any],
) -> dict[str, Any]:
    whole = evaluate.summary(labels, probabilities)
    rejected = sum(table["rejected"] for table in prepared["tables"].values())
    read = rejected + sum(table["rows"] for table in prepared["tables"].values())
    rows_test, clicks_test = whole.pop("rows"), whole.pop("clicks")
    bins = evaluate.calibration(labels, probabilities)
    return whole | {
        "average_precision": evaluate.average_precision(labels, probabilities),
        "expected_calibration_error": evaluate.expected_calibration_error(bins),
        "lift": evaluate.lift(labels, probabilities),
        "calibration": bins,
        "rows_test": rows_test,
        "clicks_test": clicks_test,
        "slices": evaluate.slices(labels, probabilities, by),
        "rejected_rows": rejected,
        "rejected_share": rejected / read,
        "synthetic": prepared["synthetic"] is not None,
    }


def _versions(spark: SparkSession) -> dict[str, str]:
    try:
        synapseml = version("synapseml")
    except PackageNotFoundError:  # the cluster's jar brings the Python side along
        synapseml = "of the cluster"
    return {
        "spark": spark.version,
        "synapseml": synapseml,
        "lightgbmlib": session.lightgbmlib_version(spark),
        "python": platform.python_version(),
        "workload": workloads.__version__,
    }


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - started, 2)
    print(f"{stage}: {seconds[stage]} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="train", description="Train a click model and write its artefact.")
    parser.add_argument("--dataset", required=True, help="name of a dataset spec")
    parser.add_argument("--features", required=True, type=Path, help="folder of the prepared table")
    parser.add_argument("--artefact", required=True, type=Path, help="folder of the artefact to write")
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--lineage", default="{}", help="JSON object that is kept with the artefact")
    parser.add_argument("--tasks", default=0, type=int, help="LightGBM tasks; 0: one for each executor core")
    arguments = parser.parse_args()

    def work() -> None:
        dataset = spec.load(arguments.dataset)
        try:
            lineage = json.loads(arguments.lineage)
        except json.JSONDecodeError as fault:
            raise WorkloadError(f"--lineage is not JSON: {fault}") from None
        if not isinstance(lineage, dict):
            raise WorkloadError("--lineage must be a JSON object")
        if already_trained(arguments.artefact, dataset, arguments.features, lineage):
            print(f"{arguments.artefact} already holds the artefact of these inputs", flush=True)
            return
        metrics = train(
            session.start(),
            dataset,
            arguments.features,
            arguments.artefact,
            arguments.run_id,
            lineage,
            arguments.tasks,
        )
        auc = "not defined" if metrics["auc"] is None else f"{metrics['auc']:.4f}"
        print(f"AUC {auc}, log loss {metrics['log_loss']:.4f}, {metrics['trees']} trees", flush=True)

    run(work)


if __name__ == "__main__":
    main()
