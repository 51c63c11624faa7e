"""Fixtures of the tests that share one deployed local stack: the state from which a test starts.

A stack takes minutes to deploy, so all tests of a file share one, and they run in the order of the file. No test needs
the result of another one. Each asks for its initial state by a fixture, which restores it if an earlier test left or
failed in another state, so a single test may be run alone; it then pays for the deployment.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.changes.preview import STREAMING
from cli.local_run.engine import Engine
from testing.stack import lifecycle
from testing.stack.github_stand_in import GitHub, github_stand_in
from testing.stack.lifecycle import SecondModel
from testing.stack.local_run import LocalRun
from testing.stack.work_tree import copy_work_tree
from testing.stack.workflow_jobs import WorkflowJobs


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """The stack of this file, in the state in which the previous test left it."""
    run = LocalRun(tmp_path_factory.mktemp("stack"))
    try:
        run.up()
        yield run
    finally:
        run.down()
    assert run.processes() == []


@pytest.fixture
def stack(deployed: LocalRun) -> LocalRun:
    """The stack in the state after `make local` without options; restored if an earlier test changed it."""
    if not deployed.plain:
        deployed.up()
    return deployed


@pytest.fixture
def settled(deployed: LocalRun) -> LocalRun:
    """The stack with all its settings applied, also if an earlier test failed between a change and its `up`."""
    if deployed.pending:
        deployed.pulumi("up")
    return deployed


@pytest.fixture(scope="module")
def replacement(deployed: LocalRun) -> SecondModel:
    return lifecycle.second_model(deployed)


@pytest.fixture
def criteo(deployed: LocalRun, replacement: SecondModel) -> SecondModel:
    """The Criteo model is live; deployed again if an earlier test failed while another one was live."""
    if not deployed.is_live(replacement.versions[1]):
        deployed.up("--dataset", "criteo")
    return replacement


@pytest.fixture
def workflows(stack: LocalRun, tmp_path: Path) -> Iterator[tuple[WorkflowJobs, GitHub]]:
    """The workflows, for this stack, in a copy of the project; the retraining environment admits only `main`."""
    clone = copy_work_tree(tmp_path / "clone")
    engine = Engine(stack.state, stack.environment)
    with github_stand_in("local", "local-retrain") as (github, environment):
        github.environments["local-retrain"]["protection_rules"] = []
        github.policies["local-retrain"]["branch_policies"] = [{"name": "main"}]
        streaming = {"STACK": "local", "DAY": "", "PYTHONPATH": str(clone), **STREAMING}
        yield WorkflowJobs(clone, {**engine.environment, **environment, **streaming}), github
