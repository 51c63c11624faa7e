"""How good the training pipeline is on rows of one's own: prepared, and judged on folds, by the job's own tasks.

Needs no stack and leaves nothing behind; makes no model that could serve.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from operations import spark
from operations.errors import UserError
from workloads import crossvalidate
from workloads.errors import WorkloadError


def evaluate(dataset: str, data: Path, folds: str, output: Path | None) -> None:
    """Prints a line for each fold, and the mean. Raises `UserError` with the reason of the task that failed."""
    try:
        crossvalidate.parse_folds(folds)
    except WorkloadError as error:
        raise UserError(str(error)) from None
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        raw = data
        if data.is_file():
            raw = scratch / "raw"
            raw.mkdir()
            (raw / data.name).symlink_to(data.absolute())
        features = scratch / "features"
        environment = spark.environment(spark.settings(scratch))
        _task("prepare", ["--raw", raw], dataset, features, environment, scratch)
        wanted: list[str | Path] = ["--folds", folds]
        if output:
            wanted += ["--output", output.absolute()]
        _task("crossvalidate", wanted, dataset, features, environment, scratch)


def _task(
    name: str, more: list[str | Path], dataset: str, features: Path, environment: Mapping[str, str], scratch: Path
) -> None:
    log = scratch / f"{name}.log"
    command = [sys.executable, "-m", f"workloads.{name}", "--dataset", dataset, "--features", features, *more]
    with log.open("wb") as errors:
        done = subprocess.run(command, env=environment, stderr=errors, check=False)
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()
        reasons = [place for place, line in enumerate(lines) if line.startswith("error: ")]
        told = lines[reasons[-1] :] if reasons else lines[-30:]
        raise UserError("\n".join(told).removeprefix("error: "))
