"""Every command of docs/operations.md, in its order, in a copy of the project, against a sandbox.

The shipped development stack is created, gets a live model, is resized, retrained, rolled back and destroyed, only with
the settings that the page names. The image of the second model cannot rank, which golden rows do not detect; the page's
commands restore the first image. A private production stack gets its infrastructure and a runner.
`az storage blob upload-batch` and `az rest` are stand-ins here (`testing/stack/az_stand_in.py`);
tests/conformance/test_azure_cli.py runs the real Azure CLI where it is installed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli import paths
from cli.endpoint import Endpoint
from cli.local_run import movielens
from testing.certificates import pem
from testing.sandbox.process import in_environment
from testing.stack.infra_stack import ROOT, InfraStacks, infra_stacks
from testing.stack.work_tree import copy_work_tree

pytestmark = pytest.mark.stack
PRINCIPAL = "22222222-2222-2222-2222-222222222222"
"""Object id on the page. The test replaces it with the login's, which preflight prints."""
DIGEST = f"sha256:{'1' * 64}"
"""Digest on the page. The test replaces it with the earlier live image's, which lineage prints."""
RETRAINED = "personalization select-snapshot --stack dev --landed"
LINEAGE = "personalization lineage --outputs outputs.json"
UP = "make up STACK=dev ARGS=--yes"
UP_PRODUCTION = "make up STACK=prod-eastus2 ARGS=--yes"


def commands() -> list[str]:
    lines = (ROOT / "docs" / "operations.md").read_text().splitlines()
    return [line.strip() for line in lines if line.startswith("    ")]


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfraStacks]:
    with infra_stacks(tmp_path_factory.mktemp("operations")) as stacks:
        yield stacks


@pytest.fixture(scope="module")
def clone(stacks: InfraStacks) -> Path:
    """A copy of the project: the commands write stack files and compare with the last commit."""
    return copy_work_tree(stacks.folder / "clone")


@pytest.fixture(scope="module")
def environment(stacks: InfraStacks, clone: Path) -> dict[str, str]:
    """A prepared environment: nothing is installed or downloaded, and the copy's packages come first."""
    programs = stacks.folder / "programs"
    programs.mkdir()
    az = programs / "az"
    az.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "testing" / "stack" / "az_stand_in.py"} "$@"\n')
    az.chmod(0o755)
    shutil.copytree(movielens.fetch(paths.folder() / "movielens", print), clone / "first-rows")
    for name, text in zip(("scores.pem", "scores.key"), pem("scores.example.com"), strict=True):
        (clone / name).write_text(text)
    (clone / "github-app.pem").write_text("a key of a GitHub App\n")
    (clone / "operator.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI someone\n")
    return {
        **stacks.environment,
        "MAKEFLAGS": "PYTHON=true",
        "PYTHONPATH": str(clone),
        "PATH": f"{programs}{os.pathsep}{stacks.environment['PATH']}",
    }


def test_every_command_of_the_page_works(clone: Path, environment: dict[str, str]) -> None:
    on_page, printed, principal, digest, ranked, certified = commands(), {}, PRINCIPAL, DIGEST, [], False
    assert len(on_page) > 30
    for command in on_page:
        if command == RETRAINED:
            _break_ranking(clone)
        done = subprocess.run(
            ["bash", "-c", command.replace(PRINCIPAL, principal).replace(DIGEST, digest)],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed.setdefault(command, []).append(done.stdout)
        if named := re.search(r"'access:deployers\.([0-9a-f-]{36})' ServicePrincipal", done.stdout):
            principal = named[1]
        if command == UP_PRODUCTION:
            states = [path.read_text() for path in _state(environment).rglob("*.json")]
            certified = certified or any('"serving:tls_key"' in text for text in states)
            assert not any("PRIVATE KEY" in text for text in states)
        if command == LINEAGE:
            digest = re.findall(r"release:image (sha256:[0-9a-f]{64})", done.stdout)[-1]
        if command == LINEAGE or (command == UP and LINEAGE in printed):
            ranked.append(_ranks(clone, environment))
    assert principal != PRINCIPAL
    assert (clone / "Pulumi.prod-eastus2.yaml").exists()
    first, resized, retrained, rolled_back, mended, *_ = printed[UP][1:]
    assert re.search(r"model_version *: \"1\"", first), first[-3000:]
    assert "~ replicas" in resized or "updated" in resized
    assert re.search(r"model_version *: \"1\" => \"2\"", retrained), retrained[-3000:]
    assert re.search(r"deployment *: \"m2-\w+\" => \"m1-\w+\"", rolled_back), rolled_back[-3000:]
    assert re.search(r"deployment *: \"m1-\w+\" => \"m1-\w+\"", mended), mended[-3000:]
    assert re.search(rf"image_digest *: \"sha256:\w+\" => \"{digest}\"", mended), mended[-3000:]
    assert ranked == [500, 500, 200]
    assert certified


def _state(environment: dict[str, str]) -> Path:
    return Path(urlsplit(environment["PULUMI_BACKEND_URL"]).path)


def _break_ranking(clone: Path) -> None:
    server = clone / "scoring" / "server.py"
    text, line = server.read_text(), "        best = sorted("
    assert line in text
    server.write_text(text.replace(line, f'        raise RuntimeError("broken")\n{line}'))


def _ranks(clone: Path, environment: dict[str, str]) -> int:
    """Request a ranking and return the status."""
    with in_environment(environment):
        endpoint = Endpoint.of(json.loads((clone / "outputs.json").read_text()))
        return endpoint.client.post(endpoint.uri, json={"user": {"age": 30}, "items": [{"id": "1"}]}).status_code
