"""The project's one virtual environment: locked packages, bytecode compiled, the project itself editable.

An interrupted installation starts again from the beginning, because every installer takes an incomplete package for
installed. The wheels are in the user's cache by then, so that takes seconds.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from tools.commands import Argument, Outcome, run
from tools.package_index import requirements_file, uv
from tools.pins import pin


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


def install(root: Path) -> Outcome:
    """Install the packages of `requirements.lock`, then the project."""
    venv, lock = root / ".venv", root / "requirements.lock"
    stamp, unfinished = venv / "installed", venv / "unfinished"
    state = _state(root)
    count = sum("==" in line for line in lock.read_text().splitlines() if not line.startswith(("#", " ")))
    detail = f"{count} packages of requirements.lock"
    if stamp.exists() and stamp.read_text() == state:
        return Outcome(detail, changed=False)
    into: list[Argument] = ["pip", "install", "--python", venv]
    unfinished.touch()
    stamp.unlink(missing_ok=True)
    uv(
        venv,
        [*into, "--require-hashes", "--compile-bytecode", "-r", lock],
        "could not install requirements.lock from the Python package index.",
    )
    uv(venv, [*into, "--no-deps", "--no-build-isolation", "-e", root], "could not install the project itself.")
    stamp.write_text(state)
    unfinished.unlink()
    return Outcome(detail, changed=True)


def _state(root: Path) -> str:
    """Digest of all inputs of the installation, with the path, because an environment cannot be moved."""
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
