"""The candidate of `release:model: latest` among a job's runs."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from databricks.sdk import WorkspaceClient

from infra.release.checks import candidate
from sandbox.databricks.execution.cluster import TaskFailed
from testing.gate_metrics import GOOD_METRICS, THRESHOLDS
from testing.sandbox.data import Served
from testing.sandbox.databricks import connect, create, finished, task, trusted
from testing.sandbox.instant_runs import instant_runs
from testing.sandbox.live_model import ml_workspace_id, put_endpoint
from testing.sandbox.process import in_environment

WEAK = {**GOOD_METRICS, "auc": 0.55}
UNCOMPARED = {**GOOD_METRICS, "live": None}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, in_environment(running.login):
        running.put("Microsoft.Databricks/workspaces/ws", location="westeurope", properties={})
        running.assign(running.account("lake", "models"), running.sandbox.identity.object_id)
        yield running


class Job:
    """A job whose runs leave the artefacts that a test chooses."""

    def __init__(self, cloud: Served) -> None:
        self._cloud = cloud
        self._workspace: WorkspaceClient = connect(cloud)
        self._id = create(self._workspace, task("train"))

    def run(self, metrics: dict[str, Any] | None, *, fails: bool = False) -> str:
        """Run the job and return the run's id. A run without metrics leaves no artefact."""

        def train(run_id: str) -> None:
            if fails:
                raise TaskFailed("no such folder")
            if metrics is None:
                return
            folder = self._cloud.sandbox.container_folder("lake", "models") / run_id
            lineage = {"dataset": "movielens", "snapshot": f"day-{run_id}", "code": "c0de", "seed": 1}
            folder.mkdir()
            for name, content in (("metrics", metrics), ("lineage", lineage), ("MANIFEST", {})):
                (folder / f"{name}.json").write_text(json.dumps(content))

        with instant_runs(train):
            return str(finished(self._workspace, self._workspace.jobs.run_now(self._id).run_id).run_id)

    def go_live(self, run_id: str) -> None:
        """Make the model of this run the live one."""
        put_endpoint(self._cloud, self._endpoint, {"m1": 100}, {"1": run_id})

    def go_live_unrecorded(self) -> None:
        """Make a model without a recorded run the live one."""
        put_endpoint(self._cloud, self._endpoint, {"m2": 100}, {})

    @property
    def _endpoint(self) -> str:
        return f"score-{self._id}"

    def candidate(self) -> dict[str, Any]:
        """The outputs of the chosen run."""

        async def outputs() -> dict[str, Any]:
            found = candidate.newest(
                workspace_url=self._cloud.sandbox.authority,
                workspace_id=f"{self._cloud.group}/providers/Microsoft.Databricks/workspaces/ws",
                job_id=str(self._id),
                blob_endpoint=f"{self._cloud.sandbox.url}/blob/lake",
                models_container="models",
                ml_workspace_id=ml_workspace_id(self._cloud),
                endpoint_name=self._endpoint,
                thresholds=THRESHOLDS,
            )
            return {name: await output.future() for name, output in vars(found).items()}

        return asyncio.run(outputs())


@pytest.fixture
def job(cloud: Served) -> Job:
    return Job(cloud)


def compared(run_id: str, **found: Any) -> dict[str, Any]:
    """Metrics of a run that was compared with another one."""
    same = {"auc_change_interval": [-0.001, 0.001], "log_loss_change_interval": [-0.001, 0.001]}
    return {**GOOD_METRICS, "live": {"run_id": run_id, **(found or same)}}


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Warnings of the program, in their order."""
    collected: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", lambda message, *_: collected.append(message))
    return collected


def assert_warned(warnings: list[str], *reasons: str) -> None:
    assert len(warnings) == len(reasons)
    for warning, reason in zip(warnings, reasons, strict=True):
        assert reason in warning


def test_newest_passing_run_is_the_candidate_and_skipped_runs_are_logged(job: Job, warnings: list[str]) -> None:
    job.run(GOOD_METRICS)
    good = job.run(GOOD_METRICS)
    incomplete, weak, failed = job.run(None), job.run(WEAK), job.run(None, fails=True)
    found = job.candidate()
    assert (found["run_id"], found["metrics"]) == (good, GOOD_METRICS)
    assert found["run_page_url"].endswith(f"/runs/{good}")
    assert found["lineage"] == {"dataset": "movielens", "snapshot": f"day-{good}", "code": "c0de"}
    assert_warned(
        warnings,
        f"run {failed} ended as FAILED",
        f"run {weak} is refused: AUC 0.5500",
        f"models/{incomplete}/MANIFEST.json is not in the lake",
    )


def test_missing_candidate_is_an_error_with_the_reason_of_each_run(job: Job) -> None:
    with pytest.raises(candidate.NoCandidate, match="release:model to trained"):
        job.candidate()
    weak = job.run(WEAK)
    with pytest.raises(
        candidate.NoCandidate, match=rf"no run of job \d+ has a model(.|\n)*- run {weak} is refused: AUC"
    ):
        job.candidate()


def test_runs_beyond_the_last_twenty_are_not_candidates(job: Job) -> None:
    good = job.run(GOOD_METRICS)
    for _ in range(19):
        job.run(None, fails=True)
    assert job.candidate()["run_id"] == good
    job.run(None, fails=True)
    with pytest.raises(candidate.NoCandidate):
        job.candidate()


def test_run_is_a_candidate_only_if_compared_with_the_live_model(job: Job, warnings: list[str]) -> None:
    earlier, live = job.run(GOOD_METRICS), job.run(GOOD_METRICS)
    job.go_live(live)
    good = job.run(compared(live))
    of_earlier, uncompared = job.run(compared(earlier)), job.run(UNCOMPARED)
    worse = job.run(compared(live, auc_change_interval=[-0.03, -0.02], log_loss_change_interval=[0.0, 0.0]))
    assert job.candidate()["run_id"] == good
    assert_warned(
        warnings,
        f"run {worse} is refused: AUC is 0.0200 or more below that of the live model, run {live}",
        f"run {uncompared} is refused: it was compared with nothing, and run {live} is live",
        f"run {of_earlier} is refused: it was compared with run {earlier}, and run {live} is live",
    )


def test_live_model_is_the_candidate_if_no_later_run_passes(job: Job) -> None:
    live = job.run(UNCOMPARED)
    job.go_live(live)
    job.run(UNCOMPARED)
    assert job.candidate()["run_id"] == live


def test_live_model_that_cannot_score_new_rows_is_reported_and_does_not_stop_the_release(
    job: Job, warnings: list[str]
) -> None:
    live = job.run(GOOD_METRICS)
    job.go_live(live)
    reason = "it needs feature 'age', which the spec no longer has"
    run_id = job.run(compared(live, skipped=reason))
    assert job.candidate()["run_id"] == run_id
    assert_warned(warnings, f"run {run_id} could not be compared with the live model, of run {live}: {reason}")


def test_live_model_without_a_recorded_run_allows_no_candidate(job: Job) -> None:
    job.run(GOOD_METRICS)
    job.go_live_unrecorded()
    with pytest.raises(candidate.NoCandidate, match="no training run is recorded for the live deployment m2"):
        job.candidate()
