"""Tune LightGBM's parameters for a dataset by sequential trials on a sample, and write a new spec with the evidence.

    tune --dataset movielens --features <table> --output <folder> --trials 30 --rows 500000 --experiment <name>

Rows are encoded once for all trials, as in training. Each trial fits `--rows` of the training rows. The validation set
stops the fit early and its log loss is the trial's objective. The first trial has the spec's current parameters. The
test set has no influence on the choice: at the end the current and the tuned spec are each trained on all rows and
evaluated on the test set, for the evidence.

Writes `<dataset>.yaml` and `<dataset>.tuning.json`. Does not change the encoder, which is the same for all trials, or
the number of trees, which early stopping determines.
"""

import argparse
import dataclasses
import itertools
import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from workloads import session, spec, tracking
from workloads.data import split, tables
from workloads.errors import WorkloadError
from workloads.features import encode_split
from workloads.features.sampling import in_sample
from workloads.spec import Model, Spec
from workloads.tasks import crossvalidate, prepare
from workloads.tasks.command import run, writable
from workloads.training import fit, spark_ml_io

SPACE: dict[str, BaseDistribution] = {
    "num_leaves": IntDistribution(4, 255, log=True),
    "learning_rate": FloatDistribution(0.02, 0.3, log=True),
    "min_data_in_leaf": IntDistribution(5, 1_000, log=True),
    "feature_fraction": FloatDistribution(0.2, 1),
    "bagging_fraction": FloatDistribution(0.4, 1),
    "lambda_l2": FloatDistribution(0, 50),
}


@dataclasses.dataclass(frozen=True)
class Trial:
    parameters: Mapping[str, int | float]
    log_loss: float | None
    """Log loss on the validation set; None if the trial failed."""
    trees: int | None
    seconds: float
    fault: str = ""


