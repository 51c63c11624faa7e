"""Support for the tests of one local stack in `tests/end_to_end`: requests, figures and files of a deployed local run.

Does not deploy or change a stack: `local_run.LocalRun` does. Changes as people make them: `manual_changes`.
"""

import io
import random
import shlex
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib.image
import yaml

from cli.endpoint import Endpoint
from cli.local_run import command
from testing.sandbox.process import in_environment
from testing.stack.local_run import ROOT, LocalRun
from workloads.tracking import metric_name


@dataclass(frozen=True)
class FirstDeployment:
    """State of a stack directly after its first complete `make local`."""

    printed: str
    """Output of the command."""
    jobs_runs_versions: tuple[int, int, int]
    left_processes: list[str]
    """Processes of the engine or the command that still run."""


@dataclass(frozen=True)
class SecondModel:
    """A stack on which a model of Criteo's shape replaced the one of MovieLens."""

    before: dict[str, Any]
    """Outputs while the MovieLens model was live."""
    after: dict[str, Any]
    """Outputs since the Criteo model is live."""
    printed: str
    """Output of the command that replaced the model."""
    touched: set[str]
    """URNs of the resources that the replacement changed."""

    @property
    def versions(self) -> tuple[str, str]:
        return self.before["model_version"], self.after["model_version"]


def first_deployment(run: LocalRun) -> FirstDeployment:
    """Run `make local` to its end and record the state right after it."""
    printed = run.up()
    left = [line for line in run.processes() if "-m cli" in line or "pulumi" in line]
    return FirstDeployment(printed, run.jobs_runs_versions(), left)


def second_model(run: LocalRun) -> SecondModel:
    """Replace the live MovieLens model with a Criteo model, and record the state before and after."""
    if not run.plain:
        run.up()
    before = run.outputs
    printed = run.up("--dataset", "criteo")
    return SecondModel(before, run.outputs, printed, run.touched())


def score(run: LocalRun, *rows: dict[str, Any]) -> Any:
    """The endpoint's answer to `rows`, or to three golden rows of the live model."""
    with in_environment(run.environment):
        outputs = run.outputs
        return Endpoint.of(outputs).post({"rows": rows or [line["row"] for line in command.golden(outputs)[:3]]})


def live_version(run: LocalRun, row: dict[str, Any]) -> str:
    """Version of the model that answers `row`."""
    return str(score(run, row)["model"]).rpartition(":")[2]


def secrets(run: LocalRun) -> set[str]:
    with in_environment(run.environment):
        key = Endpoint.of(run.outputs).client.headers["authorization"].removeprefix("Bearer ")
    return {key, run.environment["ARM_CLIENT_SECRET"]}


def trust(run: LocalRun) -> ssl.SSLContext:
    """TLS context that trusts the sandbox's certificate authority."""
    return ssl.create_default_context(cafile=run.environment["SSL_CERT_FILE"])


def verdicts(run: LocalRun) -> list[str]:
    """Texts of the verdicts that the gate stored in the lake, one for each run that it evaluated."""
    return [file.read_text() for file in (run.state / "sandbox" / "accounts").glob("*/models/*/verdict.json")]


def noisy(rows: list[str]) -> list[str]:
    """MovieLens rows of which 70 % of the ratings in the earlier four fifths by time are exchanged among each other."""
    rows = sorted(rows, key=lambda row: float(row.split("\t")[3]))
    early = rows[: len(rows) * 4 // 5]
    cells = [row.split("\t") for row in early]
    drawn = random.Random(1).sample(range(len(cells)), len(cells) * 7 // 10)
    ratings = [cells[place][2] for place in drawn]
    for place, rating in zip(drawn, [*ratings[1:], ratings[0]], strict=True):
        cells[place][2] = rating
    return ["\t".join(cell) for cell in cells] + rows[len(early) :]


def target_of_daily_run() -> str:
    """Value of `--target` in `.github/workflows/retrain.yml`, for the stack `local`."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "retrain.yml").read_text())
    script = workflow["jobs"]["retrain"]["steps"][-1]["run"].splitlines()[-1]
    words = shlex.split(script.replace("$STACK", "local"))
    return words[words.index("--target") + 1]


def coloured_share(png: bytes) -> float:
    """Share of the pixels of a picture that are neither black, white nor grey; empty axes have none."""
    colours = matplotlib.image.imread(io.BytesIO(png), "png")[..., :3]
    return float((colours.max(axis=-1) - colours.min(axis=-1) > 0.2).mean())


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value with its MLflow metric name, which is made of the keys that lead to it."""
    parts = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, part in parts:
        yield from numbers(part, f"{name}/{metric_name(str(key))}".lstrip("/"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def last_events(run: LocalRun) -> str:
    """The event log of the last `LocalRun.pulumi("up")`, as text."""
    return (run.state / "test-up-events.json").read_text()
