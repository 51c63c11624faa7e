"""The GitHub workflows: what they may do, what they run, and that it exists."""

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
    """Jobs with steps. A job that calls another workflow has none: `calls`."""
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            if "uses" not in job:
                yield f"{path.stem}/{name}", job


def calls() -> dict[str, dict[str, Any]]:
    """Jobs that call another workflow."""
    found = {f"{path.stem}/{name}": job for path in WORKFLOWS for name, job in load(path)["jobs"].items()}
    return {name: job for name, job in found.items() if "uses" in job}


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


def test_there_are_tests_a_preview_a_deployment_a_daily_retraining_and_a_watch_for_drift() -> None:
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
        # A commit on main must end before the next one: its plan would otherwise replace the newer commit's.
        assert job["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"


def test_only_a_commit_whose_tests_passed_is_deployed() -> None:
    deploy = load(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"]
    assert calls() == {
        "deploy/ci": {"name": "ci", "uses": "./.github/workflows/ci.yml", "permissions": {"contents": "read"}}
    }
    assert deploy["plan"]["needs"] == "ci"
    # Without a status function a condition implies `success()`: all needed jobs succeeded.
    assert not re.search(r"\b(always|cancelled|failure|success)\(", deploy["plan"]["if"])
    assert deploy["up"]["needs"] == "plan"
    assert "needs.plan.result != 'skipped'" in deploy["up"]["if"]


def test_files_are_what_github_reads() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))
    tool("check-jsonschema", "--builtin-schema", "vendor.github-actions", *map(str, ACTIONS))


def test_an_audit_for_injection_and_excess_finds_nothing() -> None:
    # Below medium it asks for `$/` before the repository's own actions, which older runners do not know.
    tool("zizmor", "--offline", "--no-progress", "--no-config", "--no-ignores", "--min-severity", "medium", ".github")


def test_every_action_is_pinned_to_a_commit_with_its_version_beside() -> None:
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
    noted = set(re.findall(r"uses: (\S+@[0-9a-f]{40}) # v\d+\.\d+\.\d+\n", text))
    assert noted == {name for name in used if not name.startswith("./")}
    assert len({name.partition("@")[0] for name in noted}) == len(noted), "one action, one version"


def test_a_job_gets_what_it_needs_and_no_more() -> None:
    for path in WORKFLOWS:
        assert load(path)["permissions"] == {}, path.name
    granted = {name: {right for right, level in job["permissions"].items() if level == "write"} for name, job in jobs()}
    with_identity = {name for name, rights in granted.items() if "id-token" in rights}
    assert with_identity == {"preview/azure", "deploy/plan", "deploy/up", "drift/drift", "retrain/retrain"}
    for name, job in jobs():
        assert job["timeout-minutes"] <= 360, name
        # Whoever has an identity was let in by an environment; who may write runs no program of the project.
        assert ("environment" in job) == (name in with_identity)
        if granted[name] - {"id-token"}:
            assert not any("run" in step for step in job["steps"]), name
    assert {name: rights - {"id-token"} for name, rights in granted.items() if rights - {"id-token"}} == {
        "preview/comment-sandbox": {"pull-requests"},
        "preview/comment-azure": {"pull-requests"},
        "drift/issue": {"issues"},
    }


RUNNER = "${{ fromJSON(vars.RUNNERS || '{}')[matrix.stack] || 'ubuntu-24.04' }}"


def test_a_job_about_a_stack_takes_the_stack_s_runner_and_no_other_job_does() -> None:
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
def test_nothing_is_applied_without_an_approval_or_from_outside_a_private_network(job: str, approval: str) -> None:
    commands = commands_of(job)
    (up,) = (number for number, command in enumerate(commands) if command.startswith("pulumi up"))
    before = commands[:up]
    assert approval in before
    assert 'personalization preflight --stack "$STACK" --reach' in before
    asking = next(step for name, step in steps() if name == job and approval in step.get("run", ""))
    assert asking["env"] == {"GITHUB_TOKEN": "${{ github.token }}"}
    assert dict(jobs())[job]["permissions"]["actions"] == "read"


