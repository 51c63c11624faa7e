"""The candidate of `release:model: latest` among a job's runs."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from databricks.sdk.service.jobs import RunResultState

from infra.cloud.artefact import ArtefactError
from infra.cloud.live_deployment import LiveModel
from infra.release.checks import candidate
from tests.infra.release.checks.test_gate import FLOORS, GOOD

Runs = list[tuple[int, RunResultState, dict[str, Any] | None]]


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> Callable[[Runs], dict[str, Any]]:
    """The choice among runs, newest first, each with the metrics of its artefact, if it left one."""

    def choose(runs: Runs, live: LiveModel | None = None) -> dict[str, Any]:
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
        cloud = SimpleNamespace(
            databricks=lambda url, workspace: SimpleNamespace(jobs=jobs), machine_learning=lambda workspace: None
        )
        monkeypatch.setattr(candidate.AzureClients, "discover", lambda: cloud)
        monkeypatch.setattr(candidate, "live_model", lambda client, endpoint: live)
        monkeypatch.setattr(candidate, "Artefact", Artefact)
        monkeypatch.setattr(candidate.pulumi.log, "warn", said.append)
        services = dict.fromkeys(("workspace_url", "workspace_id", "blob_endpoint", "models_container"), "")
        names = {"job_id": "7", "ml_workspace_id": "ml", "endpoint_name": "score"}
        return candidate._newest(candidate._Services(**services, **names), FLOORS)

    said: list[str] = []
    choose.said = said  # type: ignore[attr-defined]
    return choose


def test_newest_passing_run_is_the_candidate_and_skipped_runs_are_logged(newest: Any) -> None:
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


def test_missing_candidate_is_an_error_with_the_reason_of_each_run(newest: Any) -> None:
    with pytest.raises(candidate.NoCandidate, match=r"no run of job 7 has a model(.|\n)*- run 4 is refused: AUC"):
        newest([(4, RunResultState.SUCCESS, {**GOOD, "auc": 0.55})])
    with pytest.raises(candidate.NoCandidate, match="release:model to trained"):
        newest([])


def test_runs_beyond_the_last_twenty_are_not_candidates(newest: Any) -> None:
    failed: Runs = [(number, RunResultState.FAILED, None) for number in range(100, 80, -1)]
    with pytest.raises(candidate.NoCandidate):
        newest([*failed, (1, RunResultState.SUCCESS, GOOD)])


def compared(run_id: str, **found: Any) -> dict[str, Any]:
    """Metrics of a run that was compared with another one."""
    same = {"auc_change_interval": [-0.001, 0.001], "log_loss_change_interval": [-0.001, 0.001]}
    return {**GOOD, "live": {"run_id": run_id, **(found or same)}}


def test_run_is_a_candidate_only_if_compared_with_the_live_model(newest: Any) -> None:
    live = LiveModel("m2-live", "2")
    worse = compared("2", auc_change_interval=[-0.03, -0.02], log_loss_change_interval=[0.0, 0.0])
    found = newest(
        [
            (7, RunResultState.SUCCESS, worse),
            (6, RunResultState.SUCCESS, {**GOOD, "live": None}),
            (5, RunResultState.SUCCESS, compared("1")),
            (4, RunResultState.SUCCESS, compared("2")),
            (2, RunResultState.SUCCESS, GOOD),
        ],
        live,
    )
    assert found["run_id"] == "4"
    reasons = (
        "run 7 is refused: AUC is 0.0200 or more below that of the live model, run 2",
        "run 6 is refused: it was compared with nothing, and run 2 is live",
        "run 5 is refused: it was compared with run 1, and run 2 is live",
    )
    assert len(newest.said) == 3
    for said, reason in zip(newest.said, reasons, strict=True):
        assert reason in said


def test_live_model_is_the_candidate_if_no_later_run_passes(newest: Any) -> None:
    runs = [(3, RunResultState.SUCCESS, {**GOOD, "live": None}), (2, RunResultState.SUCCESS, {**GOOD, "live": None})]
    assert newest(runs, LiveModel("m2-live", "2"))["run_id"] == "2"


def test_a_live_model_that_cannot_score_todays_rows_is_named_and_does_not_stop_the_release(newest: Any) -> None:
    reason = "it needs feature 'age', which the spec no longer has"
    runs = [(3, RunResultState.SUCCESS, compared("2", skipped=reason))]
    assert newest(runs, LiveModel("m2-live", "2"))["run_id"] == "3"
    assert newest.said == [f"run 3 could not be compared with the live model, of run 2: {reason}"]


def test_live_model_without_a_recorded_run_allows_no_candidate(newest: Any) -> None:
    with pytest.raises(candidate.NoCandidate, match="no training run is recorded for the live deployment by-hand"):
        newest([(3, RunResultState.SUCCESS, GOOD)], LiveModel("by-hand", ""))
