"""Release view: the stages of the last release, each rule of the gate, and each step of the traffic.

After a refused or interrupted release, later stages still show the results of an earlier release, and are marked so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.dashboard.stack_source import EXPECTED_ERRORS, reason
from cli.stacks.state import Resource
from infra.cloud.artefact import Artefact

_RUN, _MODEL, _ROLLOUT = "databricks:TrainingRun", "machinelearning:ModelVersion", "machinelearning:Rollout"


@dataclass(frozen=True)
class ReleaseStage:
    title: str
    result: str
    """Name or id of the created object; empty if no release has reached the stage."""
    detail: str = ""
    passed: bool = True


@dataclass(frozen=True)
class ReleaseView:
    stages: list[ReleaseStage]
    rules: list[Mapping[str, Any]]
    """Fields of `infra.release.checks.gate.Rule`. A verdict of an earlier version has `says` instead of `message`."""
    run: str
    """Training run that the rules were applied to."""
    checks: list[Mapping[str, Any]]
    """`share` and the fields of `infra.release.checks.probe.ProbeResult`."""
    inputs: Mapping[str, str]
    """Inputs that determined the release, by name."""
    notes: list[str]


def of(outputs: Mapping[str, Any], resources: Sequence[Resource]) -> ReleaseView:
    """Return the view of a stack's last release from its outputs, its state and the verdict in the lake."""
    by_kind = {resource.kind: resource for resource in resources}
    training = by_kind.get(_RUN)
    run = str(training.outputs.get("run_id", "") if training else outputs.get("training_run_id", ""))
    rules, notes = _rules(outputs, run)
    return ReleaseView(
        stages=_stages(by_kind, outputs, run, rules),
        rules=rules,
        run=run,
        checks=list(outputs.get("rollout") or []),
        inputs=outputs.get("release") or {},
        notes=notes,
    )


def _rules(outputs: Mapping[str, Any], run: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the rules of the gate, and notes for the user.

    They are read from the verdict next to the run's artefact: after a failed release, the stack's outputs still
    describe an earlier one.
    """
    in_outputs = (outputs.get("metrics") or {}).get("gate") or []
    if not run or not outputs.get("lake_blob_endpoint"):
        return in_outputs, []
    try:
        return Artefact(outputs["lake_blob_endpoint"], "models", run).json("verdict.json")["rules"], []
    except EXPECTED_ERRORS as error:
        note = f"the verdict in the lake could not be read: {reason(error)}"
    if run != str(outputs.get("training_run_id", "")):
        return [], [note]
    return in_outputs, [f"{note}; the rules below are from the stack's outputs"]


def _stages(
    by_kind: Mapping[str, Resource], outputs: Mapping[str, Any], run: str, rules: Sequence[Mapping[str, Any]]
) -> list[ReleaseStage]:
    def stage(title: str, kind: str) -> ReleaseStage:
        resource = by_kind.get(kind)
        return ReleaseStage(title, resource.id if resource else "")

    rows = stage("Rows", "lake:Snapshot")
    if not rows.result:
        rows = ReleaseStage("Rows", str(outputs.get("training_snapshot", "")))
    broken = [rule["name"] for rule in rules if not rule["passed"]]
    if not rules:
        gate = ReleaseStage("Gate", "")
    elif broken:
        gate = ReleaseStage("Gate", f"refused: {', '.join(broken)}", passed=False)
    else:
        gate = ReleaseStage("Gate", f"passed, {len(rules)} rules")
    return [
        rows,
        stage("Code", "databricks:Workload"),
        ReleaseStage("Training", f"run {run}" if run else ""),
        gate,
        _model(by_kind.get(_MODEL), run),
        stage("Image", "containerregistry:ScoringImage"),
        stage("Environment", "machinelearning:EnvironmentVersion"),
        _rollout(by_kind.get(_ROLLOUT), by_kind.get(_MODEL)),
    ]


def _model(model: Resource | None, run: str) -> ReleaseStage:
    if model is None:
        return ReleaseStage("Model registry", "")
    version, model_run = str(model.outputs.get("version", "")), str(model.outputs.get("run_id", ""))
    name = f"{model.outputs.get('model_name', 'model')}:{version}"
    if model_run == run:
        return ReleaseStage("Model registry", name)
    detail = f"from run {model_run}: the model of run {run} was not registered"
    return ReleaseStage("Model registry", name, detail, passed=False)


def _rollout(rollout: Resource | None, model: Resource | None) -> ReleaseStage:
    if rollout is None:
        return ReleaseStage("Rollout", "")
    deployment, version = rollout.outputs.get("deployment") or "", str(rollout.outputs.get("model_version", ""))
    registered = str(model.outputs.get("version", "")) if model else version
    if version == registered:
        return ReleaseStage("Rollout", deployment)
    return ReleaseStage(
        "Rollout", deployment, f"model version {version} is live; {registered} is the newest registered version"
    )
