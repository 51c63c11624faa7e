"""`personalization evaluate`: rows of one's own, judged fold by fold by the job's tasks on a Spark of this machine."""

import json
from pathlib import Path

import pytest
from test_operations import personalization

from workloads import synthesize


@pytest.mark.spark
def test_every_row_judges_once_and_the_mean_is_of_the_folds(tmp_path: Path) -> None:
    rows, figures = synthesize.synthesize(tmp_path, 2_000), tmp_path / "figures.json"
    # Short runs end before the JVM's second compiler has paid for itself.
    own = {"TMPDIR": str(tmp_path), "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1"}
    done = personalization("evaluate", "--folds", "1x2", "--output", str(figures), str(rows), **own)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert [fold["rows"] > 900 for fold in found["folds"]] == [True, True]
    assert sum(fold["rows"] for fold in found["folds"]) == 2_000
    assert found["mean"]["auc"] == pytest.approx(sum(fold["auc"] for fold in found["folds"]) / 2)
    assert f"{found['mean']['auc']:.4f}" in done.stdout.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--folds", "5", "."), "--folds must be repeats x folds, such as 2x5, not '5'"),
        (("--dataset", "films", "."), "--dataset is 'films'; it can be"),
        (("/no/such/train.txt",), "/no/such/train.txt: there is no such file or folder of rows"),
    ],
)
def test_a_wrong_argument_is_told_before_spark_starts(arguments: tuple[str, ...], says: str) -> None:
    done = personalization("evaluate", *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
