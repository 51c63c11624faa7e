"""One training run, identified by the digest of all inputs that determine its result.

`diff` never uses the network, so a preview needs no login. `create` may be killed at any point: the next `up` finds
the run by its idempotency token, waits for it, and never starts a second one. After a failed run the next `up` starts
another, with the next token. Does not judge the model: `model.py` runs the gate. The new model is compared with the
model that is live when the run starts. That model is not part of the run's identity, because it does not change the
trained model.
"""

import datetime
import hashlib
from itertools import islice
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource

from infra.cloud.artefact import Artefact, ArtefactError
from infra.cloud.clients import AzureClients, databricks_of, has_lake
from infra.cloud.live_deployment import live_model
from infra.dynamic.provider import ReleaseProvider, gone
from infra.release.training_stage.snapshot import require_landed

_RUNS_MAX = 200
"""Number of the job's runs, newest first, in which a run of an earlier `up` is searched."""
_UNCOMPARED = "the new model is compared with nothing"


class TrainingFailed(Exception):
    """The run ended without a model; the message names the task, the reason and the run's page."""


class _TrainingRunProvider(ReleaseProvider):
    identity = ("input_digest", "workspace_id", "workspace_uid", "blob_endpoint", "lake_uid")
    optional = (
        *("workspace_url", "job_id", "lake_id", "models_container", "raw_container", "dataset", "snapshot", "volumes"),
        *("ml_workspace_id", "endpoint_name", "timeout_minutes"),
    )

    def create(self, props: dict[str, Any]) -> CreateResult:
        require_landed(props["blob_endpoint"], props["raw_container"], props["dataset"], props["snapshot"])
        cloud, client = AzureClients.discover(), databricks_of(props)
        live = live_model(cloud.machine_learning(props["ml_workspace_id"]), props["endpoint_name"])
        if live and not live.run_id:
            pulumi.log.warn(f"no training run is recorded for the live deployment {live.deployment}: {_UNCOMPARED}")
        compared = live.run_id if live else ""
        run = self._run_to_end(client, props, f"{props['volumes']}/models/{compared}" if compared else "")
        artefact = _artefact(props, run.run_id)
        artefact.require_whole()
        return CreateResult(
            str(run.run_id),
            {
                **props,
                "run_id": str(run.run_id),
                "run_page_url": run.run_page_url,
                "metrics": artefact.json("metrics.json"),
            },
        )

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Gone if its artefact is. Databricks deletes the run itself after 60 days."""
        return ReadResult(id_, props) if has_lake(props) and _is_whole(props, id_) else gone()

    @staticmethod
    def _run_to_end(client: Any, props: dict[str, Any], live_artefact: str) -> Any:
        """Start the run, or find it, and return it once it has succeeded. Raises `TrainingFailed`."""
        from databricks.sdk.errors import InvalidParameterValue, OperationFailed
        from databricks.sdk.service.jobs import RunResultState

        job_id, digest = int(props["job_id"]), props["input_digest"]
        # Databricks answers a known token with its run, also if that belongs to another job (docs.databricks.com, Jobs
        # API run-now, `idempotency_token`, at most 64 characters). So a new job or a new lake has other tokens.
        token = hashlib.sha256(f"{job_id}/{props['lake_uid']}/{digest}".encode()).hexdigest()[:48]
        earlier = {run.run_id for run in islice(client.jobs.list_runs(job_id=job_id), _RUNS_MAX)}
        for attempt in range(1, 100):
            try:
                run_id = client.jobs.run_now(
                    job_id,
                    idempotency_token=f"{token}-{attempt}",
                    job_parameters={"snapshot": props["snapshot"], "input_digest": digest, "live": live_artefact},
                ).run_id
            except InvalidParameterValue as error:
                # Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (JobsAPI.run_now: "If a run with the
                # provided token is deleted, an error is returned"; JobsAPI.get_run_output: runs are removed after 60
                # days)
                # No source: the words of that error; delete a run and send its token again.
                if "token" not in str(error):
                    raise
                continue
            before = client.jobs.get_run(run_id).state
            result = before.result_state if before is not None else None
            useless = result == RunResultState.SUCCESS and not _is_whole(props, run_id)
            if run_id in earlier and (useless or result not in (None, RunResultState.SUCCESS)):
                continue  # a run of an earlier `up` that failed, or whose artefact was deleted
            try:
                run = client.jobs.wait_get_run_job_terminated_or_skipped(
                    run_id, timeout=datetime.timedelta(minutes=props["timeout_minutes"] + 30)
                )
            except OperationFailed:  # the SDK's error for INTERNAL_ERROR, which names neither the task nor the page
                run = client.jobs.get_run(run_id)
            if run.state.result_state == RunResultState.SUCCESS:
                return run
            raise TrainingFailed(_reason(client, run))
        raise TrainingFailed(f"job {job_id} failed a hundred times for the same input; see its runs")


def _artefact(props: dict[str, Any], run_id: object) -> Artefact:
    return Artefact(props["blob_endpoint"], props["models_container"], str(run_id))


def _is_whole(props: dict[str, Any], run_id: object) -> bool:
    try:
        _artefact(props, run_id).require_whole()
    except ArtefactError:
        return False
    return True


# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (`RunResultState`)
def _reason(client: Any, run: Any) -> str:
    """Message of a failed run with the errors of its tasks."""
    lines = [f"training run {run.run_id} ended as {run.state.result_state}: {run.run_page_url}"]
    for task in run.tasks or []:
        if (
            task.state
            and task.state.result_state
            and task.state.result_state.value not in ("SUCCESS", "UPSTREAM_FAILED")
        ):
            output = client.jobs.get_run_output(task.run_id)
            lines.append(f"  task {task.task_key}: {output.error or task.state.state_message}")
    return "\n".join(lines)


class TrainingRun(Resource, module="databricks", name="TrainingRun"):
    run_id: pulumi.Output[str]
    run_page_url: pulumi.Output[str]
    metrics: pulumi.Output[dict[str, Any]]

    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        job_id: pulumi.Input[str],
        blob_endpoint: pulumi.Input[str],
        lake_id: pulumi.Input[str],
        lake_uid: pulumi.Input[str],
        models_container: pulumi.Input[str],
        raw_container: pulumi.Input[str],
        dataset: str,
        snapshot: pulumi.Input[str],
        input_digest: str,
        volumes: pulumi.Input[str],
        ml_workspace_id: pulumi.Input[str],
        endpoint_name: str,
        timeout_minutes: int,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`endpoint_name` is only a name: a run need not wait for the endpoint."""
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "job_id": job_id,
            "blob_endpoint": blob_endpoint,
            "lake_id": lake_id,
            "lake_uid": lake_uid,
            "models_container": models_container,
            "raw_container": raw_container,
            "dataset": dataset,
            "snapshot": snapshot,
            "input_digest": input_digest,
            "volumes": volumes,
            "ml_workspace_id": ml_workspace_id,
            "endpoint_name": endpoint_name,
            "timeout_minutes": timeout_minutes,
        }
        super().__init__(
            _TrainingRunProvider(), name, {**props, "run_id": None, "run_page_url": None, "metrics": None}, opts
        )
