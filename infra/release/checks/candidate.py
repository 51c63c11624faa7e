"""The newest gated candidate: of the job's finished runs, whoever started them, the last whose model passes the gate.

For stacks whose job runs on its own schedule (`training:schedule_enabled`) and that serve with `release:model: latest`.
Such a run finds the live model in a file (`live_record.py`), which may be old or missing. So Azure ML is asked here,
and a candidate that was compared with another model than the live one, or with none, is passed over. The live model's
own run ends the search. Looked up while the program runs, so that a preview shows which model would come; it therefore
needs a login, as no other preview does. Starts no run and registers nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from infra.cloud.artefact import Artefact, ArtefactError
from infra.cloud.clients import Cloud
from infra.cloud.live_deployment import LiveModel, live_model
from infra.cloud.network_refusal import OutsideNetwork, network_refusal
from infra.release.checks.gate import verdict

_LOOKED_AT = 20
"""Runs, newest first: whoever has refused so many has no candidate."""


class NoCandidate(Exception):
    """No run left a model that passes; the message says what became of each."""


@dataclass(frozen=True)
class Candidate:
    run_id: pulumi.Output[str]
    run_page_url: pulumi.Output[str]
    metrics: pulumi.Output[dict[str, Any]]
    lineage: pulumi.Output[dict[str, str]]
    """Tags for the model version: `dataset`, `snapshot`, `code`, as the run recorded them."""


def newest(
    *,
    workspace_url: pulumi.Input[str],
    workspace_id: pulumi.Input[str],
    job_id: pulumi.Input[str],
    blob_endpoint: pulumi.Input[str],
    models_container: pulumi.Input[str],
    ml_workspace_id: pulumi.Input[str],
    endpoint_name: str,
    floors: Mapping[str, float],
) -> Candidate:
    """`endpoint_name` is a name only: the endpoint need not exist."""
    outputs = pulumi.Output.all(
        workspace_url, workspace_id, job_id, blob_endpoint, models_container, ml_workspace_id, endpoint_name
    )
    found = outputs.apply(lambda given: _reachable(*given, floors=floors))
    return Candidate(found["run_id"], found["run_page_url"], found["metrics"], found["lineage"])


def _reachable(*given: Any, floors: Mapping[str, float]) -> dict[str, Any]:
    try:
        return _newest(*given, floors=floors)
    except Exception as error:
        if reason := network_refusal(error):
            raise OutsideNetwork("release:model latest", reason) from error
        raise


def _newest(
    workspace_url: str,
    workspace_id: str,
    job_id: str,
    blob_endpoint: str,
    container: str,
    ml_workspace_id: str,
    endpoint: str,
    *,
    floors: Mapping[str, float],
) -> dict[str, Any]:
    from databricks.sdk.service.jobs import RunResultState

    cloud = Cloud.discover()
    client = cloud.databricks(workspace_url, workspace_id)
    live = live_model(cloud.machine_learning(ml_workspace_id), endpoint)
    said: list[str] = []
    for run in client.jobs.list_runs(job_id=int(job_id), completed_only=True):
        if len(said) == _LOOKED_AT:
            break
        if run.state.result_state != RunResultState.SUCCESS:
            said.append(f"run {run.run_id} ended as {run.state.result_state.value}")
            continue
        artefact = Artefact(blob_endpoint, container, str(run.run_id))
        try:
            artefact.require_whole()
            metrics, lineage = artefact.json("metrics.json"), artefact.json("lineage.json")
        except ArtefactError as error:
            said.append(str(error))
            continue
        refused = [rule["says"] for rule in verdict(metrics, floors) if not rule["passed"]]
        if refused:
            said.append(f"run {run.run_id} is refused: {'; '.join(refused)}")
            continue
        if reason := _not_compared(str(run.run_id), metrics.get("live"), live):
            said.append(f"run {run.run_id} is refused: {reason}")
            continue
        for line in said:
            pulumi.log.warn(f"passed over: {line}")
        return {
            "run_id": str(run.run_id),
            "run_page_url": run.run_page_url,
            "metrics": metrics,
            "lineage": {name: str(lineage.get(name, "")) for name in ("dataset", "snapshot", "code")},
        }
    raise NoCandidate(
        f"release:model is latest, and no run of job {job_id} left a model that passes the gate. Run the job, or set "
        "release:model to trained.\n" + "\n".join(f"  - {line}" for line in said)
    )


def _not_compared(run_id: str, compared: Mapping[str, Any] | None, live: LiveModel | None) -> str:
    """Why the run's comparison is not one with the live model; empty if it is, or if none is needed.

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
