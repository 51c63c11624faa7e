"""Folds whose rows define no model or no figure, and where the figures are written."""

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

WHOLE = dict.fromkeys(SHOWN, 0.5) | {"rows": 10, "clicks": 5}


def test_a_mean_is_over_the_folds_that_define_the_figure() -> None:
    found = crossvalidate.means([WHOLE, WHOLE | {"auc": None, "log_loss": 0.1}])
    assert (found["mean"]["auc"], found["mean"]["log_loss"]) == (0.5, 0.3)
    assert (found["defined"]["auc"], found["defined"]["log_loss"]) == (1, 2)
    assert crossvalidate.means([WHOLE | {"auc": None}])["mean"]["auc"] is None


@pytest.mark.spark
def test_a_fold_that_cannot_train_has_no_figures_and_the_reason(spark: SparkSession, tmp_path: Path) -> None:
    """One click in all: the fold that it judges has none to learn from, and the other one has no AUC."""
    raw = write_shop(tmp_path / "raw", interactions=400)
    header, *lines = [line.split("\t") for line in (raw / "ml-100k.inter").read_text().splitlines()]
    rated = [[*line[:2], "5" if place == 200 else "1", line[3]] for place, line in enumerate(lines)]
    (raw / "ml-100k.inter").write_text("".join("\t".join(line) + "\n" for line in [header, *rated]))
    dataset = in_few_parts("movielens").with_model(num_iterations=2, early_stopping_round=0, min_data_in_leaf=1)
    prepare.prepare(spark, dataset, raw, tmp_path / "features")
    found = sorted(crossvalidate.folds(spark, dataset, tmp_path / "features", 1, 2), key=lambda of: of["clicks"])
    assert [(of["clicks"], of["auc"], of["log_loss"] is None) for of in found] == [(0, None, False), (1, None, True)]
    assert "0 of them clicks: both are needed" in found[1]["undefined"]
    assert sum(of["rows"] for of in found) == 400


def test_figures_of_no_rows_are_not_defined() -> None:
    assert set(metrics.summary(np.array([]), np.array([])).values()) == {0, None}


def test_the_folder_of_a_result_is_made_before_the_work(tmp_path: Path) -> None:
    writable(tmp_path / "not" / "there" / "figures.json")
    assert list((tmp_path / "not").iterdir()) == [tmp_path / "not" / "there"]
    assert list((tmp_path / "not" / "there").iterdir()) == []


@pytest.mark.parametrize("name", [".", "file/figures.json"])
def test_a_place_where_no_file_can_be_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkloadError, match="cannot be written"):
        writable(tmp_path / name)
