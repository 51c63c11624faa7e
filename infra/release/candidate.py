"""The newest gated candidate: of the job's finished runs, whoever started them, the last whose model passes the gate.

For stacks whose job runs on its own schedule (`training:schedule_enabled`) and that serve with `release:model: latest`.
Looked up while the program runs, so that a preview shows which model would come; it therefore needs a login, as no
other preview does. Starts no run and registers nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from infra.release.artefact import Artefact, ArtefactError
from infra.release.cloud import Cloud
from infra.release.gate import verdict
from infra.release.network_refusal import OutsideNetwork, network_refusal

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
    floors: Mapping[str, float],
) -> Candidate:
    found = pulumi.Output.all(workspace_url, workspace_id, job_id, blob_endpoint, models_container).apply(
        lambda given: _reachable(*given, floors=floors)
    )
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
    *,
    floors: Mapping[str, float],
) -> dict[str, Any]:
    from databricks.sdk.service.jobs import RunResultState

    client = Cloud.discover().databricks(workspace_url, workspace_id)
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
