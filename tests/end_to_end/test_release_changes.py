"""Changes of one deployed stack through the real engine: releases, rollbacks, faults and losses.

1. Workflows and scheduled runs: approved release, daily retraining, a run that Databricks starts.
2. A second model: a refused one, then a Criteo model that replaces the MovieLens model, rollback and return.
3. Faults: one changed setting, and two cells of the fault matrix.
4. Other engine, and loss of Azure resources.
5. Files of the run.

The fixtures `stack`, `criteo`, `settled` and `deployed` are explained in `conftest.py`.
"""

import json
import shutil
from datetime import UTC, datetime

import pytest

from cli.local_run.engine import Engine
from cli.local_run.run_directory import RunDirectory
from infra.config.settings import QualitySettings
from infra.release.checks.gate import verdict
from testing.sandbox.process import in_environment
from testing.stack import lifecycle, state_files
from testing.stack.fault_matrix import FAULTS, STAGES, DeployedStack, trial, users
from testing.stack.github_stand_in import GitHub
from testing.stack.lifecycle import SecondModel, live_version, score
from testing.stack.local_run import CRITEO_ROWS, LocalRun
from testing.stack.manual_changes import by_hand
from testing.stack.workflow_jobs import WorkflowJobs

pytestmark = pytest.mark.stack


# 1. Workflows and scheduled runs


def test_approved_release_is_applied_only_if_nothing_else_changed(
    stack: LocalRun, workflows: tuple[WorkflowJobs, GitHub]
) -> None:
    jobs, github = workflows
    before, known = stack.outputs, stack.jobs_runs_versions()
    shutil.copytree(stack.configured("training:local_data") or "", jobs.folder / "rows")
    (table,) = (jobs.folder / "rows").glob("*.inter")
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    stack.configure("training:local_data", str(jobs.folder / "rows"))
    shutil.copy(Engine(stack.state, stack.environment).config_file, jobs.folder / "Pulumi.local.yaml")
    stack.plain = False

    code, printed = jobs.run("deploy", "plan")
    assert code == 0, printed
    assert "TrainingRun" in (jobs.folder / "reports" / "local.md").read_text()

    rules = github.environments["local"].pop("protection_rules")
    code, printed = jobs.run("deploy", "up")
    assert code == 1, printed
    assert "environment local of octo-org/personalization has no required reviewer" in printed
    github.environments["local"]["protection_rules"] = rules

    with by_hand(stack) as hand:
        hand.change_job_cluster()
        hand.take_traffic()
    code, printed = jobs.run("deploy", "up")
    assert (code, "nothing has been changed: the stack or its resources have changed" in printed) == (1, True), printed
    for name in ("release-job (pulumi-python:dynamic/databricks:TrainingJob)", "release-rollout ("):
        assert name in printed
    assert stack.jobs_runs_versions() == known

    code, printed = jobs.run("deploy", "plan")
    assert code == 0, printed
    code, printed = jobs.run("deploy", "up")
    assert code == 0, printed
    outputs = json.loads(stack.engine.text("stack", "output", "--json", "--stack", "local"))
    for name in ("training_run_id", "model_version", "deployment", "metrics", "rollout"):
        assert outputs[name] != before[name], name
    assert stack.jobs_runs_versions() == (known[0], known[1] + 1, known[2] + 1)
    assert score(stack)["model"].endswith(f":{outputs['model_version']}")
    assert stack.pulumi("up", "--refresh") == {}


def test_daily_workflow_applies_the_policies_and_checks_its_environment(
    stack: LocalRun, workflows: tuple[WorkflowJobs, GitHub]
) -> None:
    jobs, github = workflows
    shutil.copy(Engine(stack.state, stack.environment).config_file, jobs.folder / "Pulumi.local.yaml")
    code, printed = jobs.run("retrain", "retrain")
    assert code == 0, printed
    assert "Policies:" in printed
    github.policies["local-retrain"]["branch_policies"].append({"name": "*"})
    code, printed = jobs.run("retrain", "retrain")
    assert (code, "environment local-retrain admits *, main" in printed) == (1, True), printed


