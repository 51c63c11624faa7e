"""`personalization approval` reads GitHub's protection of an environment back, and never passes without an answer.

GitHub is a stand-in here: a small HTTP server that gives the example bodies of GitHub's REST reference
(docs.github.com/rest/deployments/environments, /branch-policies), with the changes that a test names.
"""

import json
import threading
from collections.abc import Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from operations.cli import app
from operations.errors import UserError

REPOSITORY = "octo-org/personalization"
ENVIRONMENT: dict[str, Any] = {
    "id": 161088068,
    "node_id": "MDExOkVudmlyb25tZW50MTYxMDg4MDY4",
    "name": "staging",
    "url": "https://api.github.com/repos/github/hello-world/environments/staging",
    "html_url": "https://github.com/github/hello-world/deployments/activity_log?environments_filter=staging",
    "created_at": "2020-11-23T22:00:40Z",
    "updated_at": "2020-11-23T22:00:40Z",
    "protection_rules": [
        {"id": 3736, "node_id": "MDQ6R2F0ZTM3MzY=", "type": "wait_timer", "wait_timer": 30},
        {
            "id": 3755,
            "node_id": "MDQ6R2F0ZTM3NTU=",
            "prevent_self_review": False,
            "type": "required_reviewers",
            "reviewers": [
                {"type": "User", "reviewer": {"login": "octocat", "id": 1, "type": "User", "site_admin": False}},
                {"type": "Team", "reviewer": {"id": 1, "name": "Justice League", "slug": "justice-league"}},
            ],
        },
        {"id": 3756, "node_id": "MDQ6R2F0ZTM3NTY=", "type": "branch_policy"},
    ],
    "deployment_branch_policy": {"protected_branches": False, "custom_branch_policies": True},
}
POLICIES = {
    "total_count": 2,
    "branch_policies": [
        {"id": 361471, "node_id": "MDE2OkdhdGVCcmFuY2hQb2xpY3kzNjE0NzE=", "name": "release/*"},
        {"id": 361472, "node_id": "MDE2OkdhdGVCcmFuY2hQb2xpY3kzNjE0NzI=", "name": "main"},
    ],
}


class GitHub:
    """Answers of the stand-in by path, and the requests that it got."""

    def __init__(self) -> None:
        at = f"/repos/{REPOSITORY}/environments"
        self.answers: dict[str, tuple[int, Any]] = {
            f"{at}/staging": (200, deepcopy(ENVIRONMENT)),
            f"{at}/staging/deployment-branch-policies": (200, deepcopy(POLICIES)),
        }
        self.requests: list[tuple[str, str]] = []

    @property
    def environment(self) -> Any:
        return self.answers[f"/repos/{REPOSITORY}/environments/staging"][1]

    @property
    def policies(self) -> Any:
        return self.answers[f"/repos/{REPOSITORY}/environments/staging/deployment-branch-policies"][1]

    def answer_all(self, status: int, body: Any) -> None:
        self.answers = dict.fromkeys(self.answers, (status, body))


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    stand_in = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stand_in.requests.append((self.path, self.headers["Authorization"]))
            status, body = stand_in.answers.get(self.path, (404, {"message": "Not Found"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
    monkeypatch.setenv("GITHUB_TOKEN", "ghs_token")
    yield stand_in
    server.shutdown()
    server.server_close()


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
        "staging: one of octocat, team Justice League approves; who started the run may approve it\n"
    )
    assert github.requests == [(f"/repos/{REPOSITORY}/environments/staging", "Bearer ghs_token")]
    github.environment["protection_rules"][1]["prevent_self_review"] = True
    assert "who started" not in approval("staging").output


@pytest.mark.parametrize("left", ["no rules", "other rules", "no reviewers"])
def test_an_environment_that_nobody_has_to_approve_is_refused(github: GitHub, left: str) -> None:
    rules = github.environment["protection_rules"]
    if left == "no rules":  # as GitHub creates an environment that a workflow names
        github.environment["protection_rules"] = []
    elif left == "other rules":
        del rules[1]
    else:
        rules[1]["reviewers"] = []
    says = refused("staging")
    assert "requires no reviewer" in says
    assert "Settings, Environments, staging" in says


def test_an_environment_that_is_not_there_is_refused(github: GitHub) -> None:
    assert "has no environment prod/eu, or the token may not read it" in refused("prod/eu")
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
def test_an_answer_that_cannot_be_read_is_no_pass(github: GitHub, status: int, body: Any, says: str) -> None:
    github.answer_all(status, body)
    assert says in refused("staging")


@pytest.mark.parametrize("name", ["GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN"])
def test_outside_a_workflow_it_says_what_is_missing(github: GitHub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    assert refused("staging").startswith(f"{name} not set")
    assert github.requests == []


def test_branches_other_than_the_named_one_are_refused(github: GitHub) -> None:
    assert "admits main, release/*" in refused("staging", "--branch", "main")
    del github.policies["branch_policies"][0]
    assert approval("staging", "--branch", "main").output == "staging: main alone\n"
    github.environment["deployment_branch_policy"] = None
    assert "admits every branch" in refused("staging", "--branch", "main")
    github.environment["deployment_branch_policy"] = {"protected_branches": True, "custom_branch_policies": False}
    assert approval("staging", "--branch", "main").exit_code == 0
