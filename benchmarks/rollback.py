"""Duration of a rollback: `python benchmarks/rollback.py [--times 3]`.

Releases two models on a stack in the sandbox. Then sets `release:model` to each in turn and measures the time from the
start of `up` to the end of its rollout, and to its own end (notebooks). Prints a Markdown table.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import yaml

from cli.local_run import command, sandbox
from cli.local_run.engine import Engine
from cli.local_run.run_directory import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as name:
        state = RunDirectory(Path(name))
        try:
            versions = [
                command.up(state, dataset, None, "native", None, print).outputs["model_version"]
                for dataset in ("movielens", "criteo")
            ]
            engine = Engine(state.folder, sandbox.start(state.sandbox, None))
            seconds, rollout = _flips(engine, versions, times)
            print("\n| median of | seconds to the end of the rollout | to the end of `up` |\n| --- | --- | --- |")
            print(f"| {2 * times} switches to the warm version | {rollout:.1f} | {seconds:.1f} |", flush=True)
        finally:
            command.down(state, print)


def _flips(engine: Engine, versions: list[str], times: int) -> tuple[float, float]:
    """Median seconds of `up` and of its rollout over `times` switches in each direction."""
    whole, rollout = [], []
    for number in range(2 * times):
        config = yaml.safe_load(engine.config_file.read_text())
        config["config"]["release:model"] = versions[number % 2]
        engine.config_file.write_text(yaml.safe_dump(config))
        began = time.monotonic()
        stages = engine.up(lambda _: None)
        whole.append(time.monotonic() - began)
        rollout += [stage.ended - began for stage in stages if stage.title == "rollout" and stage.ended]
    return statistics.median(whole), statistics.median(rollout)


if __name__ == "__main__":
    main()
