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
from pathlib import Path

PROJECT = Path(__file__).parents[1]
USES = ("preview", "local", "test")
BARS = {"preview": "0.7 GB, 60 more packages", "local": "1.8 GB", "test": ""}
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".local*", "__pycache__", ".*_cache", ".hypothesis")
_PACKAGES = """
import json
from importlib import metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

needed, pending = set(), ["pulumi", "pulumi-azure-native", "azure-ai-ml", "databricks-sdk"]
while pending:
    requirement = Requirement(pending.pop())
    for extra in ("", *requirement.extras):
        if (canonical(requirement.name), extra) not in needed:
            needed.add((canonical(requirement.name), extra))
            found = map(Requirement, metadata.requires(requirement.name) or [])
            pending += [str(each) for each in found if not each.marker or each.marker.evaluate({"extra": extra})]
sdks = {name for name, _ in needed}
tools = {"pip", "uv", "personalization-azure"}
installed = {canonical(each.metadata["Name"]) for each in metadata.distributions()} - tools
print(json.dumps([len(installed), len(installed - sdks)]))
"""


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
        answer = subprocess.run(
            [copy / ".venv/bin/python", "-c", _PACKAGES], check=True, capture_output=True, text=True
        )
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
