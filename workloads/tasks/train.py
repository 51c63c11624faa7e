"""Train a model from the prepared table and write its artefact: encode, fit, save, and evaluate on the test set.

    train --dataset movielens --features <table> --artefact <folder> --run-id <id> --lineage <JSON> --tasks 0 \
        --refit all --live <artefact folder or live.json> --experiment <name>

Three fits: the validation set chooses the number of trees of the first. The second, the judged model, learns from
training and validation rows; all metrics are of this one (with `warm_start`, the first is judged). The third, the
served model, learns from the test rows, too, and so from the last row (`--refit judged` serves the judged model). All
have the same hyperparameters and encodings.

Always writes metrics and never refuses a weak model: the release's gate does. The artefact is written completely or not
at all; a run that is started again after it finished finds its artefact and succeeds. The live model (`--live`) is only
compared with, unless the spec asks for a warm start. With `--experiment` the training is logged to MLflow as well;
whether that succeeds changes nothing in the artefact but the id of the MLflow run.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pyspark.sql import SparkSession
from synapse.ml.lightgbm import LightGBMClassificationModel

import workloads
from workloads import artefact, live_model, session, spec, tracking
from workloads.data import split, tables
from workloads.data.split import Split
from workloads.errors import WorkloadError
from workloads.evaluation import drift, evaluation, golden, leakage, learning_curve, model_card
from workloads.evaluation.evaluation import Scored
from workloads.features import encode_split
from workloads.features.encode import Levels
from workloads.live_model import Live
from workloads.spec import Spec
from workloads.tasks import prepare
from workloads.tasks.command import run
from workloads.training import baseline, fit, pipeline, warm_start
from workloads.training.baseline import Baseline
from workloads.training.pipeline import Pipeline
from workloads.training.warm_start import Start


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    dataset: Spec
    features: Path
    """Folder of the prepared table."""
    artefact: Path
    """Folder of the artefact to write."""
    run_id: str
    refit: Literal["judged", "all"] = "all"
    """Model to serve: the judged one, or one with its hyperparameters that learned from the test rows, too."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """Entries to add to `lineage.json`."""
    tasks: int = 0
    """LightGBM tasks; 0: one for each executor core."""
    live: Path | None = None
    """Artefact of the live model, or `live.json`, which names it."""


@dataclass(frozen=True)
class _Fit:
    """The fitted and saved models, and the measurements that need the encoded rows."""

    model: LightGBMClassificationModel
    """The served model."""
    served: Pipeline
    judged: Pipeline
    """The same as `served` if the served model is the judged one."""
    baseline: Baseline
    rows: Mapping[str, int]
    """Number of rows for `metrics.json`."""
    profile: Any
    drift: Mapping[str, Any]
    feature_auc: Mapping[str, float | None]


def train(spark: SparkSession, request: TrainRequest, tracked: tracking.Run = tracking.OFF) -> dict[str, Any]:
    """Train, write the artefact and return its metrics. Raises `WorkloadError` if there is nothing to train on."""
    session.check_for_training(spark)
    dataset, folder = request.dataset, request.artefact
    prepared = prepare.prepared(request.features, dataset)
    live = live_model.load(request.live, dataset)
    start = warm_start.start(live, dataset)
    lineage = _lineage(request, prepared, _versions(spark)) | {"warm_start": start.lineage}
    tracked.parameters({name: value for name, value in lineage.items() if name != "data"})
    seconds: dict[str, float] = {}
    with artefact.new(folder):
        table = spark.read.parquet(tables.literal(request.features))
        rows = split.by_time(table, prepared, dataset, learns_from_test=request.refit == "all")
        fitted = _fit_and_save(rows, request, start, live, tracked, seconds)
        with _timed(seconds, "evaluate"):
            scored = _evaluate(rows, request, fitted, live)
        metrics = {
            **fitted.rows,
            "trees": fitted.model.getBoosterNumTotalIterations(),
            **evaluation.metrics_document(
                scored, live=live, drift=fitted.drift, prepared=prepared, seed=dataset.model.seed
            ),
            "feature_auc": fitted.feature_auc,
            "seconds": seconds,
        }
        lineage["mlflow_run_id"] = tracked.id or None
        _write_documents(request, fitted, scored, metrics, lineage)
    tracked.metrics(metrics)
    for name in ("model_card.html", "lineage.json"):
        tracked.file(folder / name)
    return metrics


def _lineage(request: TrainRequest, prepared: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    dataset = request.dataset
    return {
        **request.lineage,
        "run_id": request.run_id,
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset.name,
        "refit": request.refit,
        "synthetic": prepared["synthetic"] is not None,
        "spec_digest": dataset.digest,
        "data": {key: prepared[key] for key in ("digest", "rows", "clicks", "orphans", "tables", "synthetic")},
        "hyperparameters": asdict(dataset.model),
        "encoder": asdict(dataset.encoder),
        "seed": dataset.model.seed,
        "versions": versions,
    }


def _fit_and_save(
    rows: Split,
    request: TrainRequest,
    start: Start,
    live: Live | None,
    tracked: tracking.Run,
    seconds: dict[str, float],
) -> _Fit:
    """Encode the rows, fit and save the model, and measure everything that needs the encoded rows.

    seconds: receives the duration of each stage.
    """
    dataset, folder = request.dataset, request.artefact
    with ExitStack() as cached:
        with _timed(seconds, "encode"):
            encoded = cached.enter_context(encode_split.encode_learning_rows(rows, dataset))
            laid_out = cached.enter_context(fit.laid_out(encoded.rows, request.tasks))
            before_test = laid_out.filter("not test")
        with _timed(seconds, "fit"):
            continued = dataset.model.warm_start > 0
            fits = fit.fit_twice(before_test, start.dataset, start.model, continued=continued)
        with _timed(seconds, "save"):
            judged_folder = folder / artefact.JUDGED if rows.learns_from_test else folder
            judged = _save(judged_folder, dataset, encoded.judged, fits.judged)
        model, served = fits.judged, judged
        if rows.learns_from_test:
            with _timed(seconds, "refit"):
                model = fit.refit(laid_out, fits.judged, start.dataset, start.model)
                served = _save(folder, dataset, encoded.served, model)
        (folder / "encoder.npz").write_bytes(artefact.encoder_arrays(encoded.served))
        with _timed(seconds, "baseline"):
            baseline_model = baseline.fit(before_test, encoded.learned, dataset)
        sizes = (encoded.rows_train, encoded.rows_validation)
        if tracked.on:
            with _timed(seconds, "curve"):
                tracked.by_step(learning_curve.by_tree(fits.chosen, before_test, *sizes))
        with _timed(seconds, "drift"):
            sampled = drift.sample(rows.learning, encoded.learned + encoded.rows_test, dataset)
            profile = drift.profile(sampled, dataset, encoded.served)
            feature_drift = drift.compare(live, sampled) if live else {}
        with _timed(seconds, "leakage"):
            feature_auc = leakage.feature_auc(before_test, *sizes, dataset)
    return _Fit(
        model=model,
        served=served,
        judged=judged,
        baseline=baseline_model,
        rows={
            "rows_train": encoded.rows_train,
            "rows_validation": encoded.rows_validation,
            "rows_judged": encoded.rows_train if continued else encoded.learned,
            "rows_served": encoded.learned + encoded.rows_test,
        },
        profile=profile,
        drift=feature_drift,
        feature_auc=feature_auc,
    )


def _save(folder: Path, dataset: Spec, levels: Mapping[str, Levels], model: LightGBMClassificationModel) -> Pipeline:
    """Write a model's trees and its pipeline, and return the pipeline loaded again."""
    folder.mkdir(exist_ok=True)
    (folder / "model.txt").write_text(model.getNativeModel(), "utf-8")
    return pipeline.save(folder / "pipeline", dataset, levels, model, SparkSession.active())


