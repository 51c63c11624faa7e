"""Hyperparameters by trials: what the spec said is the first of them, and what was found is a spec that reads well."""

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
FOUND = {"num_leaves": 9, "learning_rate": 0.0625, "bagging_fraction": 1.0, "lambda_l2": 0.5}


@pytest.fixture(scope="module")
def laid_out(spark: SparkSession) -> Iterator[DataFrame]:
    with fit.laid_out(clicks.rows(spark, 3_000, validation=0.2), 0) as rows:
        yield rows


@pytest.mark.spark
def test_the_spec_is_the_first_trial_and_the_best_is_no_worse(laid_out: DataFrame) -> None:
    dataset = clicks.dataset(num_iterations=30, early_stopping_round=5)
    done = tune.search(laid_out, dataset, 4)
    assert len(done) == 4
    assert done[0].parameters == {name: getattr(dataset.model, name) for name in tune.SPACE}
    assert len({json.dumps(trial.parameters) for trial in done}) == 4
    for trial in done:
        assert trial.log_loss is not None
        assert 0.4 < trial.log_loss < 0.7
        assert 1 <= (trial.trees or 0) <= 30
        dataset.with_model(**trial.parameters)  # a spec checks its own values
    assert tune.best(done).log_loss == min(trial.log_loss or 9 for trial in done)


@pytest.mark.spark
def test_a_spec_that_cannot_be_fitted_is_told(laid_out: DataFrame) -> None:
    dataset = clicks.dataset(num_iterations=30, early_stopping_round=5, min_data_in_leaf=5_000)
    with pytest.raises(WorkloadError, match="the spec as it stands: LightGBM returned"):
        tune.search(laid_out, dataset, 2)


@pytest.mark.spark
def test_a_trial_that_fails_is_kept_with_its_fault_and_is_never_the_best(
    laid_out: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tune.SPACE, "min_data_in_leaf", tune.IntDistribution(4_000, 5_000))
    done = tune.search(laid_out, clicks.dataset(num_iterations=30, early_stopping_round=5), 2)
    assert "LightGBM returned" in done[1].fault
    assert tune.best(done) is done[0]


@pytest.mark.spark
def test_a_spec_without_early_stopping_has_nothing_to_judge_by(laid_out: DataFrame) -> None:
    with pytest.raises(WorkloadError, match="early_stopping_round is 0"):
        tune.search(laid_out, clicks.dataset(), 2)


@pytest.mark.spark
def test_what_trials_find_becomes_a_spec_with_its_evidence(
    shop: Trained, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = spec.load("movielens")
    short = dataclasses.replace(shop.dataset.model, num_iterations=40, early_stopping_round=5)
    monkeypatch.setattr(spec, "load", lambda name: dataclasses.replace(shop.dataset, model=short))
    arguments = ["--dataset", "movielens", "--features", str(shop.features), "--output", str(tmp_path / "found")]
    monkeypatch.setattr("sys.argv", ["tune", *arguments, "--trials", "3", "--rows", "2000"])
    tune.main()
    evidence = json.loads((tmp_path / "found" / "movielens.tuning.json").read_text())
    written = spec.parse((tmp_path / "found" / "movielens.yaml").read_text(), "movielens.yaml")
    assert len(evidence["trials"]) == 3
    best = min(evidence["trials"], key=lambda trial: trial["log_loss"])
    assert {name: getattr(written.model, name) for name in best["parameters"]} == best["parameters"]
    assert written.encoder == shipped.encoder
    assert evidence["spec_digest"] == shop.dataset.digest
    judged = evidence["last_part"]
    assert judged["before"]["rows"] == judged["after"]["rows"] > 500
    assert (judged["before"] == judged["after"]) == (best == evidence["trials"][0])


SPECS = Path(spec.__file__).parent / "datasets"
SHOP = SPECS.parents[1] / "docs" / "own-dataset" / "bookshop.yaml"


@pytest.mark.parametrize("file", [SPECS / "criteo.yaml", SPECS / "movielens.yaml", SHOP], ids=lambda file: file.stem)
def test_all_of_a_spec_but_its_model_stays_letter_by_letter(file: Path) -> None:
    name, text = file.stem, file.read_text()
    before = spec.parse(text, name)
    found = before.with_model(**FOUND).model
    after = tune.rewritten(text, found, name)
    assert spec.parse(after, name) == dataclasses.replace(before, model=found, digest=spec.parse(after, name).digest)
    kept = [line for line in text.splitlines() if line in after.splitlines()]
    lost = [line for line in text.splitlines() if line not in kept]
    assert all(line.strip().partition(":")[0] in {"model", *FOUND} for line in lost)


def test_a_spec_without_a_block_to_write_is_refused() -> None:
    text = (SPECS / "movielens.yaml").read_text().replace("model:", "other:")
    with pytest.raises(WorkloadError, match="no block `model:`"):
        tune.rewritten(text, spec.load("movielens").model, "movielens.yaml")
