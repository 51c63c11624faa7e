"""A container engine for builds and tests: `python -m tools.container_engine start|stop FOLDER`, or `run COMMAND…`.

A running engine is used unchanged. Without one, Debian's dockerd is started with its own socket and data root below
FOLDER, without a bridge and without changing the firewall; `stop` ends it by its process id. If the base image cannot
be pulled, one is made with debootstrap. If the machine trusts additional authorities, builds get a base that trusts
them.

FOLDER/engine.json has the engine's address and the build arguments that the machine needs. `start` prints its path.
`run` sets CONTAINER_ENGINE to it, or prints the reason without an engine, and runs the command in both cases.
"""

import argparse
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tools.commands import Unavailable, making_in, one_at_a_time, run, writable_folder
from tools.steps import cache_folder
from tools.trust_store import certificates

_BASE = "debian:bookworm-slim"
_STAND_IN, _TRUSTING = "personalization-stand-in:bookworm", "personalization-build:bookworm"
_INSTALL = "Install one: Debian and Ubuntu have docker.io, and debootstrap for machines that reach no image registry."
_START_SECONDS, _STOP_SECONDS, _PULL_SECONDS = 60, 30, 120
_STAND_IN_DAYS = 7
_LONGEST_FOLDER = 60
"""Characters: a socket's path has at most 107, and the engine's are below the folder."""
# The official slim image leaves these out, too.
_LEFT_OUT = (
    *("dev/*", "var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*.log"),
    *(f"usr/share/{name}/*" for name in ("doc", "groff", "info", "lintian", "locale", "man")),
)
_TRUSTING_RECIPE = """FROM {base}
COPY *.crt /usr/local/share/ca-certificates/
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
"""


def start(folder: Path) -> Path:
    """Start the engine, prepare its base images, and return the path of `engine.json`.

    Raises `Unavailable`, after removing everything that it created. An earlier engine of this folder that has ended, as
    after a restart of the machine, is started again with its images.
    """
    folder = folder.absolute()
    record = folder / "engine.json"
    try:
        earlier = json.loads(record.read_text()) if record.exists() else None
    except ValueError:  # truncated: start again from the beginning
        stop(folder)
        earlier = None
    if earlier and _answers(earlier["address"]):
        return record
    if not shutil.which("docker"):
        raise Unavailable(f"there is no `docker` command. {_INSTALL}")
    writable_folder(folder)
    state: dict[str, object] = {"process": None, "arguments": earlier["arguments"] if earlier else {}}
    try:
        if _answers(None):
            context = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
            address = os.environ.get("DOCKER_HOST") or run(context, "no container engine").strip()
        else:
            address = f"unix://{folder}/docker.sock"
            state["process"] = _start_engine(folder, address)
        state["address"] = address
        _write(record, state)
        if not earlier:
            engine = {**os.environ, "DOCKER_HOST": address}
            state["arguments"] = arguments = _bases(engine, folder)
            _write(record, state)
            probe = ["docker", "run", "--rm", "--network", "host", arguments.get("BASE", _BASE), "true"]
            run(probe, "the container engine answers, but runs no container here", env=engine)
    except BaseException:
        if not earlier:
            stop(folder)
        raise
    return record


def _write(record: Path, state: dict[str, object]) -> None:
    """Replace the record in one step."""
    partial = record.with_name(f"{record.name}.partial")
    partial.write_text(json.dumps(state))
    partial.replace(record)


def stop(folder: Path) -> None:
    """End the engine that was started here and remove its data; of another engine, remove only our base images."""
    folder = folder.absolute()
    with suppress(FileNotFoundError):
        try:
            state = json.loads((folder / "engine.json").read_text())
        except ValueError:  # truncated; dockerd itself writes a file with its process id
            state = {"process": int((folder / "docker.pid").read_text())}
        if state["process"] is None:
            removal = ["docker", "--host", state["address"], "image", "rm", *state["arguments"].values()]
            subprocess.run(removal, capture_output=True)
        else:
            _end(state["process"], folder)
    shutil.rmtree(folder, ignore_errors=True)