def test_approved_steps_are_compared_before_anything_changes() -> None:
    planned, applied = commands_of("deploy/plan"), commands_of("deploy/up")
    assert 'personalization steps "$STACK.json" --output approved/steps.json' in planned
    compared = applied.index("personalization steps now.json --approved approved/steps.json")
    assert [command.split()[:2] for command in applied[compared + 1 :]] == [["pulumi", "up"]]


def test_policies_hold_and_the_cloud_is_asked_wherever_a_stack_is_previewed_or_changed() -> None:
    """The base of a pull request is exempt from the policies: they are the head's."""
    asking = [
        (name, command)
        for name, _ in jobs()
        for command in commands_of(name)
        if re.search(r"pulumi (preview|up)", command)
    ]
    assert len(asking) == 7
    for name, command in asking:
        assert "--refresh" in command or name == "retrain/retrain", f"{name}: {command}"
        held = "--policy-pack policy" in command
        assert held or "--cwd ../base" in command or name == "drift/drift", f"{name}: {command}"


def test_only_the_approved_plan_changes_infrastructure_and_the_retraining_changes_releases_alone() -> None:
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


def test_a_retraining_and_a_deployment_of_one_stack_wait_for_each_other() -> None:
    found = dict(jobs())
    assert found["retrain/retrain"]["concurrency"] == found["deploy/up"]["concurrency"]
    assert found["retrain/retrain"]["concurrency"]["cancel-in-progress"] is False


def test_a_fork_s_pull_request_gets_neither_identity_nor_a_token_that_writes() -> None:
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


def test_nothing_of_an_event_is_pasted_into_a_script() -> None:
    for name, step in steps():
        script = step.get("run") or step.get("with", {}).get("script") or ""
        assert "${{" not in script, f"{name}: pass it through env"


def test_every_command_of_a_step_exists() -> None:
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    offered = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    seen = set()
    for name, step in steps():
        script = step.get("run", "").replace("\\\n", " ")
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0, name
        for word, argument, rest in re.findall(r"\b(make|personalization) ([a-z-]+)(.*)", script):
            seen.add(f"{word} {argument}")
            assert argument in (made if word == "make" else offered), f"{name}: {word} {argument}"
            if word == "personalization":
                options = {option for parameter in offered[argument].params for option in parameter.opts}
                assert set(re.findall(r"--[a-z-]+", rest)) <= options, f"{name}: {rest}"
        for folder in re.findall(r"--policy-pack (\S+)", script):
            assert (ROOT / folder / "PulumiPolicy.yaml").is_file()
    used = {"approval", "change-report", "preflight", "select-snapshot", "steps"}
    assert seen == {
        "make bootstrap",
        "make test",
        "make local",
        "make local-down",
        *(f"personalization {command}" for command in used),
    }


def test_the_workflows_run_the_pinned_versions() -> None:
    pins = tomllib.loads((ROOT / "tools" / "versions.toml").read_text())
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    given = {
        key: value for name, step in steps() if name == "actions/prepare" for key, value in step.get("with", {}).items()
    }
    assert given["pulumi-version"] == pins["pulumi"]["version"]
    assert f"=={given['python-version']}.*" == required


@pytest.mark.skipif(not shutil.which("node"), reason="needs node, as GitHub's runner has it")
def test_a_report_s_comment_is_renewed_and_those_of_others_are_left_alone(tmp_path: Path) -> None:
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
        const told = (name, request) => console.log(JSON.stringify([name, request.comment_id ?? null, request.body]))
        const record = name => async request => told(name, request)
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
def test_a_stack_with_drift_has_one_open_issue(tmp_path: Path) -> None:
    (script,) = (step["with"]["script"] for name, step in steps() if name == "drift/issue" and "script" in step["with"])
    (tmp_path / "reports").mkdir()
    for stack in ("dev", "prod"):
        (tmp_path / "reports" / f"{stack}.md").write_text(f"{stack} differs\n")
    known = [{"number": 4, "title": "Drift: stack dev is not what main says"}, {"number": 5, "title": "another"}]
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
        ["create", "Drift: stack prod is not what main says", "prod differs\n"],
    ]
