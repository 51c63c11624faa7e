"""What a preview costs: `python benchmarks/preview.py [--stack prod-westeurope] [--runs 3]`.

Measures the program alone, whole and with its release, in a process of its own under Pulumi's mocks: CPU seconds and
peak memory. Then a preview that finds no change, through the real engine on a sandbox, of the infrastructure without a
release: seconds on the clock. Prints a Markdown table of medians. The sandbox answers at once; Azure does not.
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
# The process tells its own peak: what the system counts for a child begins with the memory of its parent.
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
    """Run the whole program for a `Pulumi.<stack>.yaml` in a new process, imports and all."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(stack_file)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the program of {stack_file.name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return Cost(*json.loads(done.stdout))


@contextmanager
def standing(stack_file: Path) -> Iterator[list[str]]:
    """The stack on a sandbox of its own, without its release; yields the arguments that name it."""
    stack = files.stack_of(stack_file)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ.update(Engine(folder, sandbox.start(folder / "sandbox", None)).environment)
        try:
            config = yaml.safe_load(stack_file.read_text())["config"] | {"release:enabled": "false"}
            configured = folder / stack_file.name
            configured.write_text(yaml.safe_dump({"config": config}))
            # `stack init` writes into the stack file beside the project file: that of the repository stays as it is.
            (folder / "Pulumi.yaml").write_bytes((PROJECT / "Pulumi.yaml").read_bytes())
            pulumi(folder, "stack", "init", stack)
            named = ["--stack", stack, "--config-file", str(configured)]
            pulumi(PROJECT, "up", "--yes", "--skip-preview", *named)
            yield named
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
    with standing(stack_file) as named:
        for _ in range(arguments.runs):
            started = time.monotonic()
            pulumi(PROJECT, "preview", "--expect-no-changes", *named)
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
