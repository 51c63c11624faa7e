"""What each use of the project installs: `python benchmarks/environments.py [--use preview] [--use local]`.

Prepares a copy of the work tree for each use as the Makefile does, in an empty folder, and prints a Markdown table:
packages, those that are not dependencies of the four SDKs, and the size of `.venv` in the units of a disk (GB of 10^9
bytes). Packages come from the installer's cache where it has them, so the seconds are not those of a fresh machine.
Measures no run: the first training leaves a file of 200 MB with Spark's classes in `.venv`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).parents[1]
USES = ("preview", "local", "test")
SDKS = ("pulumi", "pulumi-azure-native", "azure-ai-ml", "databricks-sdk")
MORE_PACKAGES_MAX = 60
"""Bar of `preview`: packages that are not dependencies of the four SDKs."""
BARS = {"preview": f"0.7 GB, {MORE_PACKAGES_MAX} more packages", "local": "1.8 GB", "test": ""}
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".local*", "__pycache__", ".*_cache", ".hypothesis")
_TOOLS = {"pip", "uv", "personalization-azure"}
_COUNT = "import json; from benchmarks import environments; print(json.dumps(environments.count_packages()))"


def with_dependencies(requirements: Iterable[str]) -> set[str]:
    """Return the names of installed packages that the requirements need, from the packages' own metadata."""
    # The script itself may run in a Python without packages.
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    needed: set[tuple[str, str]] = set()
    pending = [Requirement(requirement) for requirement in requirements]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in needed:
                needed.add((name, extra))
                found = map(Requirement, metadata.requires(name) or [])
                pending += [each for each in found if not each.marker or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in needed}


def count_packages() -> tuple[int, int]:
    """Return the numbers of packages of the running environment, and of those that the SDKs do not need."""
    from packaging.utils import canonicalize_name

    installed = {canonicalize_name(each.metadata["Name"]) for each in metadata.distributions()} - _TOOLS
    return len(installed), len(installed - with_dependencies(SDKS))


def size(folder: Path) -> int:
    """Return the bytes on disk of a folder, a file with several links once."""
    files = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        files[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(files.values())


def measure(use: str) -> str:
    """Prepare a copy for one use and return its row of the table."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "project"
        shutil.copytree(PROJECT, copy, ignore=_NOT_COPIED)
        started = time.monotonic()
        subprocess.run([sys.executable, copy / "tools" / "bootstrap.py", "--for", use], check=True, stdout=sys.stderr)
        seconds = time.monotonic() - started
        python = copy / ".venv/bin/python"
        answer = subprocess.run([python, "-c", _COUNT], cwd=copy, check=True, capture_output=True, text=True)
        packages, more = json.loads(answer.stdout)
        return f"| {use} | {packages} | {more} | {size(copy / '.venv') / 1e9:.2f} GB | {BARS[use]} | {seconds:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--use", action="append", choices=USES, help="measure this use only; all if none is named")
    uses = parser.parse_args().use or USES
    rows = [measure(use) for use in uses]
    print("| for | packages | more than the SDKs need | size of .venv | bar | seconds |")
    print("| --- | ---: | ---: | ---: | --- | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
