"""The Pulumi CLI: the one on PATH, else our cache, else the official release, else built from its Go module.

`find` is quick and changes nothing. Run as a program it fills the cache:

    python -m tools.pulumi_engine.pulumi_cli CACHE VENV

The bootstrap starts that in the background, because a build takes minutes. A built CLI gets our stand-in for the
Python language host, because the official host is not a Go module that can be fetched.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.commands import Unavailable, making_in, one_at_a_time, writable_folder
from tools.pins import pin, version_numbers
from tools.pulumi_engine import pulumi_build, pulumi_release

STAND_INS = {
    "pulumi-language-python": Path(__file__).with_name("pulumi_language_python.py"),
    "pulumi-resource-pulumi-python": Path(__file__).with_name("pulumi_dynamic_provider.py"),
}
"""Scripts of this project, by the name that the engine looks for."""


@dataclass(frozen=True)
class PulumiCli:
    folder: Path
    origin: str
    is_ours: bool
    """Whether it is in our cache."""


def find(environment: Mapping[str, str], cache: Path) -> PulumiCli | None:
    """A CLI of the pinned version or newer that has a Python language host."""
    path = environment.get("PATH", os.defpath)
    wanted = pin("pulumi").version
    folder = cache / "pulumi" / wanted / "bin"
    on_path = shutil.which("pulumi", path=path)
    if on_path and Path(on_path).parent != folder and shutil.which("pulumi-language-python", path=path):
        version = _version_of(on_path)
        if version and version_numbers(version) >= version_numbers(wanted):
            return PulumiCli(Path(on_path).parent, f"{version}, on PATH", is_ours=False)
    if all((folder / name).is_file() for name in ("pulumi", "pulumi-language-python-exec")):
        return PulumiCli(folder, f"{wanted}, in {folder}", is_ours=True)
    return None


def refresh_stand_ins(folder: Path) -> bool:
    """Replace older stand-ins of a built CLI by this project's. Returns whether anything changed."""
    if _is_official(folder):
        return False
    changed = False
    for name, source in STAND_INS.items():
        target = folder / name
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        fresh = target.with_suffix(".new")
        shutil.copyfile(source, fresh)
        fresh.chmod(0o755)
        os.replace(fresh, target)
        changed = True
    return changed


def install(cache: Path, venv: Path, releases: str = pulumi_release.RELEASES) -> str:
    """Fill the cache in one step; returns the origin of the CLI."""
    version = pin("pulumi").version
    folder = writable_folder(cache / "pulumi")
    with one_at_a_time(folder):
        if find({"PATH": ""}, cache):
            return "made by another bootstrap meanwhile"
        with making_in(folder) as making:
            binaries = making / "cli" / "bin"
            binaries.mkdir(parents=True)
            if pulumi_release.download(version, binaries, releases):
                origin = f"{version}, the official release"
            else:
                pulumi_build.build(version, binaries, making, venv)
                refresh_stand_ins(binaries)
                origin = f"{version}, built from its Go module"
            made = _version_of(binaries / "pulumi")
            if made != version:
                raise Unavailable(f"the Pulumi CLI made for this machine reports version {made}, not {version}")
            shutil.rmtree(folder / version, ignore_errors=True)
            os.replace(binaries.parent, folder / version)
    return origin


def _is_official(folder: Path) -> bool:
    """Whether the folder has the official language host, a binary program; ours is a script."""
    try:
        with (folder / "pulumi-language-python").open("rb") as content:
            return content.read(2) != b"#!"
    except FileNotFoundError:
        return False


def _version_of(pulumi: str | Path) -> str | None:
    try:
        answer = subprocess.run(
            [pulumi, "version"],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"v?(\d+\.\d+\.\d+)", answer.stdout.strip())
    return found[1] if found else None


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def main() -> int:
    # An interrupt at the terminal also reaches the bootstrap, which then terminates this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    parent = os.getppid()

    def end_with_the_bootstrap() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_the_bootstrap, daemon=True).start()
    try:
        print(install(Path(sys.argv[1]), Path(sys.argv[2])))
    except Unavailable as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