def test_worse_scheduled_run_is_refused_and_a_good_one_becomes_live(stack: LocalRun) -> None:
    """Databricks starts the run without parameters. The worse model breaks only the rules that compare it."""
    live, known = stack.outputs["training_run_id"], stack.outputs["model_version"]
    stack.configure("release:model", "latest")
    stack.configure("training:schedule_enabled", "true")
    assert stack.pulumi("up") == {"update": 1, "delete": 1}  # the job; the training run leaves the stack's state

    stack.land(datetime.now(UTC).date().isoformat(), "ml-100k.inter", lifecycle.noisy)
    worse = stack.run_job()
    (metrics,) = (json.loads(file.read_text()) for file in stack.artefacts(worse, "metrics.json"))
    assert metrics["live"]["run_id"] == live
    broken = {rule["name"] for rule in verdict(metrics, QualitySettings().limits) if not rule["passed"]}
    assert broken == {"auc_drop", "log_loss_rise"}
    assert stack.pulumi("up") == {}
    assert f"run {worse} is refused: AUC is" in lifecycle.last_events(stack)

    alone = stack.run_job(live="")
    assert stack.pulumi("up") == {}
    events = lifecycle.last_events(stack)
    assert f"run {alone} is refused: it was compared with nothing, and run {live} is live" in events

    stack.land("good", "ml-100k.inter", lambda rows: rows)
    good = stack.run_job(snapshot="good")
    assert stack.pulumi("up") == {"replace": 1, "update": 3}  # model version; rollout, live.json and notebooks
    version = stack.engine.text("stack", "output", "model_version", "--stack", "local").strip()
    assert int(version) > int(known)
    tags = stack.model_tags(version)
    assert (tags["run_id"], tags["snapshot"]) == (good, "good")
    (reference,) = (json.loads(file.read_text()) for file in stack.artefacts("", "live.json"))
    assert reference["run_id"] == good
    assert [entry["run_id"] for entry in reference["deployments"][:2]] == [good, live]


# 2. A second model


@pytest.mark.skipif(not CRITEO_ROWS.exists(), reason="the licence of Criteo's rows keeps them out of the repository")
def test_refused_model_leaves_the_live_endpoint_unchanged(deployed: LocalRun) -> None:
    before, registered = score(deployed), deployed.jobs_runs_versions()[2]
    done = deployed.run("local", "--dataset", "criteo", "--data", str(CRITEO_ROWS))
    assert done.returncode == 1
    assert "is refused, and the live model stays live" in done.stderr
    assert "clicks in the test set, too few to judge" in done.stderr
    (refused,) = (text for text in map(json.loads, lifecycle.verdicts(deployed)) if not text["passed"])
    assert "test_clicks" in {rule["name"] for rule in refused["rules"] if not rule["passed"]}
    assert len(deployed.artefacts("*", "refused.json")) == 1
    assert score(deployed) == before
    assert deployed.jobs_runs_versions()[2] == registered


def test_synthetic_rows_in_criteos_shape_pass_the_gate(criteo: SecondModel) -> None:
    assert "SYNTHETIC" in criteo.printed
    metrics = criteo.after["metrics"]
    assert metrics["synthetic"] is True
    assert metrics["live"]["run_id"] == criteo.before["training_run_id"]
    assert metrics["live"]["skipped"] == "it was trained on dataset 'movielens', not 'criteo'"
    assert [step["share"] for step in criteo.after["rollout"]] == [0, 10, 50, 100]
    assert {step["error_share"] for step in criteo.after["rollout"]} == {0}


def test_new_model_changes_resources_of_the_release_only(deployed: LocalRun, criteo: SecondModel) -> None:
    before, after = criteo.versions
    assert deployed.outputs["model_version"] == after
    assert before != after
    assert criteo.touched
    assert all("personalization:release:Release$" in urn for urn in criteo.touched)


def test_rollback_and_return_take_one_setting_and_train_nothing(deployed: LocalRun, criteo: SecondModel) -> None:
    """The rollback goes to a warm deployment, which keeps running, and then to one that must be created again."""
    movielens_version, criteo_version = criteo.versions
    known = deployed.jobs_runs_versions()

    def serve(model: str, row: dict[str, object], *arguments: str) -> str:
        """Set `release:model` and apply it; returns the version that answers. Notebooks and live record change too."""
        deployed.configure("release:model", model)
        assert deployed.pulumi("up", *arguments) == {"update": 3}
        return live_version(deployed, row)

    warm = deployed.replicas()
    assert serve(movielens_version, {"age": 30}) == movielens_version
    assert serve("trained", {"I1": 1}) == criteo_version
    # The number of replicas follows the load. A deployment was not restarted if one of its replicas still runs.
    still = deployed.replicas()
    assert len(warm) == 2
    assert all(still[deployment] & running for deployment, running in warm.items())
    deployed.delete_deployment_of(movielens_version)
    assert serve(movielens_version, {"age": 30}, "--target", lifecycle.target_of_daily_run()) == movielens_version
    assert serve("trained", {"I1": 1}) == criteo_version
    assert deployed.jobs_runs_versions() == known


