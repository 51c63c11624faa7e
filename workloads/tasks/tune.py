"""LightGBM's parameters for a dataset, by trials one after the other on a sample; the best ones as a new spec, with
the evidence.

    tune --dataset movielens --features <table> --output <folder> --trials 30 --rows 500000 --experiment <name>

Rows are counted and encoded as training does, once for all trials. Each trial fits `--rows` of the training rows and
is stopped by the part that comes after them in time, which also judges it, by log loss; the spec as it stands is the
first trial. The last part takes no part in the choice: at the end the spec as it was and the one that was found are
each trained on all rows and judged on it, for the evidence.

Writes `<dataset>.yaml` and `<dataset>.tuning.json`, and leaves the encoder and the number of trees as they are: the
former is the same for all trials, the latter is early stopping's.
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
    """On the part that stops the fit; None where it failed."""
    trees: int | None
    seconds: float
    fault: str = ""


def search(laid_out: DataFrame, dataset: Spec, count: int, tracked: tracking.Run = tracking.OFF) -> list[Trial]:
    """On (label, validation, features). The first trial is the dataset as it stands: raises `WorkloadError` when that
    one fails; a later one may."""
    if not dataset.model.early_stopping_round:
        raise WorkloadError("early_stopping_round is 0: the part that stops a fit is what judges a trial")
    done: list[Trial] = []
    validation = laid_out.filter("validation").localCheckpoint()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=dataset.model.seed))
    study.enqueue_trial({name: getattr(dataset.model, name) for name in SPACE})
    for number in range(1, count + 1):
        asked, child = study.ask(SPACE), tracked.child(f"trial {number}")
        trial = _tried(laid_out, validation, dataset, {name: _short(of) for name, of in asked.params.items()})
        _log(child, trial)
        if trial.log_loss is None:
            if number == 1:
                raise WorkloadError(f"the spec as it stands: {trial.fault}")
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(asked, trial.log_loss)
        done.append(trial)
        outcome = trial.fault or f"{trial.log_loss:.5f}  {trial.trees:>5} trees"
        print(f"{number:>5}  {outcome}  {json.dumps(trial.parameters)}", flush=True)
    return done


def _log(child: tracking.Run, trial: Trial) -> None:
    found = dataclasses.asdict(trial)
    child.parameters({**found.pop("parameters"), "fault": found.pop("fault")})
    child.metrics(found)
    child.end(trial.log_loss is not None)


def _tried(laid_out: DataFrame, validation: DataFrame, dataset: Spec, parameters: Mapping[str, Any]) -> Trial:
    started = time.monotonic()
    try:
        model = fit.fit(laid_out, dataset.with_model(**parameters))
    except WorkloadError as fault:
        return Trial(parameters, None, None, time.monotonic() - started, str(fault))
    loss = _log_loss(model.transform(validation))
    return Trial(parameters, loss, model.getBoosterNumTotalIterations(), time.monotonic() - started)


def best(done: list[Trial]) -> Trial:
    return min((trial for trial in done if trial.log_loss is not None), key=lambda trial: trial.log_loss or 0)


def rewritten(text: str, model: Model, source: str) -> str:
    """A spec's YAML with another `model`, and all the rest of it letter by letter."""
    given = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    said = {f.name: given[f.name] for f in dataclasses.fields(model) if given[f.name] != f.default}
    block = yaml.safe_dump({"model": said}, sort_keys=False)
    new, found = re.subn(r"^model:.*\n(?:(?:[ \t].*)?\n)*", lambda _: block, text + "\n", count=1, flags=re.M)
    if not found or spec.parse(new, source).model != model:
        raise WorkloadError(f"{source}: there is no block `model:` that could be written anew")
    return new


def _short(value: float) -> float:
    """Three digits: more would be chance, and a spec is for people too."""
    return value if isinstance(value, int) else float(f"{value:.3g}")


def _log_loss(scored: DataFrame) -> float:
    click = spark_ml_io.vector_to_array("probability")[1]
    given = F.when(F.col("label") == 1, click).otherwise(1 - click)
    row = scored.agg(F.avg(-F.log(F.greatest(given, F.lit(1e-15)))).alias("of")).first()
    assert row is not None
    return float(row.of)


def _tune(dataset: Spec, arguments: argparse.Namespace, tracked: tracking.Run) -> None:
    spark = session.start()
    session.check_for_training(spark)
    prepared = prepare.prepared(arguments.features, dataset)
    given = {"dataset": dataset.name, "spec_digest": dataset.digest, "data_digest": prepared["digest"]}
    tracked.parameters(
        {**given, "trials": arguments.trials, "rows": arguments.rows, **dataclasses.asdict(dataset.model)}
    )
    rows = split.by_time(spark.read.parquet(tables.literal(arguments.features)), prepared, dataset)
    with encode_split.encoded(rows.learning, dataset) as encoded:
        share = arguments.rows / encoded.totals.rows[-1]
        with fit.laid_out(encoded.rows.filter(F.col("validation") | fit.drawn(share)), 0) as some:
            done = search(some, dataset, arguments.trials, tracked)
        losses = (trial.log_loss or math.inf for trial in done)
        tracked.by_step({"best/log_loss": list(itertools.accumulate(losses, min))})
        found = dataset.with_model(**best(done).parameters)
        with fit.laid_out(encoded.rows, 0) as laid_out:
            judged = {"before": crossvalidate.fitted(laid_out, encoded.levels, rows.test, dataset)}
            judged["after"] = judged["before"]
            if found != dataset:
                judged["after"] = crossvalidate.fitted(laid_out, encoded.levels, rows.test, found)
    evidence = {
        "dataset": dataset.name,
        "spec_digest": dataset.digest,
        "data": {key: prepared[key] for key in ("digest", "rows", "clicks", "synthetic")},
        "training_rows_of_a_trial": arguments.rows,
        "trials": [dataclasses.asdict(trial) for trial in done],
        "best": dataclasses.asdict(best(done)),
        "last_part": judged,
    }
    file = f"{dataset.name}.yaml"
    text = rewritten(spec.text(dataset.name), found.model, file)
    written = {file: text, f"{dataset.name}.tuning.json": json.dumps(evidence, indent=1) + "\n"}
    for name, content in written.items():
        (arguments.output / name).write_text(content, "utf-8")
        tracked.file(arguments.output / name)
    tracked.metrics(judged)
    for when, of in judged.items():
        auc = "not defined" if of["auc"] is None else f"{of['auc']:.4f}"
        print(f"last part {when}: AUC {auc}, log loss {of['log_loss']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tune", description="Choose LightGBM's parameters for a dataset by trials.")
    parser.add_argument("--dataset", required=True, help="name of a dataset spec")
    parser.add_argument("--features", required=True, type=Path, help="folder of the prepared table")
    parser.add_argument("--output", required=True, type=Path, help="folder for the new spec and the evidence")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--rows", type=int, default=500_000, help="training rows of a trial")
    parser.add_argument("--experiment", default="", help="MLflow experiment to log the trials to; empty: to none")
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
