"""Loading of the live model by a training run."""

from pathlib import Path

import pytest

from workloads import live_model, spec


def test_missing_live_json_means_no_live_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert live_model.load(tmp_path / "live.json", spec.load("movielens")) is None
    assert "live.json does not exist: no model is live" in capsys.readouterr().out


def test_live_json_names_the_run_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "live.json").write_text('{"run_id": "7", "deployments": []}')
    loaded = live_model.load(tmp_path / "live.json", spec.load("movielens"))
    assert loaded == live_model.Live("7", skipped="its artefact is no longer in the lake")


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"deployments": []}', '{"run_id": ""}', '{"run_id": "../7"}'])
def test_live_json_without_a_valid_run_skips_the_comparison(tmp_path: Path, content: str) -> None:
    (tmp_path / "live.json").write_text(content)
    loaded = live_model.load(tmp_path / "live.json", spec.load("movielens"))
    assert loaded == live_model.Live("", skipped="live.json names no training run")
