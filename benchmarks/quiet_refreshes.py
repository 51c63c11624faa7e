"""False findings of infrastructure drift: `python benchmarks/quiet_refreshes.py [--times 50]`.

Deploys the local stack with its release and repeats `pulumi preview --refresh --expect-no-changes`, which drift.yml
runs every working day, with a request to the endpoint before each. Prints a Markdown table. Makes no manual changes:
tests/end_to_end/test_lifecycle.py does.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from cli import pulumi_cli
from cli.changes.preview import STREAMING, Change, read
from cli.endpoint import Endpoint
from cli.local_run import command, sandbox
from cli.local_run.engine import STACK, Engine
from cli.local_run.run_directory import RunDirectory
from cli.paths import PROJECT


def drift(engine: Engine) -> tuple[Change, ...]:
    """Changes that the preview reports. Raises `RuntimeError` if its exit code contradicts them, as when it fails."""
    done = pulumi_cli.run(
        PROJECT,
        *("preview", "--refresh", "--expect-no-changes", "--json"),
        *("--stack", STACK, "--config-file", str(engine.config_file)),
        environment={**engine.environment, **STREAMING},
        timeout=900,
    )
    changes = read(done.stdout, STACK).changes
    if bool(done.returncode) != bool(changes):
        raise RuntimeError(f"the preview ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    times = parser.parse_args().times
    findings, seconds = [], []
    with tempfile.TemporaryDirectory() as name:
        state = RunDirectory(Path(name))
        try:
            outputs = command.up(state, "movielens", None, "native", None, print).outputs
            engine = Engine(state.folder, sandbox.start(state.sandbox, None))
            row = command.golden(outputs)[0]["row"]
            for number in range(1, times + 1):
                Endpoint.of(outputs).post({"rows": [row]})
                began = time.monotonic()
                changes = drift(engine)
                seconds.append(time.monotonic() - began)
                findings += changes
                print(f"{number}: {seconds[-1]:.1f} s, {len(changes)} changes {changes or ''}", flush=True)
            resources = len(engine.text("stack", "--show-urns", "--stack", STACK).split("URN:")) - 1
        finally:
            command.down(state, print)
    print("\n| | measured | bar |\n| --- | --- | --- |")
    print(f"| findings in {times} refreshes of {resources} resources | {len(findings)} | 0 |")
    print(f"| median seconds of one | {statistics.median(seconds):.1f} | |")


if __name__ == "__main__":
    main()
