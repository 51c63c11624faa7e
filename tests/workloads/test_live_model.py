"""How a training run finds the live model."""

from pathlib import Path

import pytest

from workloads import live_model, spec


def test_a_file_that_is_missing_means_that_nothing_is_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert live_model.load(tmp_path / "live.json", spec.load("movielens")) is None
    assert "live.json does not exist: nothing is live" in capsys.readouterr().out


def test_a_file_names_the_run_next_to_it(tmp_path: Path) -> None:
    (tmp_path / "live.json").write_text('{"run_id": "7", "deployments": []}')
    found = live_model.load(tmp_path / "live.json", spec.load("movielens"))
    assert found == live_model.Live("7", skipped="its artefact is no longer in the lake")


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"deployments": []}', '{"run_id": ""}', '{"run_id": "../7"}'])
def test_a_file_that_names_no_run_is_a_live_model_without_comparison(tmp_path: Path, content: str) -> None:
    (tmp_path / "live.json").write_text(content)
    found = live_model.load(tmp_path / "live.json", spec.load("movielens"))
    assert found == live_model.Live("", skipped="live.json names no training run")
