"""`make local` and `make local-down`: creates the whole system on this machine, and removes it.

Prepares rows, a sandbox and a stack file; the real Pulumi engine then runs the real program. A deployment to Azure uses
nothing of this module.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli import local_spark, paths, ranking
from cli.endpoint import Endpoint
from cli.errors import UserError
from cli.local_run import movielens, sandbox, supervised_process
from cli.local_run.engine import Engine
from cli.local_run.run_directory import FORCE, RunDirectory
from cli.paths import PROJECT
from infra.cloud import live_deployment
from infra.cloud.artefact import Artefact
from infra.cloud.clients import AzureClients
from infra.release.training_stage.snapshot import SnapshotError, files_of
from sandbox import state_files
from workloads import spec
from workloads.data import raw_file

CALLS = 500
TOP = 10
SYNTHETIC_ROWS = 40_000


@dataclass
class LocalRunSummary:
    """Results of a local run, for the summary at its end."""

    dataset: str
    stages: list[tuple[str, float]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    scored: list[dict[str, Any]] = field(default_factory=list)
    """`row`, and its probability as computed in training (`trained`) and by the endpoint (`served`)."""
    user: str | None = None
    ranking: list[dict[str, Any]] = field(default_factory=list)
    """`id`, `title`, `probability`, best first."""
    latencies: list[float] = field(default_factory=list)
    """Milliseconds, sorted."""
    tracking: str = ""
    """Address of the experiment in MLflow."""


def up(
    run: RunDirectory,
    dataset: str,
    data: Path | None,
    engine_name: str,
    port: int | None,
    report: Callable[[str], None],
) -> LocalRunSummary:
    """Create or update the local run. Raises `UserError`; resources that already exist are then kept.

    data: file or folder of rows; None for the dataset's default rows. engine_name: scoring engine. port: of the
    sandbox; None for a free one. report: gets one line per stage.
    """
    local_spark.require_java()
    _require_paths_without_spaces(PROJECT, run.folder)
    local_spark.require_no_pattern(run.folder, "Name another folder with STATE=<folder>.")
    with run.locked(), sandbox.readable_errors(run.sandbox):
        return _up(run, dataset, data, engine_name, port, report)


def _up(
    run: RunDirectory,
    dataset: str,
    data: Path | None,
    engine_name: str,
    port: int | None,
    report: Callable[[str], None],
) -> LocalRunSummary:
    summary = LocalRunSummary(dataset)
    started = time.monotonic()

    def report_stage(title: str, seconds: float) -> None:
        summary.stages.append((title, seconds))
        report(f"[{time.monotonic() - started:6.1f} s] {title}: {seconds:.1f} s")

    def timed(title: str, action: Callable[[], Any]) -> Any:
        since = time.monotonic()
        result = action()
        report_stage(title, time.monotonic() - since)
        return result

    described = spec.load(dataset)
    folder = timed("rows", lambda: _rows(run, described, data, report))
    environment = timed("sandbox", lambda: sandbox.start(run.sandbox, port))
    engine = Engine(run.folder, environment, run.sandbox)
    engine.configure(
        {
            "training:dataset": dataset,
            "training:local_data": str(folder),
            "serving:engine": engine_name,
            "access:deployers": {sandbox.deployer(): "ServicePrincipal"},
        }
    )
    timed("stack", lambda: _recover(engine))
    for stage in engine.up(
        lambda stage: report(f"[{time.monotonic() - started:6.1f} s] {stage.title}: {stage.seconds:.1f} s")
    ):
        summary.stages.append((stage.title, stage.seconds))

    summary.outputs = engine.outputs()
    record = {"dataset": dataset, "data": str(folder), "outputs": summary.outputs}
    state_files.write(run.record, json.dumps(record, indent=1))
    endpoint = Endpoint.of(summary.outputs)
    rows = golden(summary.outputs)
    summary.scored = [
        {"row": line["row"], "trained": line["probability"], "served": probability}
        for line, probability in zip(rows[:3], _scores(endpoint, rows[:3]), strict=True)
    ]
    if described.users and described.items and described.user_id:
        summary.user = str(rows[0]["row"][described.user_id])
        tables = folder if folder.is_dir() else folder.parent
        summary.ranking = ranking.rank(endpoint, described, tables, summary.user, TOP)
    summary.tracking = sandbox.redirect_target(summary.outputs["tracking_page"])
    summary.latencies = timed(
        f"{CALLS} calls", lambda: endpoint.latencies([{"rows": [line["row"]]} for line in rows], CALLS)
    )
    return summary


def down(
    run: RunDirectory,
    report: Callable[[str], None],
    *,
    force: bool = False,
    confirm: Callable[[str], bool] = lambda _: False,
) -> None:
    """Destroy the stack with Pulumi, stop the sandbox, and remove the run's files.

    force: do not use Pulumi; this is safe because a run has no resources outside its folder.
    confirm: gets the reason why the stack cannot be destroyed, and returns whether to continue without Pulumi.
    Raises `UserError` if it returns false, or if resources are left in the sandbox.
    """
    if not run.files:
        report(f"there is no local run in {run.folder}")
        return
    with run.locked():
        destroyed = not force and run.sandbox.exists() and _try_to_destroy(run, report, confirm)
        supervised_process.end_leftovers(run.folder / "engine.json", argument=str(run.folder / "engine-events.json"))
        sandbox.stop(run.sandbox)
        run.clear()
    report(
        f"{'the stack is destroyed, ' if destroyed else ''}the sandbox has stopped, "
        f"and the run is removed from {run.folder}"
    )


def _try_to_destroy(run: RunDirectory, report: Callable[[str], None], confirm: Callable[[str], bool]) -> bool:
    """Return whether the stack was destroyed; false if `confirm` allowed to continue after an error."""
    try:
        _destroy(run, report)
    except Exception as error:  # whatever the error is, the run can be removed without Pulumi
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if not confirm(f"the stack cannot be destroyed: {reason}"):
            remedy = "" if FORCE in reason else f"\n{FORCE}."
            raise UserError(f"the stack cannot be destroyed: {reason}{remedy}") from None
        return False
    return True


def _destroy(run: RunDirectory, report: Callable[[str], None]) -> None:
    engine = Engine(run.folder, sandbox.start(run.sandbox, None), run.sandbox)
    engine.configure({})  # `destroy` needs only the encryption salt
    _recover(engine)
    engine.destroy(lambda stage: report(f"{stage.title}: {stage.count} deleted"))
    if left := sandbox.resources():
        raise UserError("destroyed, but the sandbox still holds:\n  - " + "\n  - ".join(left))


def _rows(run: RunDirectory, described: spec.Spec, data: Path | None, report: Callable[[str], None]) -> Path:
    if data is not None:
        try:
            _require_tables(described, files_of(str(data)), data)
        except SnapshotError as error:
            raise UserError(str(error).replace("training:local_data", "DATA")) from None
        return data.absolute()
    if described.name == "movielens":
        return movielens.fetch(paths.folder() / "movielens", report)
    folder = run.folder / "data" / "synthetic"
    if not (folder / raw_file.SYNTHETIC).exists():
        report("No DATA given: generating SYNTHETIC rows with Criteo's columns. Pass DATA=<train.txt> for real clicks.")
        command = [sys.executable, "-m", "workloads.data.synthesize"]
        command += ["--rows", str(SYNTHETIC_ROWS), "--output", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"synthetic rows could not be generated: {done.stderr.strip()}")
    return folder


def _require_tables(described: spec.Spec, files: Sequence[Path], data: Path) -> None:
    """Refuse missing and empty tables here, where the message can name the path that the user gave."""
    for which in ("interactions", "users", "items"):
        table: spec.Table | None = getattr(described, which)
        if table is None:
            continue
        matching = table.among(files)
        if not matching:
            raise UserError(
                f"DATA '{data}': dataset {described.name} reads its {which} from {' or '.join(table.files)}, but DATA "
                f"contains only {', '.join(path.name for path in files)}"
            )
        for path in matching:
            if path.stat().st_size == 0:
                raise UserError(f"DATA '{data}': {path} is empty")


def _require_paths_without_spaces(*folders: Path) -> None:
    """Refuse spaces: the drivers of the sandbox's clusters fail on them. Local Spark (`cross-validate`) does not."""
    for folder in folders:
        if " " in str(folder):
            raise UserError(
                f"{folder}: Spark does not start from a path with a space in it. "
                "Clone into another folder, or name another with STATE=<folder>."
            )


