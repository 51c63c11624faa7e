"""Tests of the GitHub workflows: their permissions, and the commands and actions they run."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli import main
from cli.changes.report import LABEL

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
RELEASE_TARGET = "urn:pulumi:*::*::personalization:release:Release$**"
FIRST_PARTY = {"actions", "pulumi"}


def load(path: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    return {"on" if key is True else key: value for key, value in yaml.safe_load(path.read_text()).items()}


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Jobs with steps. Jobs that call another workflow have none: see `calls`."""
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            if "uses" not in job:
                yield f"{path.stem}/{name}", job


def calls() -> dict[str, dict[str, Any]]:
    """Jobs that call another workflow."""
    every_job = {f"{path.stem}/{name}": job for path in WORKFLOWS for name, job in load(path)["jobs"].items()}
    return {name: job for name, job in every_job.items() if "uses" in job}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in jobs():
        yield from ((name, step) for step in job["steps"])
    for path in ACTIONS:
        yield from ((f"actions/{path.parent.name}", step) for step in load(path)["runs"]["steps"])


def tool(*command: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_for_tests_preview_deployment_retraining_and_drift_exist() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"ci", "preview", "deploy", "retrain", "drift"}


def test_pull_requests_and_main_run_the_commands_of_the_readme() -> None:
    ci, deploy = (load(ROOT / ".github" / "workflows" / f"{name}.yml") for name in ("ci", "deploy"))
    # A push to main runs them through deploy.yml; a trigger of ci.yml for it would run them twice.
    assert set(ci["on"]) == {"pull_request", "workflow_call"}
    assert deploy["on"]["push"] == {"branches": ["main"]}
    assert commands_of("ci/test") == ["make test"]
    assert commands_of("ci/local") == ["make local", "make local-down"]
    assert "secrets." not in json.dumps(ci)
    for name, job in ci["jobs"].items():
        assert not {"if", "continue-on-error"} & job.keys(), name
        assert "github.ref" in job["concurrency"]["group"]
        # Runs for main follow each other and are not cancelled. Otherwise the plan of an earlier commit could replace
        # the plan of a later one.
        assert job["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"


def test_commit_is_deployed_only_after_its_tests_passed() -> None:
    deploy = load(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"]
    assert calls() == {
        "deploy/ci": {"name": "ci", "uses": "./.github/workflows/ci.yml", "permissions": {"contents": "read"}}
    }
    assert deploy["plan"]["needs"] == "ci"
    # Without a status function a condition implies `success()`: all needed jobs succeeded.
    assert not re.search(r"\b(always|cancelled|failure|success)\(", deploy["plan"]["if"])
    assert deploy["up"]["needs"] == "plan"
    assert "needs.plan.result != 'skipped'" in deploy["up"]["if"]


def test_workflow_files_match_the_schema_of_github() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))
    tool("check-jsonschema", "--builtin-schema", "vendor.github-actions", *map(str, ACTIONS))


def test_security_audit_finds_nothing() -> None:
    # Below medium severity it requires `$/` before the repository's own actions, which older runners do not support.
    tool("zizmor", "--offline", "--no-progress", "--no-config", "--no-ignores", "--min-severity", "medium", ".github")


def test_every_action_is_pinned_to_a_commit_with_its_version_in_a_comment() -> None:
    assert all((ROOT / job["uses"]).is_file() for job in calls().values())
    used = [step["uses"] for _, step in steps() if "uses" in step]
    assert used
    for name in used:
        if name.startswith("./"):
            assert (ROOT / name / "action.yml").is_file(), name
        else:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name), name
            assert name.partition("/")[0] in FIRST_PARTY
    text = "".join(path.read_text() for path in [*WORKFLOWS, *ACTIONS])
    commented = set(re.findall(r"uses: (\S+@[0-9a-f]{40}) # v\d+\.\d+\.\d+\n", text))
    assert commented == {name for name in used if not name.startswith("./")}
    assert len({name.partition("@")[0] for name in commented}) == len(commented), "an action has two versions"


def test_jobs_have_only_the_permissions_they_need() -> None:
    for path in WORKFLOWS:
        assert load(path)["permissions"] == {}, path.name
    granted = {name: {right for right, level in job["permissions"].items() if level == "write"} for name, job in jobs()}
    with_identity = {name for name, rights in granted.items() if "id-token" in rights}
    assert with_identity == {"preview/azure", "deploy/plan", "deploy/up", "drift/drift", "retrain/retrain"}
    for name, job in jobs():
        assert job["timeout-minutes"] <= 360, name
        # A job with an Azure identity belongs to a protected environment; a job with write permission runs no script.
        assert ("environment" in job) == (name in with_identity)
        if granted[name] - {"id-token"}:
            assert not any("run" in step for step in job["steps"]), name
    assert {name: rights - {"id-token"} for name, rights in granted.items() if rights - {"id-token"}} == {
        "preview/comment-sandbox": {"pull-requests"},
        "preview/comment-azure": {"pull-requests"},
        "drift/issue": {"issues"},
    }


