"""Every command of docs/operations.md, in its order, in a copy of the project, against a sandbox."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from infra_stack import ROOT, InfraStacks, infra_stacks

pytestmark = pytest.mark.stack


def commands() -> list[str]:
    lines = (ROOT / "docs" / "operations.md").read_text().splitlines()
    return [line.strip() for line in lines if line.startswith("    ")]


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfraStacks]:
    with infra_stacks(tmp_path_factory.mktemp("operations")) as stacks:
        yield stacks


@pytest.fixture(scope="module")
def clone(stacks: InfraStacks) -> Path:
    """The work tree as a repository of its own: the commands write stack files and compare with what is committed."""
    folder = stacks.folder / "clone"
    folder.mkdir()
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as it is"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def test_every_command_of_the_page_works(stacks: InfraStacks, clone: Path) -> None:
    found = commands()
    assert len(found) > 15
    # The environment is prepared, so nothing is to be installed; the copy's own packages come first.
    environment = {**stacks.environment, "MAKEFLAGS": "PYTHON=true", "PYTHONPATH": str(clone)}
    for command in found:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert (clone / "Pulumi.prod-eastus2.yaml").exists()
