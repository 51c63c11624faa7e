"""The candidate of `release:model: latest`: the newest finished run of the job whose model passes the gate.

For stacks whose job runs on its own schedule (`training:schedule_enabled`), no matter who started a run. Such a run
finds the live model in a file (`live_record.py`), which may be old or missing. So the lookup here asks Azure ML which
model is live, and skips a run that was compared with another model or with none. It ends at the live model's own run.
Does not start a run or register a model.

The lookup is the only request inside an `Output.apply`. A preview must show which model would become live, and only an
`apply` runs in a preview with the outputs of other resources: a preview does not call `create`, and a dynamic provider
has no functions (pulumi/pulumi sdk/python/lib/pulumi/dynamic/__main__.py, `Invoke`). So such a preview needs a login,
unlike others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import pulumi

from infra.cloud.artefact import Artefact, ArtefactError
from infra.cloud.clients import AzureClients
from infra.cloud.live_deployment import LiveModel, live_model
from infra.cloud.network_refusal import OutsideNetwork, network_refusal
from infra.release.checks.gate import LiveComparison, Metrics, verdict

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import BaseRun

_RUNS_MAX = 20
"""Number of runs that are checked, newest first."""


class NoCandidate(Exception):
    """No run has a model that passes; the message gives the reason for each."""


@dataclass(frozen=True)
class Candidate:
    run_id: pulumi.Output[str]
    run_page_url: pulumi.Output[str]
    metrics: pulumi.Output[Metrics]
    lineage: pulumi.Output[dict[str, str]]
    """Tags for the model version: `dataset`, `snapshot`, `code`, as the run recorded them."""


class _Found(TypedDict):
    """The candidate's values."""

    run_id: str
    run_page_url: str
    metrics: Metrics
    lineage: dict[str, str]


@dataclass(frozen=True)
class _Services:
    """Where the lookup reads."""

    workspace_url: str
    workspace_id: str
    job_id: str
    blob_endpoint: str
    models_container: str
    ml_workspace_id: str
    endpoint_name: str


def newest(
    *,
    workspace_url: pulumi.Input[str],
    workspace_id: pulumi.Input[str],
    job_id: pulumi.Input[str],
    blob_endpoint: pulumi.Input[str],
    models_container: pulumi.Input[str],
    ml_workspace_id: pulumi.Input[str],
    endpoint_name: str,
    thresholds: Mapping[str, float],
) -> Candidate:
    """Return the candidate. `endpoint_name` is only a name: the endpoint need not exist."""
    services = pulumi.Output.all(
        workspace_url=workspace_url,
        workspace_id=workspace_id,
        job_id=job_id,
        blob_endpoint=blob_endpoint,
        models_container=models_container,
        ml_workspace_id=ml_workspace_id,
        endpoint_name=endpoint_name,
    )
    run = services.apply(lambda known: _from_inside(_Services(**known), thresholds))
    return Candidate(run["run_id"], run["run_page_url"], run["metrics"], run["lineage"])


def _from_inside(services: _Services, thresholds: Mapping[str, float]) -> _Found:
    """Look up the candidate. Raises `OutsideNetwork` if a service refuses this machine's network."""
    try:
        return _newest(services, thresholds)
    except Exception as error:
        if reason := network_refusal(error):
            raise OutsideNetwork("release:model latest", reason) from error
        raise


def _newest(services: _Services, thresholds: Mapping[str, float]) -> _Found:
    cloud = AzureClients.discover()
    client = cloud.databricks(services.workspace_url, services.workspace_id)
    live = live_model(cloud.machine_learning(services.ml_workspace_id), services.endpoint_name)
    job_id = services.job_id
    refusals: list[str] = []
    for run in client.jobs.list_runs(job_id=int(job_id), completed_only=True):
        if len(refusals) == _RUNS_MAX:
            break
        try:
            artefact = Artefact(services.blob_endpoint, services.models_container, str(run.run_id))
            metrics, lineage = _require_candidate(run, artefact, live, thresholds)
        except (_Refused, ArtefactError) as refusal:
            refusals.append(str(refusal))
            continue
        for reason in refusals:
            pulumi.log.warn(f"passed over: {reason}")
        return {
            "run_id": str(run.run_id),
            "run_page_url": run.run_page_url,
            "metrics": metrics,
            "lineage": {name: str(lineage.get(name, "")) for name in ("dataset", "snapshot", "code")},
        }
    raise NoCandidate(
        f"release:model is latest, and no run of job {job_id} has a model that passes the gate. Run the job, or set "
        "release:model to trained.\n" + "\n".join(f"  - {reason}" for reason in refusals)
    )


class _Refused(Exception):
    """The run's model is not a candidate; the message gives the reason."""


def _require_candidate(
    run: "BaseRun", artefact: Artefact, live: LiveModel | None, thresholds: Mapping[str, float]
) -> tuple[Metrics, dict[str, object]]:
    """Return metrics and lineage of the run. Raises `_Refused` or `ArtefactError` if its model is not a candidate."""
    from databricks.sdk.service.jobs import RunResultState

    if run.state.result_state != RunResultState.SUCCESS:
        raise _Refused(f"run {run.run_id} ended as {run.state.result_state.value}")
    artefact.require_whole()
    metrics, lineage = artefact.json("metrics.json"), artefact.json("lineage.json")
    broken = [rule["message"] for rule in verdict(metrics, thresholds) if not rule["passed"]]
    if broken:
        raise _Refused(f"run {run.run_id} is refused: {'; '.join(broken)}")
    if reason := _not_compared(str(run.run_id), metrics.get("live"), live):
        raise _Refused(f"run {run.run_id} is refused: {reason}")
    return metrics, lineage


def _not_compared(run_id: str, compared: LiveComparison | None, live: LiveModel | None) -> str:
    """Reason why the run's comparison is not one with the live model; empty if it is, or if none is needed.

    compared: `live` of the run's metrics.
    """
    if live is None or live.run_id == run_id:
        return ""
    if not live.run_id:
        return (
            f"no training run is recorded for the live deployment {live.deployment}, so that nothing can be compared "
            "with it; set release:model to trained or to a number"
        )
    if compared is None or compared["run_id"] != live.run_id:
        other = f"with run {compared['run_id']}" if compared else "with nothing"
        return f"it was compared {other}, and run {live.run_id} is live; the job's next run is compared with that"
    if "skipped" in compared:
        pulumi.log.warn(
            f"run {run_id} could not be compared with the live model, of run {live.run_id}: {compared['skipped']}"
        )
    return ""
