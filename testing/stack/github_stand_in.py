"""A small HTTP server that replaces GitHub's API and answers with the example bodies of GitHub's REST reference.

Source: docs.github.com/rest/deployments/environments, docs.github.com/rest/deployments/branch-policies
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

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
    """State of the server: its environments, its answers, and the requests it has received."""

    def __init__(self, names: Sequence[str]) -> None:
        self.environments = {name: deepcopy(ENVIRONMENT) for name in names}
        self.policies = {name: deepcopy(POLICIES) for name in names}
        self.instead: tuple[int, Any] | None = None
        """Status and body of every answer, if set."""
        self.requests: list[tuple[str, str]] = []
        """Path and Authorization header of each request."""

    def answer(self, path: str) -> tuple[int, Any]:
        if self.instead:
            return self.instead
        for name in self.environments:
            base = f"/repos/{REPOSITORY}/environments/{name}"
            bodies = {base: self.environments[name], f"{base}/deployment-branch-policies": self.policies[name]}
            if path in bodies:
                return 200, bodies[path]
        return 404, {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"}


@contextmanager
def github_stand_in(*names: str) -> Iterator[tuple[GitHub, dict[str, str]]]:
    """Start the server; yields its state and the environment variables by which a workflow's step reaches it."""
    state = GitHub(names)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers["Authorization"]))
            status, body = state.answer(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state, {"GITHUB_API_URL": url, "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_TOKEN": "ghs_token"}
    finally:
        server.shutdown()
        server.server_close()