def test_model_latest_serves_without_training_and_model_trained_finds_its_run_again(
    deployed: LocalRun, criteo: SecondModel
) -> None:
    """`latest` removes the training run from the state; `trained` finds it by its rows and code."""
    known = deployed.jobs_runs_versions()
    deployed.configure("release:model", "latest")
    assert deployed.pulumi("up") == {"delete": 1}
    assert live_version(deployed, {"I1": 1}) == criteo.versions[1]
    deployed.configure("release:model", "trained")
    assert deployed.pulumi("up") == {"create": 1}
    assert deployed.jobs_runs_versions() == known


# 3. Faults


def test_changed_scale_setting_is_one_update(settled: LocalRun) -> None:
    nodes = "5" if str(settled.configured("serving:nodes_max")) != "5" else "4"
    settled.configure("serving:nodes_max", nodes)
    assert settled.pulumi("up") == {"update": 1}


@pytest.mark.parametrize(("stage", "fault"), [("node pool", "500"), ("registry", "answer lost")])
def test_next_up_repairs_an_up_that_met_a_fault(deployed: LocalRun, stage: str, fault: str) -> None:
    """Two cells of the matrix of tests/end_to_end/faults."""
    with in_environment(deployed.environment):
        deployed.plain = False
        (chosen_stage,) = (each for each in STAGES if each.name == stage)
        (chosen_fault,) = (each for each in FAULTS if each.name == fault)
        trial(DeployedStack.of(deployed), chosen_stage, chosen_fault)


# 4. Other engine, and loss of Azure resources


def test_both_engines_serve_through_one_endpoint_and_settings_of_lineage_lead_back(stack: LocalRun) -> None:
    native, image = score(stack), stack.outputs["image_digest"]
    stack.up("--engine", "spark")
    assert stack.outputs["release"]["engine"] == "spark"
    assert stack.variables()["SCORING_SPARK_MEMORY"] == "976m"
    spark = score(stack)
    assert spark["model"] == native["model"]
    assert spark["probabilities"] == pytest.approx(native["probabilities"], abs=1e-9)

    version = native["model"].rpartition(":")[2]
    back = f"release:model {version}, release:image {image}, serving:engine native"
    assert back in stack.run("lineage").stdout
    for setting in back.split(", "):
        stack.configure(*setting.split())
    builds = stack.builds()
    with in_environment(stack.environment), users(DeployedStack.of(stack), serves=True) as answers:
        # Replaced: image and environment. Updated: rollout and live record.
        assert stack.pulumi("up") == {"replace": 2, "update": 2}
    assert (answers["failed"], answers["asked"] > 10) == (0, True)
    assert stack.variables()["SCORING_ENGINE"] == "native"
    assert score(stack) == native
    assert stack.builds() == builds


def test_deleted_azure_resources_are_created_again_with_their_contents(stack: LocalRun) -> None:
    with by_hand(stack) as hand:
        hand.delete_endpoint()
        hand.delete_registry()
        hand.delete_databricks()
    assert stack.pulumi("refresh")["delete"] > 10
    stack.pulumi("up")
    jobs, runs, _ = stack.jobs_runs_versions()
    assert (jobs, runs) == (1, 1)
    assert score(stack)["model"].startswith(stack.outputs["model_name"])
    assert stack.pulumi("up", "--refresh") == {}


# 5. Files of the run


def test_every_file_of_a_run_is_of_a_known_kind(stack: LocalRun) -> None:
    """A new file of state must be listed, so that tests/sandbox/test_state_files.py tries a damaged one too."""
    files = [path for top in RunDirectory(stack.state).files for path in (top, *top.rglob("*")) if path.is_file()]
    assert files
    assert [path for path in files if not state_files.is_known(path.relative_to(stack.state).as_posix())] == []
