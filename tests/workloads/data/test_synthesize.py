"""The generator: the same rows for the same seed, in Criteo's format, and marked as synthetic."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from workloads.data import synthesize
from workloads.evaluation.metrics import auc


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = synthesize.synthesize(tmp_path / "a", 3_000).read_bytes()
    assert synthesize.synthesize(tmp_path / "b", 3_000).read_bytes() == first
    assert synthesize.synthesize(tmp_path / "c", 3_000, seed=2).read_bytes() != first
    assert synthesize.synthesize(tmp_path / "d", 1_000).read_bytes() == b"".join(first.splitlines(True)[:1_000])
    zipped = synthesize.synthesize(tmp_path / "a", 3_000, zipped=True)
    assert gzip.decompress(zipped.read_bytes()) == first
    assert not (tmp_path / "a" / synthesize.FILE).exists()
    assert zipped.read_bytes() == synthesize.synthesize(tmp_path / "e", 3_000, zipped=True).read_bytes()


def test_rows_have_the_format_and_distributions_of_criteo(tmp_path: Path) -> None:
    lines = synthesize.synthesize(tmp_path, 8_000).read_text("ascii").splitlines()
    columns = list(zip(*(line.split("\t") for line in lines), strict=True))
    assert len(columns) == 40
    assert abs(np.mean([value == "1" for value in columns[0]]) - synthesize.CLICK_RATE) < 0.02
    missing = [np.mean([value == "" for value in column]) for column in columns[1:]]
    assert abs(missing[0] - 0.452) < 0.02
    assert abs(missing[11] - 0.777) < 0.02
    assert abs(missing[13 + 21] - 0.817) < 0.02
    assert min(int(value) for value in columns[2]) == -2
    distinct = [len(set(column) - {""}) for column in columns[14:]]
    assert abs(distinct[2] - 4_524) < 300
    assert abs(distinct[0] - 157) < 40
    assert all(len(value) == 8 for value in columns[16] if value)


def test_marker_holds_the_best_auc_that_a_model_can_reach(tmp_path: Path) -> None:
    synthesize.synthesize(tmp_path, 60_000)
    marker = json.loads((tmp_path / "SYNTHETIC.json").read_text("utf-8"))
    assert marker["synthetic"] is True
    assert marker["rows"] == 60_000
    truth = [(labels, p) for labels, p, _ in synthesize._chunks(60_000, 1, synthesize._intercept(1))]
    labels, p = (np.concatenate(parts) for parts in zip(*truth, strict=True))
    assert auc(labels, p) == pytest.approx(marker["best_auc"], abs=0.005)


def test_row_count_of_zero_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["synthesize", "--rows", "0", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="--rows must be 1 or more, not 0"):
        synthesize.main()