def _start_engine(folder: Path, address: str) -> int:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("dockerd"):
        raise Unavailable(f"none answers, and none can be started here without root and dockerd. {_INSTALL}")
    if len(str(folder)) > _LONGEST_FOLDER:
        raise Unavailable(f"{folder} is too long a path for the engine's sockets: {_LONGEST_FOLDER} characters at most")
    options: dict[str, str | Path] = {
        "host": address,
        "data-root": folder / "data",
        "exec-root": folder / "exec",
        "pidfile": folder / "docker.pid",
        # Separate namespaces, in case the machine's containerd is running.
        "containerd-namespace": f"personalization-{os.getpid()}",
        "containerd-plugins-namespace": f"personalization-plugins-{os.getpid()}",
        "bridge": "none",
        "iptables": "false",
        "ip-masq": "false",
    }
    log = folder / "engine.log"
    with log.open("wb") as output:
        command = ["dockerd", *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    until = time.monotonic() + _START_SECONDS
    while not _answers(address):
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            process.wait()
            last = "\n  ".join(log.read_text(errors="replace").splitlines()[-5:])
            raise Unavailable(f"the container engine did not start:\n  {last}")
        time.sleep(0.1)
    return process.pid


def _end(process: int, folder: Path) -> None:
    """End the engine's process, unless its id now belongs to another program."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if _is_ours(process, folder):
            os.kill(process, sent)  # only once: at a third signal the engine would leave its containers running
        until = time.monotonic() + _STOP_SECONDS
        while _is_ours(process, folder) and time.monotonic() < until:
            with suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
            time.sleep(0.1)
    for mount in Path("/proc/mounts").read_text().splitlines():
        # The engine leaves one mount, and a killed one leaves all.
        if (place := mount.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], capture_output=True)


def _is_ours(process: int, folder: Path) -> bool:
    try:
        return str(folder).encode() in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _answers(address: str | None) -> bool:
    where = ["--host", address] if address else []
    asked = ["docker", *where, "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(asked, capture_output=True).returncode == 0


def _bases(engine: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Values of the Dockerfile's BASE and BUILD_BASE, if its defaults do not work on this machine."""
    arguments: dict[str, str] = {}
    if not _has_base(engine):
        stand_in = _stand_in(cache_folder(os.environ))
        run(["docker", "import", str(stand_in), _STAND_IN], "the base image cannot be imported", env=engine)
        arguments["BASE"] = _STAND_IN
    if authorities := _own_authorities():
        with tempfile.TemporaryDirectory(dir=folder) as context:
            for number, certificate in enumerate(authorities):
                Path(context, f"machine-{number}.crt").write_bytes(certificate)
            recipe = _TRUSTING_RECIPE.format(base=arguments.get("BASE", _BASE))
            Path(context, "Dockerfile").write_text(recipe)
            network = ["--network", "host"]
            command = ["docker", "build", *network, "--tag", _TRUSTING, context]
            run(command, "no base that trusts this machine's authorities", env=engine)
        arguments["BUILD_BASE"] = _TRUSTING
    return arguments


def _has_base(engine: Mapping[str, str]) -> bool:
    if subprocess.run(["docker", "image", "inspect", _BASE], env=engine, capture_output=True).returncode == 0:
        return True
    with suppress(subprocess.TimeoutExpired):
        pull = subprocess.run(["docker", "pull", _BASE], env=engine, capture_output=True, timeout=_PULL_SECONDS)
        return pull.returncode == 0
    return False


def _stand_in(cache: Path) -> Path:
    """A tar file of Debian's smallest system, at most a week old."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise Unavailable(f"{_BASE} cannot be pulled, and without root and debootstrap none can be made. {_INSTALL}")
    made = writable_folder(cache / "base") / "bookworm.tar"
    with one_at_a_time(made.parent):
        if not made.exists() or time.time() - made.stat().st_mtime > _STAND_IN_DAYS * 86400:
            with making_in(made.parent) as making:
                command = ["debootstrap", "--variant=minbase", "bookworm", str(making / "root")]
                run(command, f"{_BASE} cannot be pulled, and no stand-in can be made of Debian's packages")
                left_out = [f"--exclude=./{pattern}" for pattern in _LEFT_OUT]
                packed = ["tar", "-C", str(making / "root"), *left_out, "-cf", str(making / "base.tar"), "."]
                run(packed, "the base image cannot be packed")
                (making / "base.tar").rename(made)
    return made


def _own_authorities() -> list[bytes]:
    """PEM blocks of all authorities of this machine, if it has additional ones."""
    has_additional = os.environ.get("SSL_CERT_FILE") or any(Path("/usr/local/share/ca-certificates").rglob("*.crt"))
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    bundle = bundle or "/etc/ssl/certs/ca-certificates.crt"
    if not has_additional or not os.path.isfile(bundle):
        return []
    return certificates(Path(bundle).read_bytes())


def _run(command: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True) as place:
        environment = dict(os.environ)
        try:
            environment["CONTAINER_ENGINE"] = str(start(Path(place, "e")))
        except Unavailable as reason:
            print(f"no container engine: {reason}", file=sys.stderr)
        try:
            return subprocess.run(command, env=environment).returncode
        finally:
            stop(Path(place, "e"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.container_engine", description=__doc__)
    parser.add_argument("action", choices=["start", "stop", "run"])
    parser.add_argument("operands", nargs=argparse.REMAINDER, help="FOLDER, or the command to run")
    arguments = parser.parse_args()
    # A termination must end the started processes, as an interrupt does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        match arguments.action:
            case "run":
                return _run(arguments.operands)
            case "start":
                print(start(Path(arguments.operands[0])))
            case "stop":
                stop(Path(arguments.operands[0]))
    except Unavailable as missing:
        print(f"error: no container engine: {missing}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
