"""Which of a job's runs is served where `release:model` is `latest`."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from databricks.sdk.service.jobs import RunResultState
from test_infra_gate import FLOORS, GOOD

from infra.release import candidate
from infra.release.artefact import ArtefactError

Runs = list[tuple[int, RunResultState, dict[str, Any] | None]]


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> Callable[[Runs], dict[str, Any]]:
    """The choice among runs, newest first, each with the metrics of its artefact, if it left one."""

    def choose(runs: Runs) -> dict[str, Any]:
        left = {str(run_id): metrics for run_id, _, metrics in runs}

        class Artefact:
            def __init__(self, endpoint: str, container: str, run_id: str) -> None:
                self.run_id = run_id

            def require_whole(self) -> None:
                if left[self.run_id] is None:
                    raise ArtefactError(f"{self.run_id} left no artefact")

            def json(self, name: str) -> Any:
                lineage = {"dataset": "movielens", "snapshot": f"day-{self.run_id}", "code": "c0de"}
                return left[self.run_id] if name == "metrics.json" else lineage

        listed = [
            SimpleNamespace(run_id=run_id, state=SimpleNamespace(result_state=state), run_page_url=f"https://{run_id}")
            for run_id, state, _ in runs
        ]
        jobs = SimpleNamespace(list_runs=lambda job_id, completed_only: listed)
        cloud = SimpleNamespace(databricks=lambda url, workspace: SimpleNamespace(jobs=jobs))
        monkeypatch.setattr(candidate.Cloud, "discover", lambda: cloud)
        monkeypatch.setattr(candidate, "Artefact", Artefact)
        monkeypatch.setattr(candidate.pulumi.log, "warn", said.append)
        return candidate._newest("w", "id", "7", "https://lake", "models", floors=FLOORS)

    said: list[str] = []
    choose.said = said  # type: ignore[attr-defined]
    return choose


def test_the_newest_that_passes_is_served_and_what_was_passed_over_is_told(newest: Any) -> None:
    found = newest(
        [
            (5, RunResultState.FAILED, None),
            (4, RunResultState.SUCCESS, {**GOOD, "auc": 0.55}),
            (3, RunResultState.SUCCESS, None),
            (2, RunResultState.SUCCESS, GOOD),
            (1, RunResultState.SUCCESS, GOOD),
        ]
    )
    assert (found["run_id"], found["run_page_url"], found["metrics"]) == ("2", "https://2", GOOD)
    assert found["lineage"] == {"dataset": "movielens", "snapshot": "day-2", "code": "c0de"}
    said = json.dumps(newest.said)
    assert len(newest.said) == 3
    for reason in ("run 5 ended as FAILED", "run 4 is refused: AUC 0.5500", "3 left no artefact"):
        assert reason in said


def test_without_a_candidate_nothing_is_served_and_each_run_says_why(newest: Any) -> None:
    with pytest.raises(candidate.NoCandidate, match=r"no run of job 7 left a model(.|\n)*- run 4 is refused: AUC"):
        newest([(4, RunResultState.SUCCESS, {**GOOD, "auc": 0.55})])
    with pytest.raises(candidate.NoCandidate, match="release:model to trained"):
        newest([])


def test_runs_beyond_the_last_twenty_are_no_candidates(newest: Any) -> None:
    failed: Runs = [(number, RunResultState.FAILED, None) for number in range(100, 80, -1)]
    with pytest.raises(candidate.NoCandidate):
        newest([*failed, (1, RunResultState.SUCCESS, GOOD)])