def _recover(engine: Engine) -> None:
    """Create the stack or repair it after a killed run, so that `up` or `destroy` can follow."""
    from sandbox.azure_native.resource_type import by_token

    def id_of(resource: dict[str, Any]) -> str | None:
        kind = by_token().get(resource["type"])
        if kind is None:
            return None  # a dynamic resource of the release: its `create` finds an existing object itself
        address = kind.address(resource["inputs"], os.environ["ARM_SUBSCRIPTION_ID"])
        return address if sandbox.exists(address) else None

    engine.select()
    engine.settle_pending(id_of)


def golden(outputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the golden rows of the live model: each a `row` with the `probability` that training computed."""
    client = AzureClients.discover().machine_learning(outputs["ml_workspace_id"])
    if not (run := live_deployment.run_id(client, outputs["endpoint_name"])):
        raise UserError(
            f"no deployment of endpoint {outputs['endpoint_name']} has traffic: it was changed by hand. "
            "To create the local run again: `make local-down`, then `make local`."
        )
    artefact = Artefact(outputs["lake_blob_endpoint"], "models", run)
    try:
        return [json.loads(line) for line in artefact.text("golden.jsonl").splitlines()]
    except ValueError as error:
        raise UserError(
            f"golden.jsonl of run {run} in the lake's models cannot be read: {error}. "
            "To create the local run again: `make local-down`, then `make local`."
        ) from None


def _scores(endpoint: Endpoint, golden: list[dict[str, Any]]) -> list[float]:
    return endpoint.post({"rows": [line["row"] for line in golden]})["probabilities"]
