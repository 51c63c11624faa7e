"""Cost of a preview: `python benchmarks/preview.py [--stack prod-westeurope] [--runs 3]`.

Measures CPU seconds and peak memory of the whole program with its release, in a separate process under Pulumi's mocks.
Then the elapsed seconds of a preview without changes, of the infrastructure without a release, through the real engine
on a sandbox. Prints a Markdown table of medians. The sandbox answers immediately; Azure takes longer.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from cli import pulumi_cli
from cli.local_run import sandbox
from cli.local_run.engine import Engine
from cli.paths import PROJECT
from cli.stacks import files

CPU_SECONDS, MEGABYTES = 5.0, 300
"""Bars of the program alone."""
# The process reports its own peak: the system's figure for a child starts with the memory of its parent.
_PROGRAM = """
import json, resource, sys, time
from pathlib import Path
from cli.changes import mock_program
resources = len(mock_program.declared(Path(sys.argv[1])).resources)
try:
    kilobytes = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
except OSError:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps([resources, time.process_time(), kilobytes * 1024 / 1e6]))
"""


@dataclass(frozen=True)
class Cost:
    resources: int
    cpu_seconds: float
    megabytes: float
    """Peak of the resident set."""


def of_program(stack_file: Path) -> Cost:
    """Run the whole program for a `Pulumi.<stack>.yaml` in a new process, including its imports."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(stack_file)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the program of {stack_file.name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return Cost(*json.loads(done.stdout))


@contextmanager
def deployed(stack_file: Path) -> Iterator[list[str]]:
    """Deploy the stack without its release on a separate sandbox; yields the arguments that select it."""
    stack = files.stack_of(stack_file)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(Engine(folder, sandbox.start(folder / "sandbox", None)).environment)
        try:
            config = yaml.safe_load(stack_file.read_text())["config"] | {"release:enabled": "false"}
            configured = folder / stack_file.name
            configured.write_text(yaml.safe_dump({"config": config}))
            # `stack init` writes to the stack file next to the project file, so the project file is copied here.
            (folder / "Pulumi.yaml").write_bytes((PROJECT / "Pulumi.yaml").read_bytes())
            pulumi(folder, "stack", "init", stack)
            selection = ["--stack", stack, "--config-file", str(configured)]
            pulumi(PROJECT, "up", "--yes", "--skip-preview", *selection)
            yield selection
        finally:
            sandbox.stop(folder / "sandbox")


def pulumi(folder: Path, *arguments: str) -> None:
    done = pulumi_cli.run(folder, *arguments)
    if done.returncode:
        raise RuntimeError(f"pulumi {' '.join(arguments)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", default="prod-westeurope")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    stack_file = files.file_of(PROJECT, arguments.stack)

    costs = [of_program(stack_file) for _ in range(arguments.runs)]
    seconds = []
    with deployed(stack_file) as selection:
        for _ in range(arguments.runs):
            started = time.monotonic()
            pulumi(PROJECT, "preview", "--expect-no-changes", *selection)
            seconds.append(time.monotonic() - started)

    print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}\n")
    print(f"| {arguments.stack}, median of {arguments.runs} | measured | bar |\n| --- | --- | --- |")
    cpu = statistics.median(cost.cpu_seconds for cost in costs)
    memory = statistics.median(cost.megabytes for cost in costs)
    print(f"| program under mocks, {costs[0].resources} resources: CPU | {cpu:.1f} s | {CPU_SECONDS:.0f} s |")
    print(f"| program under mocks: peak memory | {memory:.0f} MB | {MEGABYTES} MB |")
    print(f"| `pulumi preview` without a change, on the sandbox | {statistics.median(seconds):.1f} s | |")


if __name__ == "__main__":
    main()
