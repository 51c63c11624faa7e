"""The packages of each use of the project: `preview`, `local` and `test`, each with the one before it.

pyproject.toml names what each set needs directly. requirements.lock names for each package the others that require it
("via"). So a set is a part of the one lock, with its versions and hashes: nothing is resolved again, and no second file
can differ. If a package were missing in a part, the installation would fail, because uv installs none without a hash.
Reads these two files only; `python_environment.py` installs.
"""

import re
import tomllib
from pathlib import Path

SETS = {"preview": (), "local": ("local",), "test": ("local", "test")}
"""Groups of optional dependencies of each set, from the smallest set to the largest."""

_PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==[^\n]*(?:\n    [^\n]*)*", re.MULTILINE)
_VIA = re.compile(r"^    #(?: via)? +([a-z0-9-]+)", re.MULTILINE)


def larger(first: str, second: str) -> str:
    """Return the set that contains the other one."""
    return max(first, second, key=list(SETS).index)


def locked(root: Path) -> dict[str, str]:
    """Return each package of requirements.lock with its lines: version, hashes, and the packages that require it."""
    return {pin["name"]: pin[0] for pin in _PIN.finditer((root / "requirements.lock").read_text())}


def packages(root: Path, name: str) -> dict[str, str]:
    """Return the part of requirements.lock that a set needs, in the lock's order.

    A package that pyproject.toml requires and the lock does not have is left out: `make lock`, which adds it, runs in
    the environment of `preview` itself.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"]]
    for group in SETS[name]:
        required += project["optional-dependencies"][group]
    lock = locked(root)
    requires: dict[str, list[str]] = {}
    for package, lines in lock.items():
        for parent in _VIA.findall(lines):
            requires.setdefault(parent, []).append(package)
    needed: set[str] = set()
    pending = [_normalized(requirement) for requirement in required]
    while pending:
        package = pending.pop()
        if package not in needed:
            needed.add(package)
            pending += requires.get(package, [])
    return {package: lines for package, lines in lock.items() if package in needed}


def _normalized(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()
