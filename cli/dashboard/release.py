"""The last release as the state has it, stage by stage, with every rule of the gate and every step of the traffic.

A release that was refused or broke off leaves a later stage with what an earlier release made: the page says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.dashboard.stack_source import UNANSWERED, reason
from cli.stacks.state import Resource
from infra.cloud.artefact import Artefact

_RUN, _MODEL, _ROLLOUT = "databricks:TrainingRun", "machinelearning:ModelVersion", "machinelearning:Rollout"


@dataclass(frozen=True)
class Stage:
    title: str
    made: str
    """Empty where the stage was never reached."""
    says: str = ""
    passed: bool = True


@dataclass(frozen=True)
class Release:
    stages: list[Stage]
    rules: list[Mapping[str, Any]]
    """Fields of `infra.release.checks.gate.Rule`."""
    judged: str
    """Which training run the rules are about."""
    checks: list[Mapping[str, Any]]
    """`share` and the fields of `infra.release.checks.probe.ProbeResult`."""
    wanted: Mapping[str, str]
    notes: list[str]


def of(outputs: Mapping[str, Any], resources: Sequence[Resource]) -> Release:
    by_kind = {resource.kind: resource for resource in resources}
    run = by_kind.get(_RUN)
    judged = str(run.outputs.get("run_id", "") if run else outputs.get("training_run_id", ""))
    rules, notes = _rules(outputs, judged)
    return Release(
        stages=_stages(by_kind, outputs, judged, rules),
        rules=rules,
        judged=judged,
        checks=list(outputs.get("rollout") or []),
        wanted=outputs.get("release") or {},
        notes=notes,
    )


def _rules(outputs: Mapping[str, Any], judged: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Of the verdict beside the run's artefact: the stack's outputs are an earlier release's where this one failed."""
    told = (outputs.get("metrics") or {}).get("gate") or []
    same = judged == str(outputs.get("training_run_id", ""))
    if not judged or not outputs.get("lake_blob_endpoint"):
        return told, []
    try:
        return Artefact(outputs["lake_blob_endpoint"], "models", judged).json("verdict.json")["rules"], []
    except UNANSWERED as error:
        said = f"the verdict in the lake could not be read: {reason(error)}"
        return (told, [f"{said}; shown is what the stack's outputs say of it"]) if same else ([], [said])


def _stages(
    by_kind: Mapping[str, Resource], outputs: Mapping[str, Any], judged: str, rules: Sequence[Mapping[str, Any]]
) -> list[Stage]:
    def made(title: str, kind: str) -> Stage:
        resource = by_kind.get(kind)
        return Stage(title, resource.id if resource else "")

    rows = made("Rows", "lake:Snapshot")
    if not rows.made:
        rows = Stage("Rows", str(outputs.get("training_snapshot", "")))
    broken = [rule["name"] for rule in rules if not rule["passed"]]
    if not rules:
        gate = Stage("Gate", "")
    elif broken:
        gate = Stage("Gate", f"refused: {', '.join(broken)}", passed=False)
    else:
        gate = Stage("Gate", f"passed, {len(rules)} rules")
    return [
        rows,
        made("Code", "databricks:Workload"),
        Stage("Training", f"run {judged}" if judged else ""),
        gate,
        _model(by_kind.get(_MODEL), judged),
        made("Image", "containerregistry:ScoringImage"),
        made("Environment", "machinelearning:EnvironmentVersion"),
        _rollout(by_kind.get(_ROLLOUT), by_kind.get(_MODEL)),
    ]


def _model(model: Resource | None, judged: str) -> Stage:
    if model is None:
        return Stage("Model registry", "")
    version, of_run = str(model.outputs.get("version", "")), str(model.outputs.get("run_id", ""))
    named = f"{model.outputs.get('model_name', 'model')}:{version}"
    if of_run == judged:
        return Stage("Model registry", named)
    return Stage(
        "Model registry", named, f"of run {of_run}: the model of run {judged} was not registered", passed=False
    )


def _rollout(rollout: Resource | None, model: Resource | None) -> Stage:
    if rollout is None:
        return Stage("Rollout", "")
    deployment, version = rollout.outputs.get("deployment") or "", str(rollout.outputs.get("model_version", ""))
    registered = str(model.outputs.get("version", "")) if model else version
    if version == registered:
        return Stage("Rollout", deployment)
    return Stage("Rollout", deployment, f"serves model version {version}, while {registered} is the newest registered")
