"""The project's one virtual environment: locked packages, bytecode compiled, the project itself editable.

An install that was cut off is started afresh: a package that is half there looks installed to every installer. The
wheels are in the user's cache by then, so that costs seconds.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from tools.commands import Argument, Outcome, run
from tools.package_index import requirements_file, uv
from tools.pins import pin


def create(root: Path) -> Outcome:
    """`.venv` with the pinned installer."""
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
    """What `requirements.lock` says, then the project."""
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
    """Digest of everything that decides what is installed; the path counts, an environment cannot be moved."""
    parts = [str(root).encode(), *((root / name).read_bytes() for name in ("requirements.lock", "pyproject.toml"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _make(venv: Path) -> None:
    run(
        [sys.executable, "-m", "venv", "--clear", venv],
        f"could not make {venv}: the folder must be writable and Python needs its venv module "
        "(Debian and Ubuntu: apt-get install python3.11-venv).",
    )


def _answers(venv: Path, program: str) -> str:
    """The version a program of the environment says it has; nothing if it, or the Python under it, is gone."""
    try:
        answer = subprocess.run([venv / "bin" / program, "--version"], capture_output=True, text=True)
    except OSError:
        return ""
    return answer.stdout if answer.returncode == 0 else ""
