"""The whole chain through the real engine: what stands, what changes, what is left."""

import base64
import io
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import matplotlib.image
import pytest
import yaml
from mlflow import MlflowClient

from cli import notebooks
from cli.changes.preview import STREAMING, Action
from cli.endpoint import Endpoint
from cli.errors import UserError
from cli.local_run import command
from cli.local_run.engine import Engine
from cli.local_run.run_directory import RunDirectory
from infra.config.settings import QualitySettings
from infra.release.checks.gate import verdict
from sandbox import class_archive
from testing.sandbox.process import in_environment
from testing.stack import state_files
from testing.stack.fault_matrix import FAULTS, STAGES, Stand, trial, users
from testing.stack.github_stand_in import GitHub, github_stand_in
from testing.stack.local_run import CRITEO_ROWS, ROOT, LocalRun
from testing.stack.manual_changes import by_hand
from testing.stack.work_tree import copy_work_tree
from testing.stack.workflow_jobs import WorkflowJobs
from testing.waiting import eventually
from workloads.tracking import metric_name

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """One stack for every test here, made by a first run that was killed twice on its way."""
    run = LocalRun(tmp_path_factory.mktemp("stack"))
    try:
        run.up_killed(when=lambda: run.began("azure-native:containerservice:ManagedCluster"))
        run.up_killed(when=lambda: run.began("pulumi-python:dynamic/databricks:TrainingRun"), after=8)
        (run.state / "printed.txt").write_text(run.up())
        yield run
    finally:
        run.down()
    assert run.processes() == []


@pytest.fixture
def stack(standing: LocalRun) -> LocalRun:
    """The stack as plain `make local` leaves it, whatever an earlier test made of it."""
    if not standing.plain:
        standing.up()
    return standing


def score(run: LocalRun, *rows: dict[str, Any]) -> Any:
    """The endpoint's answer; of golden rows of what serves, as the command asks for them, if no rows are given."""
    with in_environment(run.environment):
        outputs = run.outputs
        return Endpoint.of(outputs).post({"rows": rows or [line["row"] for line in command.golden(outputs)[:3]]})


def test_the_run_ends_with_what_a_user_wants_to_know(stack: LocalRun) -> None:
    printed = (stack.state / "printed.txt").read_text()
    for word in (
        "endpoint",
        "AUC",
        "log loss",
        "gate",
        "top 10 for user",
        "p99",
        "model card",
        "tracking",
        "make local-down",
    ):
        assert word in printed
    assert "personalization dashboard" in printed


def test_a_run_killed_among_resources_and_in_training_is_taken_up_again(stack: LocalRun) -> None:
    assert stack.jobs_runs_versions() == (1, 1, 1)
    assert [line for line in stack.processes() if "-m cli" in line or "pulumi" in line] == []


def test_the_first_training_leaves_sparks_classes_to_the_drivers_to_come(stack: LocalRun) -> None:
    eventually(class_archive.option, seconds=600)


def test_the_model_is_as_good_as_the_data_allow(stack: LocalRun) -> None:
    metrics = stack.outputs["metrics"]
    assert metrics["rows_test"] >= 9_900
    assert metrics["auc"] >= 0.715
    assert metrics["log_loss"] <= 0.612
    assert metrics["baseline"]["auc"] > 0.7
    assert all(rule["passed"] for rule in metrics["gate"])


def test_alerts_on_training_read_the_stacks_own_job(stack: LocalRun) -> None:
    found, job_id = stack.alert_queries_and_job()
    assert found.keys() >= {"silent", "training-failed", "training-late", "model-refused"}
    assert f'tostring(run.jobId) == "{job_id}"' in found["training-failed"]
    assert f'tostring(run.jobId) == "{job_id}"' in found["training-late"]


def test_outputs_hold_everything_but_a_key(stack: LocalRun) -> None:
    wanted = {"scoring_uri", "endpoint_name", "scoring_key_command", "model_name", "model_version", "image_digest"}
    wanted |= {"training_run_id", "training_run_page", "metrics", "lake_dfs_endpoint", "ml_workspace_id"}
    wanted |= {"interactive_cluster_page", "cluster_policy_id"}
    assert wanted <= set(stack.outputs)
    answer = httpx.post(stack.outputs["scoring_uri"], json={"rows": [{"age": 30}]}, verify=_trust(stack))
    assert answer.status_code == 401


