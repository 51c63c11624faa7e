"""The workload's tasks on rows of one's own, with Spark on this machine: how good a dataset's pipeline is, and with
which parameters it is better.

Needs no stack and leaves nothing behind but what was asked for; makes no model that could serve.
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
from workloads.errors import WorkloadError
from workloads.tasks import command, crossvalidate
from workloads.tasks.prepare import PREPARED, REJECTED

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
        """Its output is shown. Raises `UserError` with the reason of the task that failed."""
        log = self.scratch / f"{task}.log"
        own: list[str | Path] = ["--dataset", self.dataset, "--features", self.features]
        program = [sys.executable, "-m", f"workloads.{task}", *own, *arguments]
        with log.open("wb") as errors:
            done = subprocess.run(program, env=self.environment, stderr=errors, check=False, pass_fds=(self.lock,))
        if done.returncode:
            lines = log.read_text(errors="replace").splitlines()
            reasons = [place for place, line in enumerate(lines) if line.startswith("error: ")]
            told = lines[reasons[-1] :] if reasons else _without_java_frames(lines)[-30:]
            raise UserError("\n".join(told).removeprefix("error: "))


def _without_java_frames(lines: list[str]) -> list[str]:
    """Return the other lines: they name the causes, each with dozens of frames below it."""
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
    """A temporary folder, and the lock that says it is in use, which tasks inherit.

    Folders of killed runs are removed first: they hold several hundred MB of rows and of Spark's temporary files.
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
class Checked:
    """What prepare made of a snapshot."""

    rows: int
    clicks: int
    orphans: int
    tables: Mapping[str, Mapping[str, Any]]
    """File, rows, rejected lines and unused columns of `interactions`, `users` and `items`."""
    reasons: Mapping[str, int]
    """Why lines were left out, of the first thousand of each file."""


def check(dataset: str, data: Path) -> Checked:
    """Join and type the rows as the task prepare does. Raises `UserError` with the reason of a refusal."""
    with _prepared(dataset, data) as prepared:
        found = json.loads((prepared.features / PREPARED).read_text("utf-8"))
        rejected = prepared.features / REJECTED / "lines.jsonl"
        lines = rejected.read_text("utf-8").splitlines() if rejected.exists() else []
        reasons = Counter(f"{line['file']}: {line['reason']}" for line in map(json.loads, lines))
        return Checked(found["rows"], found["clicks"], found["orphans"], found["tables"], reasons)


def evaluate(dataset: str, data: Path, folds: str, output: Path | None) -> None:
    """Prints a line for each fold, and the mean."""
    with _as_user_error():
        crossvalidate.parse_folds(folds)
        if output:
            command.writable(output)
    with _prepared(dataset, data) as prepared:
        prepared.run("crossvalidate", "--folds", folds, *(("--output", output.absolute()) if output else ()))


def tune(dataset: str, data: Path, trials: int, rows: int, specs: Path, experiment: str = "") -> list[Path]:
    """Prints a line for each trial. Returns the files that it wrote in `specs`: the spec and the evidence.

    `experiment`: of MLflow, on the server that MLflow's own environment names.
    """
    with _as_user_error():
        command.writable(specs / f"{dataset}.yaml")
    with _prepared(dataset, data) as prepared:
        found = prepared.scratch / "found"
        counts = ["--trials", str(trials), "--rows", str(rows)]
        prepared.run("tune", "--output", found, *counts, *(["--experiment", experiment] if experiment else []))
        return [Path(shutil.copy(path, specs)) for path in sorted(found.iterdir())]
