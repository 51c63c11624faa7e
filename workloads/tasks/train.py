"""The prepared table → a model artefact: encode, fit, save, and judge what was saved on the last part by time.

    train --dataset movielens --features <table> --artefact <folder> --run-id <id> --lineage <JSON> --tasks 0 \
        --live <artefact folder or live.json> --experiment <name>

Always writes its metrics and never refuses a weak model: the gate is the release's. The artefact is written whole or
not at all; a run that is started again after it was done finds its artefact and ends well. What serves now (`--live`)
is compared with, and takes no part in how the model is made unless the spec asks for a warm start. With an experiment
of MLflow it is a run there, too; whether that can be told changes nothing of the artefact but the run's id in it.
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

from pyspark.sql import SparkSession

import workloads
from workloads import artefact, live_model, session, spec, tracking
from workloads.data import split, tables
from workloads.errors import WorkloadError
from workloads.evaluation import drift, evaluation, golden, leakage, learning_curve, model_card
from workloads.features import encode_split
from workloads.spec import Spec
from workloads.tasks import prepare
from workloads.tasks.command import run
from workloads.training import baseline, fit, pipeline, warm_start


def train(
    spark: SparkSession,
    dataset: Spec,
    features: Path,
    folder: Path,
    run_id: str,
    given_lineage: Mapping[str, Any],
    tasks: int = 0,
    live_folder: Path | None = None,
    tracked: tracking.Run = tracking.OFF,
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
    serving = live_model.load(live_folder, dataset)
    begun = warm_start.start(serving, dataset)
    lineage["warm_start"] = begun.lineage
    tracked.parameters({name: value for name, value in lineage.items() if name != "data"})
    seconds: dict[str, float] = {}
    with artefact.new(folder):
        rows = split.by_time(spark.read.parquet(tables.literal(features)), prepared, dataset)
        with ExitStack() as kept:
            with _timed(seconds, "encode"):
                encoded = kept.enter_context(encode_split.encoded(rows.learning, dataset))
                laid_out = kept.enter_context(fit.laid_out(encoded.rows, tasks))
                rows_train, rows_validation = encoded.totals.rows[-1], encoded.totals.validation
            with _timed(seconds, "fit"):
                model = fit.fit(laid_out, begun.dataset, begun.model)
            with _timed(seconds, "save"):
                (folder / "encoder.npz").write_bytes(artefact.encoder_arrays(encoded.levels))
                (folder / "model.txt").write_text(model.getNativeModel(), "utf-8")
                reloaded = pipeline.save(folder / "pipeline", dataset, encoded.levels, model, spark)
            with _timed(seconds, "baseline"):
                plain = baseline.fit(laid_out, rows_train, dataset)
            if tracked.on:
                with _timed(seconds, "curve"):
                    tracked.by_step(learning_curve.by_tree(model, laid_out, rows_train, rows_validation))
            with _timed(seconds, "drift"):
                rows_learned = rows_train + rows_validation
                some = drift.sample(rows.learning, rows_learned, dataset)
                profile = drift.profile(some, dataset, encoded.levels)
                moved = drift.since(serving, some) if serving else {}
            with _timed(seconds, "leakage"):
                alone = leakage.feature_auc(laid_out, rows_train, rows_validation, dataset)
        with _timed(seconds, "evaluate"):
            shown = golden.rows(rows.test, dataset)
            scored = evaluation.score(rows.test, dataset, reloaded, plain, serving, shown)
            (folder / "golden.jsonl").write_text(golden.lines(shown, scored.golden), "utf-8")
        metrics = {
            "rows_train": rows_train,
            "rows_validation": rows_validation,
            "trees": model.getBoosterNumTotalIterations(),
            **evaluation.metrics_document(scored, serving, moved, prepared, dataset.model.seed),
            "feature_auc": alone,
            "seconds": seconds,
        }
        importance = dict(
            zip((f"{f} {v}" for f, v in dataset.model_columns), model.getFeatureImportances("gain"), strict=True)
        )
        artefact.write_json(folder / "metrics.json", metrics)
        artefact.write_json(folder / "profile.json", profile)
        lineage["mlflow_run_id"] = tracked.id or None
        artefact.write_json(folder / "lineage.json", lineage)
        artefact.write_json(folder / "contract.json", artefact.contract(dataset))
        card = model_card.html(dataset, metrics, lineage, importance, scored.labels, scored.probabilities)
        (folder / "model_card.html").write_text(card, "utf-8")
    tracked.metrics(metrics)
    for name in ("model_card.html", "lineage.json"):
        tracked.file(folder / name)
    return metrics


def already_trained(folder: Path, dataset: Spec, features: Path, given_lineage: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the whole artefact of the same inputs."""
    if not (folder / artefact.MANIFEST).exists():
        return False
    found = json.loads((folder / "lineage.json").read_text("utf-8"))
    wanted = {**given_lineage, "dataset": dataset.name, "spec_digest": dataset.digest}
    same_data = found["data"]["digest"] == prepare.prepared(features, dataset)["digest"]
    return same_data and all(found.get(key) == value for key, value in wanted.items())


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
    parser.add_argument("--live", default="", help="artefact of the live model, or live.json, which names it")
    parser.add_argument("--experiment", default="", help="MLflow experiment that the run is logged to; empty: to none")
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
        with tracking.run(arguments.experiment, f"train {dataset.name} {arguments.run_id}") as tracked:
            metrics = train(
                session.start(),
                dataset,
                arguments.features,
                arguments.artefact,
                arguments.run_id,
                lineage,
                arguments.tasks,
                Path(arguments.live) if arguments.live else None,
                tracked,
            )
        auc = "not defined" if metrics["auc"] is None else f"{metrics['auc']:.4f}"
        print(f"AUC {auc}, log loss {metrics['log_loss']:.4f}, {metrics['trees']} trees", flush=True)

    run(work)


if __name__ == "__main__":
    main()
