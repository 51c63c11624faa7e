"""The steps of a bootstrap, one line each, and the file that activates the environment.

A build of the Pulumi CLI takes longest, so it runs in the background while the rest is installed.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools import java, package_sets, python_environment
from tools.commands import Outcome, Unavailable, one_at_a_time, writable_folder
from tools.java import Java
from tools.pulumi_engine import pulumi_cli
from tools.pulumi_engine.pulumi_cli import PulumiCli

ROOT = Path(__file__).resolve().parent.parent
_NEWS_SECONDS = 60


def bootstrap(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bootstrap.py", description=__doc__)
    parser.add_argument(
        "--for",
        dest="use",
        choices=package_sets.SETS,
        default="test",
        help="prepare for `pulumi preview` and `up`, for the local run too, or for the tests too (default)",
    )
    use = parser.parse_args(arguments).use
    # A termination must end the started processes, as an interrupt does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with one_at_a_time(ROOT):
            _bootstrap(ROOT, os.environ, use)
    except Unavailable as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command continues from here", file=sys.stderr)
        return 130
    return 0


def cache_folder(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "personalization-azure"


def _bootstrap(root: Path, environment: Mapping[str, str], use: str = "test") -> None:
    cache, venv = cache_folder(environment), root / ".venv"

    step = _Step("Python")
    step.done(python_environment.create(root))
    use = python_environment.chosen(root, use)

    asked_for_cli = time.monotonic()
    cli = pulumi_cli.find(environment, cache)
    making = None if cli else _start_making_cli(cache, venv)
    try:
        step = _Step("packages")
        step.done(python_environment.install(root, use))

        runtime = None
        if use != "preview":
            step = _Step("Java")
            runtime = java.find(environment, cache) or java.install(cache, venv)
            step.done(Outcome(runtime.detail, runtime.changed))

        made = _wait_for_cli(making) if making else ""
    finally:
        if making and making.poll() is None:
            making.terminate()
            making.wait()

    step = _Step("Pulumi CLI", asked_for_cli if making else None)
    cli = cli or pulumi_cli.find(environment, cache)
    assert cli is not None
    changed = cli.is_ours and pulumi_cli.refresh_stand_ins(cli.folder)
    step.done(Outcome(made or cli.origin, changed or bool(making)))

    step = _Step("settings")
    step.done(_write_settings(venv, cli, runtime))


class _Step:
    """Times a step and prints its line; on a terminal also its name while it runs."""

    def __init__(self, name: str, started: float | None = None) -> None:
        self._name = name
        self._started = started or time.monotonic()
        if sys.stdout.isatty():
            print(f"{name:<11} ...", end="\r", flush=True)

    def done(self, outcome: Outcome) -> None:
        took = f"{time.monotonic() - self._started:.1f} s" if outcome.changed else "already there"
        print(f"{self._name:<11} {outcome.detail}: {took}", flush=True)


def _start_making_cli(cache: Path, venv: Path) -> "subprocess.Popen[str]":
    writable_folder(cache)
    print("Pulumi CLI  not here: the official release, else a build of about 4 minutes, in the background", flush=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tools.pulumi_engine.pulumi_cli", cache, venv],
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _wait_for_cli(making: "subprocess.Popen[str]") -> str:
    waiting = 0
    while True:
        try:
            origin, errors = making.communicate(timeout=_NEWS_SECONDS)
        except subprocess.TimeoutExpired:
            waiting += _NEWS_SECONDS
            print(f"Pulumi CLI  still being made, everything else is installed ({waiting} s)", flush=True)
            continue
        if making.returncode != 0:
            raise Unavailable(errors.strip())
        return origin.strip()


def _write_settings(venv: Path, cli: PulumiCli, runtime: Java | None) -> Outcome:
    """Write `.venv/personalization.sh`, which prepares a shell, or a recipe of the Makefile, for every command."""
    file = venv / "personalization.sh"
    path = shlex.quote(f"{cli.folder}:") if cli.is_ours else ""
    lines = [
        "# Written by tools/steps.py, for every POSIX shell: . .venv/personalization.sh",
        f"export VIRTUAL_ENV={shlex.quote(str(venv))}",
        f'export PATH="$VIRTUAL_ENV/bin:"{path}"$PATH"',
        "export PULUMI_SKIP_UPDATE_CHECK=true",
        "unset PYTHONHOME",
    ]
    if runtime:
        lines.append(f"export JAVA_HOME={shlex.quote(str(runtime.home))}")
    if runtime and runtime.options:
        # Sourcing it twice must not add it twice, and the user's own trust store takes precedence.
        lines += [
            'case "${JAVA_TOOL_OPTIONS:-}" in',
            "*javax.net.ssl.trustStore*) ;;",
            f'*) export JAVA_TOOL_OPTIONS="${{JAVA_TOOL_OPTIONS:-}} "{shlex.quote(runtime.options)} ;;',
            "esac",
        ]
    content = "\n".join(lines) + "\n"
    changed = not file.exists() or file.read_text() != content
    if changed:
        fresh = file.with_suffix(".new")
        fresh.write_text(content)
        os.replace(fresh, file)
    return Outcome(f". {os.path.relpath(file)}", changed)
