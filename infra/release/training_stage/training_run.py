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
from typing import TYPE_CHECKING

import pulumi

from infra.cloud.artefact import Artefact, ArtefactError
from infra.cloud.clients import AzureClients, has_lake
from infra.cloud.live_deployment import live_model
from infra.dynamic.inputs import InputField, Outputs, not_compared, replaces
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.dynamic.workspace import WorkspaceInputs, databricks_of
from infra.release.checks.gate import Metrics
from infra.release.training_stage.snapshot import require_landed

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.jobs import Run

_RUNS_MAX = 200
"""Number of the job's runs, newest first, in which a run of an earlier `up` is searched."""
_UNCOMPARED = "the new model is compared with nothing"


class TrainingFailed(Exception):
    """The run ended without a model; the message names the task, the reason and the run's page."""


class TrainingRunInputs(WorkspaceInputs):
    workspace_url: InputField[str] = not_compared()
    job_id: InputField[str] = not_compared()
    blob_endpoint: InputField[str] = replaces()
    lake_id: InputField[str] = not_compared()
    lake_uid: InputField[str] = replaces()
    models_container: InputField[str] = not_compared()
    raw_container: InputField[str] = not_compared()
    dataset: InputField[str] = not_compared()
    snapshot: InputField[str] = not_compared()
    input_digest: InputField[str] = replaces()
    volumes: InputField[str] = not_compared()
    ml_workspace_id: InputField[str] = not_compared()
    endpoint_name: InputField[str] = not_compared()
    """Only a name: a run need not wait for the endpoint."""
    timeout_minutes: InputField[int] = not_compared()


class TrainingRunOutputs(Outputs):
    run_id: str
    run_page_url: str
    metrics: Metrics


class _TrainingRunProvider(ReleaseProvider[TrainingRunInputs, TrainingRunOutputs]):
    def create_object(self, inputs: TrainingRunInputs) -> Creation[TrainingRunOutputs]:
        require_landed(inputs.blob_endpoint, inputs.raw_container, inputs.dataset, inputs.snapshot)
        cloud, client = AzureClients.discover(), databricks_of(inputs)
        live = live_model(cloud.machine_learning(inputs.ml_workspace_id), inputs.endpoint_name)
        if live and not live.run_id:
            pulumi.log.warn(f"no training run is recorded for the live deployment {live.deployment}: {_UNCOMPARED}")
        compared = live.run_id if live else ""
        run = self._run_to_end(client, inputs, f"{inputs.volumes}/models/{compared}" if compared else "")
        artefact = _artefact(inputs, run.run_id)
        artefact.require_whole()
        outputs = TrainingRunOutputs(
            run_id=str(run.run_id), run_page_url=run.run_page_url, metrics=artefact.json("metrics.json")
        )
        return Creation(outputs.run_id, outputs)

    def read_object(self, state: ResourceState[TrainingRunInputs, TrainingRunOutputs]) -> TrainingRunInputs | None:
        """Gone if its artefact is. Databricks deletes the run itself after 60 days."""
        inputs = state.inputs
        return inputs if has_lake(inputs.lake_id, inputs.lake_uid) and _is_whole(inputs, state.id) else None

    @staticmethod
    def _run_to_end(client: "WorkspaceClient", inputs: TrainingRunInputs, live_artefact: str) -> "Run":
        """Start the run, or find it, and return it once it has succeeded. Raises `TrainingFailed`."""
        from databricks.sdk.errors import InvalidParameterValue, OperationFailed
        from databricks.sdk.service.jobs import RunResultState

        job_id, digest = int(inputs.job_id), inputs.input_digest
        # Databricks answers a known token with its run, also if that belongs to another job (docs.databricks.com, Jobs
        # API run-now, `idempotency_token`, at most 64 characters). So a new job or a new lake has other tokens.
        token = hashlib.sha256(f"{job_id}/{inputs.lake_uid}/{digest}".encode()).hexdigest()[:48]
        earlier = {run.run_id for run in islice(client.jobs.list_runs(job_id=job_id), _RUNS_MAX)}
        for attempt in range(1, 100):
            try:
                run_id = client.jobs.run_now(
                    job_id,
                    idempotency_token=f"{token}-{attempt}",
                    job_parameters={"snapshot": inputs.snapshot, "input_digest": digest, "live": live_artefact},
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
            useless = result == RunResultState.SUCCESS and not _is_whole(inputs, run_id)
            if run_id in earlier and (useless or result not in (None, RunResultState.SUCCESS)):
                continue  # a run of an earlier `up` that failed, or whose artefact was deleted
            try:
                run = client.jobs.wait_get_run_job_terminated_or_skipped(
                    run_id, timeout=datetime.timedelta(minutes=inputs.timeout_minutes + 30)
                )
            except OperationFailed:  # the SDK's error for INTERNAL_ERROR, which names neither the task nor the page
                run = client.jobs.get_run(run_id)
            if run.state.result_state == RunResultState.SUCCESS:
                return run
            raise TrainingFailed(_reason(client, run))
        raise TrainingFailed(f"job {job_id} failed a hundred times for the same input; see its runs")


def _artefact(inputs: TrainingRunInputs, run_id: object) -> Artefact:
    return Artefact(inputs.blob_endpoint, inputs.models_container, str(run_id))


def _is_whole(inputs: TrainingRunInputs, run_id: object) -> bool:
    try:
        _artefact(inputs, run_id).require_whole()
    except ArtefactError:
        return False
    return True


# Source: databricks-sdk==0.156.0 databricks/sdk/service/jobs.py (`RunResultState`)
def _reason(client: "WorkspaceClient", run: "Run") -> str:
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


class TrainingRun(
    DynamicResource[TrainingRunInputs], module="databricks", name="TrainingRun", provider=_TrainingRunProvider
):
    run_id: pulumi.Output[str]
    run_page_url: pulumi.Output[str]
    if TYPE_CHECKING:  # at run time Pulumi's SDK converts outputs by their annotation, and knows no TypedDict
        metrics: pulumi.Output[Metrics]
