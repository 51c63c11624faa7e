"""Seconds of `make local` by stage, for a new stack with all tools cached: `python benchmarks/local_run.py [--runs N]`.

Each run has a separate state folder and is destroyed afterwards. Prints medians and a description of the machine.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from cli.local_run.command import LocalRunSummary, down, up
from cli.local_run.run_directory import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dataset", default="movielens")
    parser.add_argument("--engine", default="native")
    arguments = parser.parse_args()

    reports: list[tuple[float, LocalRunSummary]] = []
    for number in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            state = RunDirectory(Path(folder))
            started = time.monotonic()
            report = up(state, arguments.dataset, None, arguments.engine, None, lambda _line: None)
            reports.append((time.monotonic() - started, report))
            down(state, lambda _line: None)
        print(f"run {number + 1}: {reports[-1][0]:.1f} s", flush=True)

    print(f"\n{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
    print(f"whole run: median {statistics.median(seconds for seconds, _ in reports):.1f} s")
    for title in dict(reports[0][1].stages):
        print(f"  {title}: {statistics.median(dict(report.stages)[title] for _, report in reports):.1f} s")
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        values = [report.latencies[int(len(report.latencies) * share)] for _, report in reports]
        print(f"  one row over HTTP, {name}: {statistics.median(values):.2f} ms")


if __name__ == "__main__":
    main()
