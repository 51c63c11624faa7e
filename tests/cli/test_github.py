"""`personalization approval` reads GitHub's protection of an environment back, and never passes without an answer.

GitHub is a stand-in here (`github_stand_in.py`), with the changes that a test names.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.errors import UserError
from cli.main import app
from testing.sandbox.process import in_environment
from testing.stack.github_stand_in import REPOSITORY, GitHub, github_stand_in


@pytest.fixture
def github() -> Iterator[GitHub]:
    with github_stand_in("staging") as (state, environment), in_environment(environment):
        yield state


def approval(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["approval", *arguments])


def refused(*arguments: str) -> str:
    done = approval(*arguments)
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


def test_required_reviewers_are_named(github: GitHub) -> None:
    done = approval("staging")
    assert (done.exit_code, done.exception) == (0, None)
    assert done.output == (
        "staging: one of octocat, team Justice League must approve; the user who started the run may approve it\n"
    )
    assert github.requests == [(f"/repos/{REPOSITORY}/environments/staging", "Bearer ghs_token")]
    github.environments["staging"]["protection_rules"][1]["prevent_self_review"] = True
    assert "who started" not in approval("staging").output


@pytest.mark.parametrize("left", ["no rules", "other rules", "no reviewers"])
def test_environment_without_required_reviewers_is_refused(github: GitHub, left: str) -> None:
    rules = github.environments["staging"]["protection_rules"]
    if left == "no rules":  # as GitHub creates an environment that a workflow names
        github.environments["staging"]["protection_rules"] = []
    elif left == "other rules":
        del rules[1]
    else:
        rules[1]["reviewers"] = []
    says = refused("staging")
    assert "has no required reviewer" in says
    assert "Settings, Environments, staging" in says


def test_missing_environment_is_refused(github: GitHub) -> None:
    assert "has no environment prod/eu, or the token cannot read it" in refused("prod/eu")
    assert github.requests[-1][0].endswith("/environments/prod%2Feu")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (403, {"message": "Resource not accessible by integration"}, "actions: read"),
        (401, {"message": "Bad credentials"}, "actions: read"),
        (500, {}, "did not answer"),
        (200, b"<html>", "did not answer"),
        (200, {"protection_rules": "none"}, "did not answer"),
    ],
)
def test_unreadable_answer_does_not_pass(github: GitHub, status: int, body: Any, says: str) -> None:
    github.instead = (status, body)
    assert says in refused("staging")


@pytest.mark.parametrize("name", ["GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN"])
def test_missing_variables_of_a_workflow_are_named(github: GitHub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    assert refused("staging").startswith(f"{name} not set")
    assert github.requests == []


def test_branches_other_than_the_named_one_are_refused(github: GitHub) -> None:
    assert "admits main, release/*" in refused("staging", "--branch", "main")
    del github.policies["staging"]["branch_policies"][0]
    assert approval("staging", "--branch", "main").output == "staging: only main\n"
    github.environments["staging"]["deployment_branch_policy"] = None
    assert "admits every branch" in refused("staging", "--branch", "main")
    github.environments["staging"]["deployment_branch_policy"] = {
        "protected_branches": True,
        "custom_branch_policies": False,
    }
    assert approval("staging", "--branch", "main").exit_code == 0