RUNNER = "${{ fromJSON(vars.RUNNERS || '{}')[matrix.stack] || 'ubuntu-24.04' }}"


def test_jobs_of_a_stack_and_no_other_jobs_use_the_runner_of_the_stack() -> None:
    for name, job in jobs():
        assert job["runs-on"] == (RUNNER if "environment" in job else "ubuntu-24.04"), name


def commands_of(job: str) -> list[str]:
    """Lines of the job's scripts, in order, with continued lines joined."""
    scripts = (step["run"].replace("\\\n", " ") for name, step in steps() if name == job and "run" in step)
    return [" ".join(line.split()) for script in scripts for line in script.splitlines()]


@pytest.mark.parametrize(
    ("job", "approval"),
    [
        ("deploy/up", 'personalization approval "$STACK"'),
        ("retrain/retrain", 'personalization approval "$STACK-retrain" --branch main'),
    ],
)
def test_up_runs_after_the_approval_check_and_the_reachability_check(job: str, approval: str) -> None:
    commands = commands_of(job)
    (up,) = (number for number, command in enumerate(commands) if command.startswith("pulumi up"))
    before = commands[:up]
    assert approval in before
    assert 'personalization preflight --stack "$STACK" --reach' in before
    approval_step = next(step for name, step in steps() if name == job and approval in step.get("run", ""))
    assert approval_step["env"] == {"GITHUB_TOKEN": "${{ github.token }}"}
    assert dict(jobs())[job]["permissions"]["actions"] == "read"


def test_approved_steps_are_compared_before_anything_changes() -> None:
    planned, applied = commands_of("deploy/plan"), commands_of("deploy/up")
    assert 'personalization steps "$STACK.json" --output approved/steps.json' in planned
    compared = applied.index("personalization steps now.json --approved approved/steps.json")
    assert [command.split()[:2] for command in applied[compared + 1 :]] == [["pulumi", "up"]]


def test_every_preview_and_up_applies_the_policies_and_refreshes() -> None:
    """The preview of a pull request's base runs without policies, because the policy pack is the head's."""
    previews_and_ups = [
        (name, command)
        for name, _ in jobs()
        for command in commands_of(name)
        if re.search(r"pulumi (preview|up)", command)
    ]
    assert len(previews_and_ups) == 7
    for name, command in previews_and_ups:
        assert "--refresh" in command or name == "retrain/retrain", f"{name}: {command}"
        has_policies = "--policy-pack policy" in command
        assert has_policies or "--cwd ../base" in command or name == "drift/drift", f"{name}: {command}"


def test_deployment_applies_the_approved_plan_and_retraining_changes_releases_only() -> None:
    changing = {
        name: step["run"] for name, step in steps() if re.search(r"pulumi (up|destroy|refresh)", step.get("run", ""))
    }
    assert changing.keys() == {"deploy/up", "retrain/retrain"}
    assert "--plan approved/plan.json" in changing["deploy/up"]
    assert f"--target '{RELEASE_TARGET}'" in changing["retrain/retrain"]
    environments = {name: job["environment"] for name, job in jobs() if "environment" in job}
    assert environments.pop("deploy/up") == "${{ matrix.stack }}"
    assert environments.pop("retrain/retrain") == "${{ matrix.stack }}-retrain"
    assert set(environments.values()) == {"${{ matrix.stack }}-preview"}


def test_retraining_and_deployment_of_one_stack_never_run_at_the_same_time() -> None:
    by_name = dict(jobs())
    assert by_name["retrain/retrain"]["concurrency"] == by_name["deploy/up"]["concurrency"]
    assert by_name["retrain/retrain"]["concurrency"]["cancel-in-progress"] is False


def test_pull_request_from_a_fork_gets_neither_an_identity_nor_a_writing_token() -> None:
    preview = load(ROOT / ".github" / "workflows" / "preview.yml")
    assert set(preview["on"]) == {"pull_request"}
    own = "github.event.pull_request.head.repo.full_name == github.repository"
    assert own in preview["jobs"]["azure"]["if"]
    assert own in preview["jobs"]["comment-sandbox"]["if"]
    assert preview["jobs"]["comment-azure"]["needs"] == "azure"
    assert f"labels.*.name, '{LABEL}'" in preview["jobs"]["sandbox"]["env"]["ALLOW_STATEFUL"]
    sandbox = json.dumps(preview["jobs"]["sandbox"])
    assert "secrets." not in sandbox
    assert "vars." not in sandbox


def test_scripts_contain_no_expressions() -> None:
    for name, step in steps():
        script = step.get("run") or step.get("with", {}).get("script") or ""
        assert "${{" not in script, f"{name}: pass it through env"