@pytest.mark.parametrize("language", ["sh", "python", "javascript"])
def test_examples_of_the_page_on_calling_work(stack: LocalRun, language: str) -> None:
    """Every fenced block of docs/calling.md, as printed."""
    program = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"], "javascript": ["node", "-e"]}[language]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    page = (ROOT / "docs" / "calling.md").read_text()
    examples = re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert examples
    with in_environment(stack.environment):
        key = Endpoint.of(stack.outputs).client.headers["authorization"].removeprefix("Bearer ")
    trust = stack.environment["SSL_CERT_FILE"]
    environment = {
        **stack.environment,
        **{"SCORING_URI": stack.outputs["scoring_uri"], "SCORING_KEY": key},
        **{"CURL_CA_BUNDLE": trust, "REQUESTS_CA_BUNDLE": trust, "NODE_EXTRA_CA_CERTS": trust},
    }
    for example in examples:
        done = subprocess.run([*program, example], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, example + done.stdout + done.stderr
        assert "probabilit" in done.stdout


def test_lineage_leads_from_the_endpoint_to_the_rows_and_from_the_rows_to_what_serves_them(stack: LocalRun) -> None:
    outputs = stack.outputs
    back = stack.run("lineage")
    assert back.returncode == 0, back.stderr
    model = f"model {outputs['model_name']}:{outputs['model_version']}"
    made_of = (f"deployment {outputs['deployment']}  100 %", outputs["image_digest"], model, outputs["training_run_id"])
    for found in (*made_of, "100,000 rows", "ml-100k.inter", "synapseml 1.1.3"):
        assert found in back.stdout
    (snapshot,) = (line.rpartition("/")[2] for line in back.stdout.splitlines() if "snapshot movielens/" in line)
    forward = stack.run("lineage", "--snapshot", snapshot).stdout
    assert model in forward
    assert f"deployment {outputs['deployment']}  100 %" in forward
    assert "no model version was trained on this snapshot" in stack.run("lineage", "--snapshot", "never").stdout


def test_golden_rows_are_scored_without_a_word(stack: LocalRun) -> None:
    assert json.loads(stack.run("score").stdout) == score(stack)


def test_the_run_is_in_mlflow_with_every_figure_to_the_last_digit(stack: LocalRun) -> None:
    run_id, printed = stack.outputs["training_run_id"], (stack.state / "printed.txt").read_text()
    (folder,) = (stack.state / "sandbox" / "accounts").glob(f"*/models/{run_id}")
    lineage, metrics = (json.loads((folder / name).read_text()) for name in ("lineage.json", "metrics.json"))
    address = re.search(r"http://127\.0\.0\.1:\d+/", printed)
    assert address
    client = MlflowClient(address[0])
    found = client.get_run(lineage["mlflow_run_id"])
    assert client.get_experiment(found.info.experiment_id).name == stack.outputs["tracking_experiment"]
    assert found.info.status == "FINISHED"
    told = {name: value for name, value in found.data.metrics.items() if not name.endswith("/log_loss_by_tree")}
    assert told == dict(_numbers(metrics))
    curve = client.get_metric_history(found.info.run_id, "validation/log_loss_by_tree")
    assert len(curve) == metrics["trees"]
    assert curve[-1].value < curve[0].value
    assert found.data.params["hyperparameters/num_leaves"] == str(lineage["hyperparameters"]["num_leaves"])
    assert {"snapshot", "code", "seed", "run_id"} <= set(found.data.params)
    assert {file.path for file in client.list_artifacts(found.info.run_id)} == {"lineage.json", "model_card.html"}
    assert stack.model_tags(stack.outputs["model_version"])["mlflow_run_id"] == found.info.run_id
    assert f"MLflow run {found.info.run_id}" in stack.run("lineage").stdout


def test_a_user_is_ranked_the_best_items_of_the_whole_catalogue(stack: LocalRun) -> None:
    done = stack.run("rank", "--user", "196", "--top", "3")
    assert done.returncode == 0, done.stderr
    probabilities = [float(line.split()[0]) for line in done.stdout.splitlines()]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    unknown = stack.run("rank", "--user", "nobody")
    assert unknown.returncode == 1
    assert "no user 'nobody'" in unknown.stderr
    unasked = stack.run("rank", "--user", "196", "--context", "hour=22")
    assert unasked.returncode == 1
    assert "dataset movielens has none in use" in unasked.stderr


@pytest.mark.parametrize("name", ["local", "organization/personalization/local"])
def test_the_page_tells_of_the_local_stack_and_of_any_stack_of_pulumis_from_its_state(
    name: str, stack: LocalRun
) -> None:
    environment = Engine(stack.state, stack.environment).environment
    with subprocess.Popen(
        stack.command("dashboard", name), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as it:
        try:
            said = str(it.stdout and it.stdout.readline())
            views = {path: httpx.get(said.split()[2] + path, timeout=90).text for path in ("", "release", "try")}
        finally:
            it.send_signal(signal.SIGINT)
    assert [path for path, text in views.items() if "Not available" in text] == []
    assert "Managed cluster" in views[""]
    assert "is gone" not in views[""]
    assert f"run {stack.outputs['training_run_id']}" in views["release"]
    assert ("One of 943" if name == "local" else "--data FOLDER") in views["try"]


def test_a_wrong_key_and_an_unknown_feature_are_told_apart(stack: LocalRun) -> None:
    done = stack.run("score", '{"colour": "red"}')
    assert done.returncode == 1
    assert "colour" in done.stderr
    assert "400" in done.stderr
    answer = httpx.post(
        stack.outputs["scoring_uri"],
        json={"rows": [{"age": 30}]},
        headers={"Authorization": "Bearer not-the-key"},
        verify=_trust(stack),
    )
    assert answer.status_code == 401


def test_up_again_and_refresh_change_nothing(stack: LocalRun) -> None:
    assert stack.pulumi("up") == {}
    assert stack.pulumi("refresh") == {}


def test_objects_deleted_by_hand_in_databricks_are_found_by_refresh_and_created_by_the_next_up(stack: LocalRun) -> None:
    known = stack.jobs_runs_versions()
    with by_hand(stack) as hand:
        hand.delete_in_databricks()
        hand.regenerate_key()
    assert stack.pulumi("refresh") == {"delete": 5}  # job, policy, wheel, notebooks and key
    # The cluster takes the new policy; two alerts and the dashboard take the new job.
    assert stack.pulumi("up") == {"create": 5, "update": 4}
    assert stack.jobs_runs_versions() == known
    assert score(stack)["model"].endswith(f":{stack.outputs['model_version']}")
    assert stack.pulumi("up", "--refresh") == {}


def test_each_kind_of_change_by_hand_is_named_by_the_preview_and_set_back_by_the_next_up(
    stack: LocalRun, workflows: tuple[WorkflowJobs, GitHub]
) -> None:
    with by_hand(stack) as hand:
        hand.change_job_cluster()
        hand.change_policy()
        hand.revoke_grant("data-science")
        hand.change_deployment()
        hand.take_traffic()
        hand.delete_secret_scope()
        hand.resize_pools()
        hand.delete_role_assignment()
    with pytest.raises(UserError, match=r"no deployment of endpoint .* has traffic"):
        score(stack)
    found = stack.drift()
    changed = {(each.name, one.path) for each in found for one in each.properties if each.action == Action.CHANGED}
    assert changed == {
        ("release-job", "settings"),
        ("release-cluster-policy", "definition"),
        ("release-interactive-cluster", "team"),
        ("release-interactive-cluster", "settings"),  # it names the policy, whose id a preview of its update lacks
        ("release-rollout", "scale.max"),
        ("release-rollout", "share"),
        ("kubernetes-system", "count"),
        ("kubernetes-scoring", "maxCount"),
    }
    added = {each.name for each in found if each.action == Action.ADDED}
    assert len(added) == 2
    assert added > {"release-endpoint-key"}
    assert any(name.endswith("acr-pull-on-registry") for name in added)
    jobs, _ = workflows
    shutil.copy(stack.engine.config_file, jobs.folder / "Pulumi.local.yaml")
    code, said = jobs.run("drift", "drift")
    assert code != 0, said
    written = (jobs.folder / "reports" / "local.md").read_text()
    assert [name for name, _ in changed if name not in written] == []
    assert stack.pulumi("up", "--refresh") == {"create": 2, "update": 6}
    assert list(stack.traffic().values()) == [100]
    assert score(stack)["model"].endswith(f":{stack.outputs['model_version']}")
    assert [stack.drift() for _ in range(3)] == [()] * 3


def test_another_generation_of_a_served_model_is_refused_and_it_answers_as_before(stack: LocalRun) -> None:
    before = score(stack)
    stack.configure("personalization:generation", "2")
    try:
        with pytest.raises(AssertionError, match="1 errored"):
            stack.pulumi("up")
        said = (stack.state / "test-up-events.json").read_text()
        assert "personalization:generation was 1 when this stack was deployed and is 2 now" in said
    finally:
        stack.configure("personalization:generation", "1")
    assert score(stack) == before


def test_state_and_outputs_hold_no_secret_in_clear(stack: LocalRun) -> None:
    secrets = _secrets(stack)
    backend = stack.state / "pulumi" / "backend"
    for path in [*backend.rglob("*.json"), *stack.state.glob("*.log"), stack.state / "run.json"]:
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path


def test_the_notebooks_run_from_top_to_bottom_and_their_plots_show_something(stack: LocalRun) -> None:
    with in_environment(stack.environment):
        ran = notebooks.run(stack.outputs)
        rendered = {path.name for path in notebooks.render(ran, stack.state / "notebooks")}
    assert set(ran) == {path.stem for path in (ROOT / "workloads" / "notebooks").glob("*.py")}
    for name, of in ran.items():
        code = [cell for cell in of.notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), name
        outputs = [output for cell in code for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"], name
        plots = [base64.b64decode(png) for found in outputs if (png := found.get("data", {}).get("image/png"))]
        assert plots, name
        assert all(_coloured(plot) > 0.002 for plot in plots), name
        assert f"{name}.md" in rendered
    asked = json.loads(ran["operationalize"].result)
    assert (asked["rows"], asked["items"]) == (200, 200)
    assert asked["largest_difference"] <= 1e-9
    assert not [found for of in ran.values() for found in _secrets(stack) if found in of.page]


def test_a_forced_replacement_of_the_whole_release_loses_nothing(stack: LocalRun) -> None:
    """Also without a team, as in the shipped development stack. Endpoint and cluster stay: they carry the release."""
    dynamic, before = stack.urns("pulumi-python:dynamic/"), stack.objects()
    urns = [urn for urn in dynamic if "personalization:release:" in urn]
    assert len(urns) > 10
    tainted, forced = urns[::2], urns[1::2]
    stack.engine.text("state", "taint", *tainted, "--yes", "--stack", "local")
    stack.unset("access:team")
    with in_environment(stack.environment), users(Stand.of(stack), serves=True) as answers:
        changes = stack.pulumi("up", *(f"--replace={urn}" for urn in forced))
    assert changes == {"replace": len(urns)}
    assert (answers["failed"], answers["asked"] > 100) == (0, True)
    assert stack.objects() == before
    assert stack.pulumi("up") == {}


@pytest.fixture
def workflows(stack: LocalRun, tmp_path: Path) -> Iterator[tuple[WorkflowJobs, GitHub]]:
    """The workflows on this stack, in a copy of the project; the environment of the retraining admits main alone."""
    clone = copy_work_tree(tmp_path / "clone")
    engine = Engine(stack.state, stack.environment)
    with github_stand_in("local", "local-retrain") as (github, environment):
        github.environments["local-retrain"]["protection_rules"] = []
        github.policies["local-retrain"]["branch_policies"] = [{"name": "main"}]
        streaming = {"STACK": "local", "DAY": "", "PYTHONPATH": str(clone), **STREAMING}
        yield WorkflowJobs(clone, {**engine.environment, **environment, **streaming}), github


def test_the_approved_release_is_applied_with_outputs_that_change_and_nothing_else(
    stack: LocalRun, workflows: tuple[WorkflowJobs, GitHub]
) -> None:
    jobs, github = workflows
    before, known = stack.outputs, stack.jobs_runs_versions()
    shutil.copytree(stack.configured("training:data") or "", jobs.folder / "rows")
    (table,) = (jobs.folder / "rows").glob("*.inter")
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    stack.configure("training:data", str(jobs.folder / "rows"))
    shutil.copy(Engine(stack.state, stack.environment).config_file, jobs.folder / "Pulumi.local.yaml")
    stack.plain = False

    code, said = jobs.run("deploy", "plan")
    assert code == 0, said
    assert "TrainingRun" in (jobs.folder / "reports" / "local.md").read_text()

    rules = github.environments["local"].pop("protection_rules")
    code, said = jobs.run("deploy", "up")
    assert (code, "environment local of octo-org/personalization requires no reviewer" in said) == (1, True), said
    github.environments["local"]["protection_rules"] = rules

    with by_hand(stack) as hand:
        hand.change_job_cluster()
        hand.take_traffic()
    code, said = jobs.run("deploy", "up")
    assert (code, "nothing has been changed: the stack or its cloud has moved on" in said) == (1, True), said
    for name in ("release-job (pulumi-python:dynamic/databricks:TrainingJob)", "release-rollout ("):
        assert name in said
    assert stack.jobs_runs_versions() == known

    code, said = jobs.run("deploy", "plan")
    assert code == 0, said
    code, said = jobs.run("deploy", "up")
    assert code == 0, said
    outputs = json.loads(stack.engine.text("stack", "output", "--json", "--stack", "local"))
    for name in ("training_run_id", "model_version", "deployment", "metrics", "rollout"):
        assert outputs[name] != before[name], name
    assert stack.jobs_runs_versions() == (known[0], known[1] + 1, known[2] + 1)
    assert score(stack)["model"].endswith(f":{outputs['model_version']}")
    assert stack.pulumi("up", "--refresh") == {}


def test_the_daily_workflow_runs_with_the_policies_and_finds_nothing_to_do(
    stack: LocalRun, workflows: tuple[WorkflowJobs, GitHub]
) -> None:
    jobs, github = workflows
    shutil.copy(Engine(stack.state, stack.environment).config_file, jobs.folder / "Pulumi.local.yaml")
    code, said = jobs.run("retrain", "retrain")
    assert code == 0, said
    assert "Policies:" in said
    github.policies["local-retrain"]["branch_policies"].append({"name": "*"})
    code, said = jobs.run("retrain", "retrain")
    assert (code, "environment local-retrain admits *, main" in said) == (1, True), said


def test_a_scheduled_run_is_compared_with_the_live_model_and_a_worse_one_is_passed_over(stack: LocalRun) -> None:
    """Databricks starts it, so nobody names the live model to it; its rows would pass every floor but that one."""
    live, known = stack.outputs["training_run_id"], stack.outputs["model_version"]
    stack.configure("release:model", "latest")
    stack.configure("training:schedule_enabled", "true")
    assert stack.pulumi("up") == {"update": 1, "delete": 1}  # the job, and the training run that is not this stack's

    stack.land(datetime.now(UTC).date().isoformat(), "ml-100k.inter", _noisy)
    worse = stack.run_job()
    (metrics,) = (json.loads(file.read_text()) for file in stack.artefacts(worse, "metrics.json"))
    assert metrics["live"]["run_id"] == live
    broken = {rule["name"] for rule in verdict(metrics, QualitySettings().model_dump()) if not rule["passed"]}
    assert broken == {"auc_drop", "log_loss_rise"}
    assert stack.pulumi("up") == {}
    assert f"run {worse} is refused: AUC is" in (stack.state / "test-up-events.json").read_text()

    alone = stack.run_job(live="")
    assert stack.pulumi("up") == {}
    said = (stack.state / "test-up-events.json").read_text()
    assert f"run {alone} is refused: it was compared with nothing, and run {live} is live" in said

    stack.land("good", "ml-100k.inter", lambda rows: rows)
    good = stack.run_job(snapshot="good")
    assert stack.pulumi("up") == {"replace": 1, "update": 3}  # model version; rollout, live.json and notebooks
    version = stack.engine.text("stack", "output", "model_version", "--stack", "local").strip()
    assert int(version) > int(known)
    tags = stack.model_tags(version)
    assert (tags["run_id"], tags["snapshot"]) == (good, "good")
    (reference,) = (json.loads(file.read_text()) for file in stack.artefacts("", "live.json"))
    assert reference["run_id"] == good
    assert [found["run_id"] for found in reference["deployments"][:2]] == [good, live]


def _noisy(rows: list[str]) -> list[str]:
    """Ratings as they were, of the last fifth by time; of seven in ten others somebody else's."""
    rows = sorted(rows, key=lambda row: float(row.split("\t")[3]))
    early = rows[: len(rows) * 4 // 5]
    cells = [row.split("\t") for row in early]
    drawn = random.Random(1).sample(range(len(cells)), len(cells) * 7 // 10)
    ratings = [cells[place][2] for place in drawn]
    for place, rating in zip(drawn, [*ratings[1:], ratings[0]], strict=True):
        cells[place][2] = rating
    return ["\t".join(cell) for cell in cells] + rows[len(early) :]


@pytest.mark.skipif(not CRITEO_ROWS.exists(), reason="Criteo's licence keeps its rows out of the repository")
def test_a_refused_model_leaves_the_live_endpoint_as_it_was(standing: LocalRun) -> None:
    before, registered = score(standing), standing.jobs_runs_versions()[2]
    done = standing.run("local", "--dataset", "criteo", "--data", str(CRITEO_ROWS))
    assert done.returncode == 1
    assert "is refused, what serves now keeps serving" in done.stderr
    assert "clicks in the held-out part, too few to judge" in done.stderr
    (verdict,) = (found for found in map(json.loads, _verdicts(standing)) if not found["passed"])
    assert "test_clicks" in {rule["name"] for rule in verdict["rules"] if not rule["passed"]}
    assert len(standing.artefacts("*", "refused.json")) == 1
    assert score(standing) == before
    assert standing.jobs_runs_versions()[2] == registered


@pytest.fixture(scope="module")
def two_models(standing: LocalRun) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Outputs while MovieLens' model served, those of the next one, and what the second run printed."""
    if not standing.plain:
        standing.up()
    first = standing.outputs
    printed = standing.up("--dataset", "criteo")
    return first, standing.outputs, printed


def test_synthetic_rows_in_criteos_shape_pass_the_gate(two_models: tuple[dict[str, Any], dict[str, Any], str]) -> None:
    first, second, printed = two_models
    assert "SYNTHETIC" in printed
    metrics = second["metrics"]
    assert metrics["synthetic"] is True
    assert metrics["live"]["run_id"] == first["training_run_id"]
    assert metrics["live"]["skipped"] == "it was trained on dataset 'movielens', not 'criteo'"
    assert [step["share"] for step in second["rollout"]] == [0, 10, 50, 100]
    assert {step["error_share"] for step in second["rollout"]} == {0}


def test_a_new_model_touches_what_belongs_to_the_release_alone(
    standing: LocalRun, two_models: tuple[dict[str, Any], dict[str, Any], str]
) -> None:
    first, second, _ = two_models
    assert standing.outputs == second
    assert first["model_version"] != second["model_version"]
    touched = standing.touched()
    assert touched
    assert all("personalization:release:Release$" in urn for urn in touched)


def test_rolling_back_and_coming_back_is_one_value_and_trains_nothing(
    standing: LocalRun, two_models: tuple[dict[str, Any], dict[str, Any], str]
) -> None:
    """To a deployment that is still warm, which is left running, and from the registry where it is gone."""
    first, second = (outputs["model_version"] for outputs in two_models[:2])
    known = standing.jobs_runs_versions()

    def serve(model: str, row: dict[str, Any], *arguments: str) -> str:
        """Version that answers after the update; the notebooks and the record of the live deployment change with it."""
        standing.configure("release:model", model)
        assert standing.pulumi("up", *arguments) == {"update": 3}
        return score(standing, row)["model"].rpartition(":")[2]

    warm = standing.replicas()
    assert serve(first, {"age": 30}) == first
    assert serve("trained", {"I1": 1}) == second
    # More of them come and go with the load: a deployment went on where one of its replicas did.
    still = standing.replicas()
    assert len(warm) == 2
    assert all(still[deployment] & running for deployment, running in warm.items())
    standing.delete_deployment_of(first)
    assert serve(first, {"age": 30}, "--target", _target_of_the_daily_run()) == first
    assert serve("trained", {"I1": 1}) == second
    assert standing.jobs_runs_versions() == known


def test_the_latest_gated_run_serves_without_training_and_training_is_taken_up_again(
    standing: LocalRun, two_models: tuple[dict[str, Any], dict[str, Any], str]
) -> None:
    """The training run leaves the program, and is found again by its rows and code."""
    second, known = two_models[1], standing.jobs_runs_versions()
    standing.configure("release:model", "latest")
    assert standing.pulumi("up") == {"delete": 1}
    assert score(standing, {"I1": 1})["model"].endswith(f":{second['model_version']}")
    standing.configure("release:model", "trained")
    assert standing.pulumi("up") == {"create": 1}
    assert standing.jobs_runs_versions() == known


def test_one_changed_scale_value_is_one_update(standing: LocalRun) -> None:
    standing.configure("serving:nodes_max", "5")
    assert standing.pulumi("up") == {"update": 1}


@pytest.mark.parametrize(("stage", "fault"), [("node pool", "500"), ("registry", "answer lost")])
def test_up_again_makes_whole_what_a_fault_left(standing: LocalRun, stage: str, fault: str) -> None:
    """Two cells of the matrix of tests/end_to_end/faults."""
    with in_environment(standing.environment):
        standing.plain = False
        (of,) = (each for each in STAGES if each.name == stage)
        (kind,) = (each for each in FAULTS if each.name == fault)
        trial(Stand.of(standing), of, kind)


def test_both_engines_serve_through_the_same_endpoint_and_configuration_leads_back(stack: LocalRun) -> None:
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
    with in_environment(stack.environment), users(Stand.of(stack), serves=True) as answers:
        # Replaced: image and environment. Updated: rollout and the record of the live deployment.
        assert stack.pulumi("up") == {"replace": 2, "update": 2}
    assert (answers["failed"], answers["asked"] > 10) == (0, True)
    assert stack.variables()["SCORING_ENGINE"] == "native"
    assert score(stack) == native
    assert stack.builds() == builds


def test_infrastructure_that_was_deleted_by_hand_comes_back_with_all_that_was_in_it(stack: LocalRun) -> None:
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


def _target_of_the_daily_run() -> str:
    """What `.github/workflows/retrain.yml` tells the engine to touch."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "retrain.yml").read_text())
    script = workflow["jobs"]["retrain"]["steps"][-1]["run"].splitlines()[-1]
    words = shlex.split(script.replace("$STACK", "local"))
    return words[words.index("--target") + 1]


def _coloured(plot: bytes) -> float:
    """Share of a picture that is neither black, white nor grey: empty axes have none."""
    colours = matplotlib.image.imread(io.BytesIO(plot), "png")[..., :3]
    return float((colours.max(axis=-1) - colours.min(axis=-1) > 0.2).mean())


def _secrets(run: LocalRun) -> set[str]:
    with in_environment(run.environment):
        key = Endpoint.of(run.outputs).client.headers["authorization"].removeprefix("Bearer ")
    return {key, run.environment["ARM_CLIENT_SECRET"]}


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Of JSON, by the way to them."""
    parts = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, part in parts:
        yield from _numbers(part, f"{name}/{metric_name(str(key))}".lstrip("/"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def _verdicts(run: LocalRun) -> list[str]:
    """What the gate kept in the lake, of every run that it judged."""
    return [found.read_text() for found in (run.state / "sandbox" / "accounts").glob("*/models/*/verdict.json")]


def _trust(run: LocalRun) -> Any:
    import ssl

    return ssl.create_default_context(cafile=run.environment["SSL_CERT_FILE"])


def test_every_file_of_a_run_is_of_a_known_kind(stack: LocalRun) -> None:
    """So that no new file of state is forgotten where damaged ones are tried: tests/sandbox/test_state_files.py."""
    made = [path for top in RunDirectory(stack.state).files for path in (top, *top.rglob("*")) if path.is_file()]
    assert made
    assert [path for path in made if not state_files.is_known(path.relative_to(stack.state).as_posix())] == []
