"""The training run of a stack: a running or successful one is adopted, a failed one is repeated."""

from types import SimpleNamespace
from typing import Any

import pytest
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service.jobs import RunResultState

from infra.release.training_stage import training_run


class Jobs:
    """Databricks' rules alone: a known token is answered with its run, whichever job it was of; that of a run which was
    deleted, as Databricks deletes them after 60 days, is an error."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.deleted: set[str] = set()
        self.result: RunResultState = RunResultState.SUCCESS

    def list_runs(self, job_id: int) -> list[Any]:
        return [run for run in self.runs.values() if run.job_id == job_id]

    def run_now(self, job_id: int, *, idempotency_token: str, job_parameters: dict[str, str]) -> Any:
        assert len(idempotency_token) <= 64
        if idempotency_token in self.deleted:
            raise InvalidParameterValue(f"The run with the idempotency_token {idempotency_token} was deleted.")
        state = SimpleNamespace(result_state=self.result, state_message="no such folder")
        run = SimpleNamespace(run_id=len(self.runs) + 1, job_id=job_id, state=state, tasks=[], run_page_url="page")
        return self.runs.setdefault(idempotency_token, run)

    def get_run(self, run_id: int) -> Any:
        return next(run for run in self.runs.values() if run.run_id == run_id)

    def wait_get_run_job_terminated_or_skipped(self, run_id: int, timeout: Any) -> Any:
        return self.get_run(run_id)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setattr(training_run, "_is_whole", lambda _inputs, _run_id: True)
    return Jobs()


def trained(jobs: Jobs, job_id: int = 7, lake: str = "2026-11-01") -> int:
    props = {"job_id": str(job_id), "lake_uid": lake, "input_digest": "d" * 64, "snapshot": "s", "timeout_minutes": 1}
    inputs = training_run.TrainingRunInputs.of(props)
    return int(training_run._TrainingRunProvider._run_to_end(SimpleNamespace(jobs=jobs), inputs, "").run_id)


def test_a_run_that_succeeded_is_found_again(jobs: Jobs) -> None:
    assert [trained(jobs), trained(jobs)] == [1, 1]


def test_a_run_that_databricks_has_deleted_is_repeated(jobs: Jobs) -> None:
    assert trained(jobs) == 1
    jobs.deleted = set(jobs.runs)
    jobs.runs = {}
    assert trained(jobs) == 1
    assert [token.rpartition("-")[2] for token in jobs.runs] == ["2"]


def test_a_failed_run_is_repeated_by_the_same_job_and_by_one_that_was_made_again(jobs: Jobs) -> None:
    jobs.result = RunResultState.FAILED
    for job_id in (7, 7, 8):
        with pytest.raises(training_run.TrainingFailed, match="ended as"):
            trained(jobs, job_id)
    jobs.result = RunResultState.SUCCESS
    assert trained(jobs, 8) == 4


def test_a_run_whose_artefact_is_gone_is_repeated_and_so_is_one_of_another_lake(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained(jobs) == 1
    assert trained(jobs, lake="2026-11-02") == 2
    monkeypatch.setattr(training_run, "_is_whole", lambda _inputs, run_id: run_id != 1)
    assert trained(jobs) == 3