def search(laid_out: DataFrame, dataset: Spec, count: int, tracked: tracking.Run = tracking.OFF) -> list[Trial]:
    """Run `count` trials on (label, validation, features).

    The first trial has the spec's current parameters. Raises `WorkloadError` if that one fails; a later one may fail.
    """
    if not dataset.model.early_stopping_round:
        raise WorkloadError(
            "early_stopping_round is 0: tuning needs a validation set to evaluate trials on. Set it to 1 or more"
        )
    done: list[Trial] = []
    validation = laid_out.filter("validation").localCheckpoint()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=dataset.model.seed))
    study.enqueue_trial({name: getattr(dataset.model, name) for name in SPACE})
    for number in range(1, count + 1):
        suggestion, child = study.ask(SPACE), tracked.child(f"trial {number}")
        parameters = {name: _rounded(value) for name, value in suggestion.params.items()}
        trial = _run_trial(laid_out, validation, dataset, parameters)
        _log(child, trial)
        if trial.log_loss is None:
            if number == 1:
                raise WorkloadError(f"the spec's current parameters: {trial.fault}")
            study.tell(suggestion, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(suggestion, trial.log_loss)
        done.append(trial)
        outcome = trial.fault or f"{trial.log_loss:.5f}  {trial.trees:>5} trees"
        print(f"{number:>5}  {outcome}  {json.dumps(trial.parameters)}", flush=True)
    return done


def _log(child: tracking.Run, trial: Trial) -> None:
    values = dataclasses.asdict(trial)
    child.parameters({**values.pop("parameters"), "fault": values.pop("fault")})
    child.metrics(values)
    child.end(trial.log_loss is not None)


def _run_trial(laid_out: DataFrame, validation: DataFrame, dataset: Spec, parameters: Mapping[str, Any]) -> Trial:
    started = time.monotonic()
    try:
        model = fit.fit(laid_out, dataset.with_model(**parameters))
    except WorkloadError as fault:
        return Trial(parameters, None, None, time.monotonic() - started, str(fault))
    loss = _log_loss(model.transform(validation))
    return Trial(parameters, loss, model.getBoosterNumTotalIterations(), time.monotonic() - started)


def best(done: list[Trial]) -> Trial:
    """Return the trial with the lowest log loss."""
    return min((trial for trial in done if trial.log_loss is not None), key=lambda trial: trial.log_loss or 0)


def replace_model(text: str, model: Model, source: str) -> str:
    """Return a spec's YAML with another `model:` block; everything else stays unchanged."""
    values = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    changed = {f.name: values[f.name] for f in dataclasses.fields(model) if values[f.name] != f.default}
    block = yaml.safe_dump({"model": changed}, sort_keys=False)
    new, count = re.subn(r"^model:.*\n(?:(?:[ \t].*)?\n)*", lambda _: block, text + "\n", count=1, flags=re.M)
    if not count or spec.parse(new, source).model != model:
        raise WorkloadError(f"{source}: no block `model:` to replace. Write `model:` at the start of a line")
    return new


def _rounded(value: float) -> float:
    """Round to three digits: further ones are noise, and make a spec harder to read."""
    return value if isinstance(value, int) else float(f"{value:.3g}")


def _log_loss(scored: DataFrame) -> float:
    click = spark_ml_io.vector_to_array("probability")[1]
    probability = F.when(F.col("label") == 1, click).otherwise(1 - click)  # that of the observed label
    row = scored.agg(F.avg(-F.log(F.greatest(probability, F.lit(1e-15)))).alias("log_loss")).first()
    assert row is not None
    return float(row.log_loss)


def _tune(dataset: Spec, arguments: argparse.Namespace, tracked: tracking.Run) -> None:
    spark = session.start()
    session.check_for_training(spark)
    prepared = prepare.prepared(arguments.features, dataset)
    inputs = {"dataset": dataset.name, "spec_digest": dataset.digest, "data_digest": prepared["digest"]}
    tracked.parameters(
        {**inputs, "trials": arguments.trials, "rows": arguments.rows, **dataclasses.asdict(dataset.model)}
    )
    rows = split.by_time(spark.read.parquet(tables.literal(arguments.features)), prepared, dataset)
    with encode_split.encode_learning_rows(rows, dataset) as encoded:
        sampled = F.col("validation") | in_sample(arguments.rows / encoded.rows_train)
        with fit.laid_out(encoded.rows.filter(sampled), 0) as laid_out:
            done = search(laid_out, dataset, arguments.trials, tracked)
        losses = (trial.log_loss or math.inf for trial in done)
        tracked.by_step({"best/log_loss": list(itertools.accumulate(losses, min))})
        tuned = dataset.with_model(**best(done).parameters)
        with fit.laid_out(encoded.rows, 0) as laid_out:
            test_metrics = {"before": crossvalidate.fit_and_evaluate(laid_out, encoded.judged, rows.test, dataset)}
            test_metrics["after"] = test_metrics["before"]
            if tuned != dataset:
                test_metrics["after"] = crossvalidate.fit_and_evaluate(laid_out, encoded.judged, rows.test, tuned)
    evidence = {
        "dataset": dataset.name,
        "spec_digest": dataset.digest,
        "data": {key: prepared[key] for key in ("digest", "rows", "clicks", "synthetic")},
        "training_rows_of_a_trial": arguments.rows,
        "trials": [dataclasses.asdict(trial) for trial in done],
        "best": dataclasses.asdict(best(done)),
        "last_part": test_metrics,
    }
    file = f"{dataset.name}.yaml"
    text = replace_model(spec.text(dataset.name), tuned.model, file)
    documents = {file: text, f"{dataset.name}.tuning.json": json.dumps(evidence, indent=1) + "\n"}
    for name, content in documents.items():
        (arguments.output / name).write_text(content, "utf-8")
        tracked.file(arguments.output / name)
    tracked.metrics(test_metrics)
    for when, summary in test_metrics.items():
        auc = "not defined" if summary["auc"] is None else f"{summary['auc']:.4f}"
        print(f"test set, {when}: AUC {auc}, log loss {summary['log_loss']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tune", description="Tune LightGBM's parameters for a dataset by trials.")
    parser.add_argument("--dataset", required=True, help="name of a dataset spec")
    parser.add_argument("--features", required=True, type=Path, help="folder of the prepared table")
    parser.add_argument("--output", required=True, type=Path, help="folder for the new spec and the evidence")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--rows", type=int, default=500_000, help="training rows of a trial")
    parser.add_argument("--experiment", default="", help="MLflow experiment to log the trials to; empty: none")
    arguments = parser.parse_args()

    def work() -> None:
        if arguments.trials < 1 or arguments.rows < 1:
            raise WorkloadError("--trials and --rows must be 1 or more")
        writable(arguments.output / f"{arguments.dataset}.yaml")
        dataset = spec.load(arguments.dataset)
        with tracking.run(arguments.experiment, f"tune {dataset.name}") as tracked:
            _tune(dataset, arguments, tracked)

    run(work)


if __name__ == "__main__":
    main()
