"""Cross-validation: folds that define no model or no metric, and the file of results."""

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from testing.workloads.shop import in_few_parts, write_shop
from workloads.errors import WorkloadError
from workloads.evaluation import metrics
from workloads.tasks import crossvalidate, prepare
from workloads.tasks.command import writable
from workloads.tasks.crossvalidate import SHOWN

pytest_plugins = ["testing.workloads.spark"]

COMPLETE = dict.fromkeys(SHOWN, 0.5) | {"rows": 10, "clicks": 5}


def test_mean_covers_the_folds_that_define_the_metric() -> None:
    means = crossvalidate.means([COMPLETE, COMPLETE | {"auc": None, "log_loss": 0.1}])
    assert (means["mean"]["auc"], means["mean"]["log_loss"]) == (0.5, 0.3)
    assert (means["defined"]["auc"], means["defined"]["log_loss"]) == (1, 2)
    assert crossvalidate.means([COMPLETE | {"auc": None}])["mean"]["auc"] is None


@pytest.mark.spark
def test_fold_without_a_model_has_the_reason_and_no_metrics(spark: SparkSession, tmp_path: Path) -> None:
    """There is a single click: the fold that tests on it cannot train a model, and the other fold has no AUC."""
    raw = write_shop(tmp_path / "raw", interactions=400)
    header, *lines = [line.split("\t") for line in (raw / "ml-100k.inter").read_text().splitlines()]
    rated = [[*line[:2], "5" if index == 200 else "1", line[3]] for index, line in enumerate(lines)]
    (raw / "ml-100k.inter").write_text("".join("\t".join(line) + "\n" for line in [header, *rated]))
    dataset = in_few_parts("movielens").with_model(num_iterations=1, early_stopping_round=0, min_data_in_leaf=1)
    prepare.prepare(spark, dataset, raw, tmp_path / "features")
    folds = crossvalidate.evaluate_folds(spark, dataset, tmp_path / "features", repeats=1, count=2)
    without_click, with_click = sorted(folds, key=lambda fold: fold["clicks"])
    assert (without_click["clicks"], without_click["auc"], without_click["log_loss"] is None) == (0, None, False)
    assert (with_click["clicks"], with_click["auc"], with_click["log_loss"] is None) == (1, None, True)
    assert "0 of them clicks: both are needed" in with_click["undefined"]
    assert without_click["rows"] + with_click["rows"] == 400


def test_metrics_of_no_rows_are_undefined() -> None:
    assert set(metrics.summary(np.array([]), np.array([])).values()) == {0, None}


def test_output_folder_is_created_before_the_work(tmp_path: Path) -> None:
    writable(tmp_path / "not" / "there" / "figures.json")
    assert list((tmp_path / "not").iterdir()) == [tmp_path / "not" / "there"]
    assert list((tmp_path / "not" / "there").iterdir()) == []


@pytest.mark.parametrize("name", [".", "file/figures.json"])
def test_output_path_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkloadError, match="cannot be written"):
        writable(tmp_path / name)