def _evaluate(rows: Split, request: TrainRequest, fitted: _Fit, live: Live | None) -> Scored:
    """Score the test set with the judged model, and write the golden rows with the served model's probabilities."""
    dataset = request.dataset
    golden_rows = golden.rows(rows.test, dataset)
    scored = evaluation.score(
        rows.test,
        dataset,
        model=fitted.judged,
        baseline_model=fitted.baseline,
        live=live,
    )
    probabilities = evaluation.probabilities(golden_rows, dataset, fitted.served)
    (request.artefact / "golden.jsonl").write_text(golden.lines(golden_rows, probabilities), "utf-8")
    return scored


def _write_documents(
    request: TrainRequest, fitted: _Fit, scored: Scored, metrics: Mapping[str, Any], lineage: Mapping[str, Any]
) -> None:
    dataset, folder = request.dataset, request.artefact
    columns = (f"{feature} {value}" for feature, value in dataset.model_columns)
    importance = dict(zip(columns, fitted.model.getFeatureImportances("gain"), strict=True))
    artefact.write_json(folder / "metrics.json", metrics)
    artefact.write_json(folder / "profile.json", fitted.profile)
    artefact.write_json(folder / "lineage.json", lineage)
    artefact.write_json(folder / "contract.json", artefact.contract(dataset))
    card = model_card.html(dataset, metrics, lineage, importance, scored.labels, scored.probabilities)
    (folder / "model_card.html").write_text(card, "utf-8")


