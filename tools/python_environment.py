"""The project's one virtual environment: locked packages, bytecode compiled, the project itself editable.

It holds one of the sets of `package_sets.py` and only grows: after `make test`, `make preview` finds all it needs.

An interrupted installation starts again from the beginning, because every installer takes an incomplete package for
installed. The wheels are in the user's cache by then, so that takes seconds.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tools import package_sets
from tools.commands import Argument, Outcome, run
from tools.package_index import requirements_file, uv
from tools.pins import pin

_IMPORT = re.compile(r"^from pulumi_azure_native import (.+)$", re.MULTILINE)


def create(root: Path) -> Outcome:
    """Create `.venv` with the pinned installer."""
    venv = root / ".venv"
    wanted = pin("uv")
    detail = f".venv with uv {wanted.version}"
    if (venv / "unfinished").exists() or not _answers(venv, "python").startswith("Python 3.11."):
        _make(venv)
    elif _answers(venv, "uv").split()[:2] == ["uv", wanted.version]:
        return Outcome(detail, changed=False)
    elif not _answers(venv, "pip"):
        _make(venv)
    with requirements_file(wanted) as requirements:
        run(
            [venv / "bin" / "pip", "install", "--force-reinstall", "--require-hashes", "-r", requirements],
            f"could not install uv {wanted.version} from the Python package index (pip config list shows which).",
        )
    return Outcome(detail, changed=True)


def chosen(root: Path, wanted: str) -> str:
    """Return the set to install: `wanted`, or the larger one that is installed already."""
    stamp = root / ".venv" / "installed"
    installed = stamp.read_text().partition(" ")[0] if stamp.exists() else wanted
    return package_sets.larger(wanted, installed) if installed in package_sets.SETS else wanted


def install(root: Path, name: str) -> Outcome:
    """Install the part of `requirements.lock` that set `name` needs, then the project."""
    venv = root / ".venv"
    stamp, unfinished = venv / "installed", venv / "unfinished"
    packages, state = package_sets.packages(root, name), f"{name} {_digest(root)}"
    detail = f"{len(packages)} packages of requirements.lock, for {name}"
    if stamp.exists() and stamp.read_text() == state:
        return Outcome(detail, changed=False)
    into: list[Argument] = ["pip", "install", "--python", venv]
    unfinished.touch()
    stamp.unlink(missing_ok=True)
    requirements = venv / "requirements.txt"
    requirements.write_text("\n".join(packages.values()) + "\n")
    uv(
        venv,
        [*into, "--require-hashes", "-r", requirements],
        "could not install requirements.lock from the Python package index.",
    )
    _compile(root)
    uv(venv, [*into, "--no-deps", "--no-build-isolation", "-e", root], "could not install the project itself.")
    stamp.write_text(state)
    unfinished.unlink()
    return Outcome(detail, changed=True)


def _compile(root: Path) -> None:
    """Compile what processes that start together would otherwise each compile.

    Of the azure-native SDK only the modules that the program imports, 17 of 260: the bytecode of all of them takes
    195 MB. uv's own option cannot leave any out.
    """
    packages = root / ".venv" / "lib" / "python3.11" / "site-packages"
    sdk = packages / "pulumi_azure_native"
    sources = "".join(path.read_text() for name in ("infra", "policy") for path in (root / name).rglob("*.py"))
    imported = [sdk / name for line in _IMPORT.findall(sources) for name in re.findall(r"(?:^|, )(\w+)", line)]
    for arguments in (["-x", f"/{sdk.name}/", packages], ["-l", sdk, *imported]):
        command: list[Argument] = [root / ".venv" / "bin" / "python", "-m", "compileall", "-qq", "-j", "0", *arguments]
        # It ends with 1 after a file in the syntax of another Python, which some packages have among their tests.
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _digest(root: Path) -> str:
    """Digest of all inputs of the installation, also the path, because an environment cannot be moved."""
    parts = [str(root).encode(), *((root / name).read_bytes() for name in ("requirements.lock", "pyproject.toml"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _make(venv: Path) -> None:
    run(
        [sys.executable, "-m", "venv", "--clear", venv],
        f"could not make {venv}: the folder must be writable and Python needs its venv module "
        "(Debian and Ubuntu: apt-get install python3.11-venv).",
    )


def _answers(venv: Path, program: str) -> str:
    """Output of `--version` of a program of the environment; empty if it or its Python is missing."""
    try:
        answer = subprocess.run([venv / "bin" / program, "--version"], capture_output=True, text=True)
    except OSError:
        return ""
    return answer.stdout if answer.returncode == 0 else ""
