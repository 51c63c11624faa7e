"""Runs the workload's tasks on the user's rows with local Spark: `check`, `cross-validate` and `tune`.

Needs no stack. Leaves only the requested output files, and does not create an artefact that could be deployed.
"""

import fcntl
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import local_spark
from cli.errors import UserError
from workloads.data.rejected_lines import REJECTED
from workloads.errors import WorkloadError
from workloads.tasks import command, crossvalidate
from workloads.tasks.prepare import PREPARED

_SCRATCH, _LOCK = "personalization-spark-", "lock"


@dataclass(frozen=True)
class _Prepared:
    dataset: str
    scratch: Path
    environment: Mapping[str, str]
    lock: int

    @property
    def features(self) -> Path:
        return self.scratch / "features"

    def run(self, task: str, *arguments: str | Path) -> None:
        """Run a task with its output shown. Raises `UserError` with the task's error message if it fails."""
        log = self.scratch / f"{task}.log"
        own: list[str | Path] = ["--dataset", self.dataset, "--features", self.features]
        program = [sys.executable, "-m", f"workloads.tasks.{task}", *own, *arguments]
        with log.open("wb") as errors:
            done = subprocess.run(program, env=self.environment, stderr=errors, check=False, pass_fds=(self.lock,))
        if done.returncode:
            lines = log.read_text(errors="replace").splitlines()
            errors_at = [number for number, line in enumerate(lines) if line.startswith("error: ")]
            message = lines[errors_at[-1] :] if errors_at else _without_java_frames(lines)[-30:]
            raise UserError("\n".join(message).removeprefix("error: "))


def _without_java_frames(lines: list[str]) -> list[str]:
    """Remove the frames: dozens of them follow each line that names a cause."""
    return [line for line in lines if not re.match(r"\s+(at |\.\.\. \d+ more)", line)]


@contextmanager
def _as_user_error() -> Iterator[None]:
    try:
        yield
    except WorkloadError as error:
        raise UserError(str(error)) from None


@contextmanager
def _prepared(dataset: str, data: Path) -> Iterator[_Prepared]:
    with _scratch() as (scratch, lock):
        local_spark.require_no_pattern(scratch, "Name another folder for temporary files with TMPDIR=<folder>.")
        raw = data
        if data.is_file():
            raw = scratch / "raw"
            raw.mkdir()
            (raw / data.name).symlink_to(data.absolute())
        prepared = _Prepared(dataset, scratch, local_spark.environment(local_spark.settings(scratch)), lock)
        prepared.run("prepare", "--raw", raw)
        yield prepared


@contextmanager
def _scratch() -> Iterator[tuple[Path, int]]:
    """Yield a temporary folder, and the file descriptor of its lock, which the tasks inherit.

    Removes folders of killed runs first: they contain several hundred MB of rows and of Spark's temporary files.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(OSError), (left / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as name, Path(name, "unlocked").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(name, "unlocked").rename(Path(name, _LOCK))
        yield Path(name), lock.fileno()


@dataclass(frozen=True)
class CheckResult:
    """Result of the task prepare on the user's rows."""

    rows: int
    clicks: int
    orphans: int
    """Rows that name a user or an item that is missing from its table."""
    tables: Mapping[str, Mapping[str, Any]]
    """File, rows, rejected lines and unused columns of `interactions`, `users` and `items`."""
    reasons: Mapping[str, int]
    """Reasons for omitted lines with their counts, from the first thousand omitted lines of each file."""


def check(dataset: str, data: Path) -> CheckResult:
    """Join and convert the rows as training does. Raises `UserError` if training would refuse them."""
    with _prepared(dataset, data) as prepared:
        counts = json.loads((prepared.features / PREPARED).read_text("utf-8"))
        rejected = prepared.features / REJECTED / "lines.jsonl"
        lines = rejected.read_text("utf-8").splitlines() if rejected.exists() else []
        reasons = Counter(f"{line['file']}: {line['reason']}" for line in map(json.loads, lines))
        return CheckResult(counts["rows"], counts["clicks"], counts["orphans"], counts["tables"], reasons)


def cross_validate(dataset: str, data: Path, folds: str, output: Path | None) -> None:
    """Cross-validate the pipeline, and print a line for each fold and for the mean.

    folds: `<repeats>x<folds>`. output: JSON file for the metrics.
    """
    with _as_user_error():
        crossvalidate.parse_folds(folds)
        if output:
            command.writable(output)
    with _prepared(dataset, data) as prepared:
        prepared.run("crossvalidate", "--folds", folds, *(("--output", output.absolute()) if output else ()))


def tune(dataset: str, data: Path, trials: int, rows: int, specs: Path, experiment: str = "") -> list[Path]:
    """Tune LightGBM's parameters, and print a line for each trial. Returns the written files: spec and trials.

    trials: number of fits. rows: training rows of a fit. specs: folder of the written files. experiment: MLflow
    experiment on the server of MLFLOW_TRACKING_URI.
    """
    with _as_user_error():
        command.writable(specs / f"{dataset}.yaml")
    with _prepared(dataset, data) as prepared:
        results = prepared.scratch / "results"
        counts = ["--trials", str(trials), "--rows", str(rows)]
        prepared.run("tune", "--output", results, *counts, *(["--experiment", experiment] if experiment else []))
        return [Path(shutil.copy(path, specs)) for path in sorted(results.iterdir())]