def already_trained(request: TrainRequest) -> bool:
    """Return whether the artefact exists, is complete and was trained from the same inputs."""
    if not (request.artefact / artefact.MANIFEST).exists():
        return False
    lineage = json.loads((request.artefact / "lineage.json").read_text("utf-8"))
    wanted = {
        **request.lineage,
        "dataset": request.dataset.name,
        "spec_digest": request.dataset.digest,
        "refit": request.refit,
    }
    same_data = lineage["data"]["digest"] == prepare.prepared(request.features, request.dataset)["digest"]
    return same_data and all(lineage.get(key) == value for key, value in wanted.items())


def _versions(spark: SparkSession) -> dict[str, str]:
    try:
        synapseml = version("synapseml")
    except PackageNotFoundError:  # on a cluster, the jar contains the Python package
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
    parser.add_argument("--lineage", default="{}", help="JSON object that is added to lineage.json")
    parser.add_argument("--tasks", default=0, type=int, help="LightGBM tasks; 0: one for each executor core")
    parser.add_argument(
        "--refit",
        default="all",
        choices=["judged", "all"],
        help="model to serve; all: it learned from the test rows, too",
    )
    parser.add_argument("--live", default="", help="artefact of the live model, or live.json, which names it")
    parser.add_argument("--experiment", default="", help="MLflow experiment to log to; empty: none")
    arguments = parser.parse_args()

    def work() -> None:
        dataset = spec.load(arguments.dataset)
        try:
            lineage = json.loads(arguments.lineage)
        except json.JSONDecodeError as fault:
            raise WorkloadError(f"--lineage is not JSON: {fault}") from None
        if not isinstance(lineage, dict):
            raise WorkloadError("--lineage must be a JSON object")
        request = TrainRequest(
            dataset=dataset,
            features=arguments.features,
            artefact=arguments.artefact,
            run_id=arguments.run_id,
            lineage=lineage,
            tasks=arguments.tasks,
            refit=arguments.refit,
            live=Path(arguments.live) if arguments.live else None,
        )
        if already_trained(request):
            print(f"{arguments.artefact} already holds the artefact of these inputs", flush=True)
            return
        with tracking.run(arguments.experiment, f"train {dataset.name} {arguments.run_id}") as tracked:
            metrics = train(session.start(), request, tracked)
        auc = "not defined" if metrics["auc"] is None else f"{metrics['auc']:.4f}"
        print(f"AUC {auc}, log loss {metrics['log_loss']:.4f}, {metrics['trees']} trees", flush=True)

    run(work)


if __name__ == "__main__":
    main()