def test_commands_and_options_of_all_steps_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    offered = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    seen = set()
    for name, step in steps():
        script = step.get("run", "").replace("\\\n", " ")
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0, name
        for word, argument, rest in re.findall(r"\b(make|personalization) ([a-z-]+)(.*)", script):
            seen.add(f"{word} {argument}")
            assert argument in (targets if word == "make" else offered), f"{name}: {word} {argument}"
            if word == "personalization":
                options = {option for parameter in offered[argument].params for option in parameter.opts}
                assert set(re.findall(r"--[a-z-]+", rest)) <= options, f"{name}: {rest}"
        for folder in re.findall(r"--policy-pack (\S+)", script):
            assert (ROOT / folder / "PulumiPolicy.yaml").is_file()
    used = {"approval", "change-report", "preflight", "select-snapshot", "steps"}
    assert seen == {
        "make test",
        "make local",
        "make local-down",
        *(f"personalization {command}" for command in used),
    }


def test_workflow_job_installs_the_smallest_sufficient_package_set() -> None:
    given = {
        name: step.get("with", {}).get("for") for name, step in steps() if step.get("uses", "").endswith("/prepare")
    }
    # The sandbox is a part of the local run.
    assert {name: use for name, use in given.items() if use} == {
        "ci/test": "test",
        "ci/local": "local",
        "preview/sandbox": "local",
    }
    assert given.keys() - {"ci/test", "ci/local", "preview/sandbox"} == {
        name for name, job in jobs() if "environment" in job
    }
    action = load(ROOT / ".github" / "actions" / "prepare" / "action.yml")
    assert action["inputs"]["for"]["default"] == "preview"
    (prepared,) = (step for step in action["runs"]["steps"] if "tools/bootstrap.py" in step.get("run", ""))
    assert prepared["run"] == 'python tools/bootstrap.py --for "$USE"'
    assert prepared["env"] == {"USE": "${{ inputs.for }}"}


def test_workflows_run_the_pinned_versions() -> None:
    pins = tomllib.loads((ROOT / "tools" / "versions.toml").read_text())
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    given = {
        key: value for name, step in steps() if name == "actions/prepare" for key, value in step.get("with", {}).items()
    }
    assert given["pulumi-version"] == pins["pulumi"]["version"]
    assert f"=={given['python-version']}.*" == required


@pytest.mark.skipif(not shutil.which("node"), reason="needs node, as GitHub's runner has it")
def test_comment_with_a_report_is_updated_and_other_comments_are_left_unchanged(tmp_path: Path) -> None:
    (script,) = (
        step["with"]["script"] for name, step in steps() if name == "actions/comment" and "script" in step["with"]
    )
    (tmp_path / "reports").mkdir()
    for stack in ("dev", "prod"):
        (tmp_path / "reports" / f"{stack}.md").write_text(f"<!-- personalization:{stack} -->\n## new\n")
    comments = [
        {"id": 1, "user": {"type": "User"}, "body": "<!-- personalization:dev -->\nquoted by a person"},
        {"id": 2, "user": {"type": "Bot"}, "body": "<!-- personalization:dev:sandbox -->\nof another job"},
        {"id": 3, "user": {"type": "Bot"}, "body": "<!-- personalization:dev -->\nold"},
    ]
    program = f"""
        const print = (name, request) => console.log(JSON.stringify([name, request.comment_id ?? null, request.body]))
        const record = name => async request => print(name, request)
        const issues = {{updateComment: record('update'), createComment: record('create'), listComments: null}}
        const github = {{paginate: async () => {json.dumps(comments)}, rest: {{issues}}}}
        const context = {{repo: {{owner: 'o', repo: 'r'}}, payload: {{pull_request: {{number: 7}}}}}}
        void (async () => {{ {script} }})()
    """
    done = subprocess.run(["node", "-"], input=program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["update", 3, "<!-- personalization:dev -->\n## new\n"],
        ["create", None, "<!-- personalization:prod -->\n## new\n"],
    ]


@pytest.mark.skipif(not shutil.which("node"), reason="needs node, as GitHub's runner has it")
def test_stack_with_infrastructure_drift_has_one_open_issue(tmp_path: Path) -> None:
    (script,) = (step["with"]["script"] for name, step in steps() if name == "drift/issue" and "script" in step["with"])
    (tmp_path / "reports").mkdir()
    for stack in ("dev", "prod"):
        (tmp_path / "reports" / f"{stack}.md").write_text(f"{stack} differs\n")
    known = [{"number": 4, "title": "Drift: stack dev differs from main"}, {"number": 5, "title": "another"}]
    program = f"""
        const line = (name, request) => JSON.stringify([name, request.issue_number ?? request.title, request.body])
        const record = name => async request => console.log(line(name, request))
        const issues = {{update: record('update'), create: record('create'), listForRepo: null}}
        const github = {{paginate: async () => {json.dumps(known)}, rest: {{issues}}}}
        const context = {{repo: {{owner: 'o', repo: 'r'}}}}
        void (async () => {{ {script} }})()
    """
    done = subprocess.run(["node", "-"], input=program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["update", 4, "dev differs\n"],
        ["create", "Drift: stack prod differs from main", "prod differs\n"],
    ]
