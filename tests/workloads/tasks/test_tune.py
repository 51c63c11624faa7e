"""Tuning: trials start with the spec's parameters, and the result is a new, readable spec."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from testing.workloads import clicks
from testing.workloads.shop import Trained
from workloads import spec
from workloads.errors import WorkloadError
from workloads.tasks import tune
from workloads.training import fit

pytest_plugins = ["testing.workloads.spark"]
TUNED = {"num_leaves": 9, "learning_rate": 0.0625, "bagging_fraction": 1.0, "lambda_l2": 0.5}


@pytest.fixture(scope="module")
def laid_out(spark: SparkSession) -> Iterator[DataFrame]:
    with fit.laid_out(clicks.rows(spark, 3_000, validation=0.2), 0) as rows:
        yield rows


@pytest.mark.spark
def test_first_trial_has_the_parameters_of_the_spec_and_the_best_is_not_worse(laid_out: DataFrame) -> None:
    dataset = clicks.dataset(num_iterations=30, early_stopping_round=5)
    done = tune.search(laid_out, dataset, 4)
    assert len(done) == 4
    assert done[0].parameters == {name: getattr(dataset.model, name) for name in tune.SPACE}
    assert len({json.dumps(trial.parameters) for trial in done}) == 4
    for trial in done:
        assert trial.log_loss is not None
        assert 0.4 < trial.log_loss < 0.7
        assert 1 <= (trial.trees or 0) <= 30
        dataset.with_model(**trial.parameters)  # raises if a value is not allowed in a spec
    assert tune.best(done).log_loss == min(trial.log_loss or 9 for trial in done)


@pytest.mark.spark
def test_spec_that_cannot_be_fitted_is_an_error(laid_out: DataFrame) -> None:
    dataset = clicks.dataset(num_iterations=30, early_stopping_round=5, min_data_in_leaf=5_000)
    with pytest.raises(WorkloadError, match="the spec's current parameters: LightGBM returned"):
        tune.search(laid_out, dataset, 2)


@pytest.mark.spark
def test_failed_trial_is_recorded_and_is_never_the_best(laid_out: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tune.SPACE, "min_data_in_leaf", tune.IntDistribution(4_000, 5_000))
    done = tune.search(laid_out, clicks.dataset(num_iterations=30, early_stopping_round=5), 2)
    assert "LightGBM returned" in done[1].fault
    assert tune.best(done) is done[0]


@pytest.mark.spark
def test_tuning_without_early_stopping_is_refused(laid_out: DataFrame) -> None:
    with pytest.raises(WorkloadError, match="early_stopping_round is 0"):
        tune.search(laid_out, clicks.dataset(), 2)


@pytest.mark.spark
def test_tuning_writes_a_spec_and_its_evidence(
    shop: Trained, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = spec.load("movielens")
    short = dataclasses.replace(shop.dataset.model, num_iterations=40, early_stopping_round=5)
    monkeypatch.setattr(spec, "load", lambda name: dataclasses.replace(shop.dataset, model=short))
    arguments = ["--dataset", "movielens", "--features", str(shop.features), "--output", str(tmp_path / "tuned")]
    monkeypatch.setattr("sys.argv", ["tune", *arguments, "--trials", "3", "--rows", "2000"])
    tune.main()
    evidence = json.loads((tmp_path / "tuned" / "movielens.tuning.json").read_text())
    written = spec.parse((tmp_path / "tuned" / "movielens.yaml").read_text(), "movielens.yaml")
    assert len(evidence["trials"]) == 3
    best = min(evidence["trials"], key=lambda trial: trial["log_loss"])
    assert {name: getattr(written.model, name) for name in best["parameters"]} == best["parameters"]
    assert written.encoder == shipped.encoder
    assert evidence["spec_digest"] == shop.dataset.digest
    tested = evidence["last_part"]
    assert tested["before"]["rows"] == tested["after"]["rows"] > 500
    assert (tested["before"] == tested["after"]) == (best == evidence["trials"][0])


SPECS = Path(spec.__file__).parent / "datasets"
SHOP = SPECS.parents[1] / "docs" / "own-dataset" / "bookshop.yaml"


@pytest.mark.parametrize("file", [SPECS / "criteo.yaml", SPECS / "movielens.yaml", SHOP], ids=lambda file: file.stem)
def test_tuned_spec_changes_only_the_model_block(file: Path) -> None:
    name, text = file.stem, file.read_text()
    before = spec.parse(text, name)
    model = before.with_model(**TUNED).model
    after = tune.replace_model(text, model, name)
    assert spec.parse(after, name) == dataclasses.replace(before, model=model, digest=spec.parse(after, name).digest)
    removed = [line for line in text.splitlines() if line not in after.splitlines()]
    assert all(line.strip().partition(":")[0] in {"model", *TUNED} for line in removed)


def test_spec_without_a_model_block_is_refused() -> None:
    text = (SPECS / "movielens.yaml").read_text().replace("model:", "other:")
    with pytest.raises(WorkloadError, match="no block `model:`"):
        tune.replace_model(text, spec.load("movielens").model, "movielens.yaml")
