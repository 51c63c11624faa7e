"""Checks the protection of a GitHub environment: its required reviewers, and the branches that may deploy.

If a workflow names an environment that does not exist, GitHub creates it without protection. So a workflow that relies
on an approval checks the protection first. Changes nothing on GitHub, and does not find out who approved a run.
Source: github/rest-api-description descriptions/api.github.com/api.github.com.json (`repos/get-environment`);
github/docs content/actions/how-tos/deploy/configure-and-manage-deployments/manage-environments.md
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import requests
from pydantic import BaseModel, ValidationError

from cli.errors import UserError

Answer = TypeVar("Answer", bound=BaseModel)
_SECONDS = 30


class _Reviewer(BaseModel):
    login: str = ""
    """Name of a user."""
    name: str = ""
    """Name of a team."""


class _Review(BaseModel):
    type: str
    """`User` or `Team`."""
    reviewer: _Reviewer


class _Rule(BaseModel):
    type: str
    """`required_reviewers`, `wait_timer` or `branch_policy`."""
    reviewers: Sequence[_Review] = ()
    prevent_self_review: bool = False


class _BranchPolicy(BaseModel):
    protected_branches: bool
    custom_branch_policies: bool


class _Environment(BaseModel):
    protection_rules: Sequence[_Rule] = ()
    deployment_branch_policy: _BranchPolicy | None = None


class _Pattern(BaseModel):
    name: str


class _Patterns(BaseModel):
    branch_policies: Sequence[_Pattern]


@dataclass(frozen=True)
class Repository:
    """A repository of GitHub, with a token that may read its Actions (`permissions: actions: read`)."""

    url: str
    name: str
    """`<owner>/<repository>`"""
    token: str

    @classmethod
    def of_this_workflow(cls) -> "Repository":
        """Return the workflow's repository. Raises `UserError` outside a workflow, or if the step passes no token."""
        values = {name: os.environ.get(name, "") for name in ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN")}
        if missing := [name for name, value in values.items() if not value]:
            raise UserError(
                f"{', '.join(missing)} not set. GitHub sets the first two in a workflow; pass the token to the step: "
                "env: GITHUB_TOKEN: ${{ github.token }}"
            )
        return cls(*values.values())

    def get(self, kind: type[Answer], path: str) -> Answer | None:
        """Return the object; None if it does not exist or the token cannot read it."""
        headers = {"Accept": "application/vnd.github+json", "Authorization": f"Bearer {self.token}"}
        url = f"{self.url}/repos/{self.name}/{path}"
        try:
            answer = requests.get(url, headers=headers, timeout=_SECONDS)
            if answer.status_code == 404:
                return None
            if answer.status_code in (401, 403):
                raise UserError(
                    f"GitHub refused {path} with {answer.status_code}: {answer.text[:200]}. "
                    "The job needs `permissions: actions: read`."
                )
            answer.raise_for_status()
            return kind.model_validate(answer.json())
        except (requests.RequestException, ValidationError, ValueError) as error:
            raise UserError(f"GitHub did not answer {url} as documented: {str(error).splitlines()[0]}") from None


def require_reviewers(repository: Repository, environment: str) -> str:
    """Return a line that names the reviewers. Raises `UserError` if deployments need no approval."""
    rules = _environment(repository, environment).protection_rules
    reviews = [(rule, review) for rule in rules if rule.type == "required_reviewers" for review in rule.reviewers]
    if not reviews:
        raise UserError(
            f"environment {environment} of {repository.name} has no required reviewer, so a plan would be applied "
            "without an approval. Set required reviewers: Settings, Environments, "
            f"{environment}. On a private repository this needs GitHub Enterprise."
        )
    names = [review.reviewer.login or f"team {review.reviewer.name}" for _, review in reviews]
    may_self_approve = not any(rule.prevent_self_review for rule, _ in reviews)
    note = "; the user who started the run may approve it" if may_self_approve else ""
    return f"{environment}: one of {', '.join(names)} must approve{note}"


def require_branch(repository: Repository, environment: str, branch: str) -> str:
    """Return a line that names the branches that may deploy. Raises `UserError` if other branches than `branch` may.

    An environment for protected branches admits each branch that has a protection rule.
    """
    policy = _environment(repository, environment).deployment_branch_policy
    remedy = f"Settings, Environments, {environment}, Deployment branches and tags: add only {branch}."
    if policy is None:
        raise UserError(
            f"environment {environment} of {repository.name} admits every branch, so everyone who can push can use "
            f"the identity that deploys. {remedy}"
        )
    if policy.protected_branches:
        return f"{environment}: branches with a protection rule"
    path = f"environments/{quote(environment, safe='')}/deployment-branch-policies"
    patterns = repository.get(_Patterns, path)
    names = sorted(pattern.name for pattern in patterns.branch_policies) if patterns else []
    if names != [branch]:
        raise UserError(f"environment {environment} admits {', '.join(names) or 'no branch'}. {remedy}")
    return f"{environment}: only {branch}"


def _environment(repository: Repository, name: str) -> _Environment:
    environment = repository.get(_Environment, f"environments/{quote(name, safe='')}")
    if environment is None:
        raise UserError(f"{repository.name} has no environment {name}, or the token cannot read it")
    return environment
