"""`make local`: the whole chain on this machine, from rows to a click probability, and back down again.

Nothing here is part of the product's path to Azure: it prepares rows, a sandbox and a stack file, and lets the real
Pulumi engine run the real program.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli import catalogue, local_spark, paths
from cli.endpoint import Endpoint
from cli.errors import UserError
from cli.local_run import movielens, sandbox, supervised_process
from cli.local_run.engine import PROJECT, Engine
from cli.local_run.run_directory import FORCE, State
from infra.cloud import live_deployment
from infra.cloud.artefact import Artefact
from infra.cloud.clients import AzureClients
from infra.release.training_stage.snapshot import SnapshotError, files_of
from sandbox import state_files
from workloads import spec

CALLS = 500
TOP = 10
SYNTHETIC_ROWS = 40_000


@dataclass
class Report:
    """What one local run did, for the summary."""

    dataset: str
    stages: list[tuple[str, float]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    scored: list[dict[str, Any]] = field(default_factory=list)
    """`row`, `trained` and `served` probability."""
    user: str | None = None
    ranking: list[dict[str, Any]] = field(default_factory=list)
    """`id`, `title`, `probability`, best first."""
    latencies: list[float] = field(default_factory=list)
    """Milliseconds, sorted."""
    tracking: str = ""
    """MLflow's page of the run's experiment."""


def up(
    state: State, dataset: str, data: Path | None, engine_name: str, port: int | None, say: Callable[[str], None]
) -> Report:
    """Stand the chain up, or bring it to what is asked for. Raises `UserError`; what stands already then stays."""
    local_spark.require_java()
    _require_plain_paths(PROJECT, state.folder)
    local_spark.require_no_pattern(state.folder, "Name another folder with STATE=<folder>.")
    with state.held(), sandbox.explained(state.sandbox):
        return _up(state, dataset, data, engine_name, port, say)


def _up(
    state: State, dataset: str, data: Path | None, engine_name: str, port: int | None, say: Callable[[str], None]
) -> Report:
    report = Report(dataset)
    started = time.monotonic()

    def stage(title: str, seconds: float) -> None:
        report.stages.append((title, seconds))
        say(f"[{time.monotonic() - started:6.1f} s] {title}: {seconds:.1f} s")

    def timed(title: str, action: Callable[[], Any]) -> Any:
        since = time.monotonic()
        result = action()
        stage(title, time.monotonic() - since)
        return result

    described = spec.load(dataset)
    folder = timed("rows found", lambda: _rows(state, described, data, say))
    environment = timed("sandbox", lambda: sandbox.start(state.sandbox, port))
    engine = Engine(state.folder, environment, state.sandbox)
    engine.configure(
        {
            "training:local_dataset": dataset,
            "training:local_data": str(folder),
            "serving:engine": engine_name,
            "access:deployers": {sandbox.deployer(): "ServicePrincipal"},
        }
    )
    timed("stack", lambda: _recover(engine))
    for done in engine.up(
        lambda done: say(f"[{time.monotonic() - started:6.1f} s] {done.title}: {done.seconds:.1f} s")
    ):
        report.stages.append((done.title, done.seconds))

    report.outputs = engine.outputs()
    run = {"dataset": dataset, "data": str(folder), "outputs": report.outputs}
    state_files.write(state.run, json.dumps(run, indent=1))
    endpoint = Endpoint.of(report.outputs)
    kept = golden(report.outputs)
    report.scored = [
        {"row": line["row"], "trained": line["probability"], "served": served}
        for line, served in zip(kept[:3], _scores(endpoint, kept[:3]), strict=True)
    ]
    if described.users and described.items and described.user_id:
        report.user = str(kept[0]["row"][described.user_id])
        report.ranking = rank(endpoint, described, folder if folder.is_dir() else folder.parent, report.user, TOP)
    report.tracking = sandbox.leads_to(report.outputs["tracking_page"])
    report.latencies = timed(
        f"{CALLS} calls", lambda: endpoint.latencies([{"rows": [line["row"]]} for line in kept], CALLS)
    )
    return report


def down(
    state: State, say: Callable[[str], None], *, force: bool = False, confirm: Callable[[str], bool] = lambda _: False
) -> None:
    """Destroy through Pulumi, stop the sandbox, remove all of the run.

    force: leave Pulumi out; nothing of a run exists outside its folder.
    confirm: is given the reason why the stack cannot be destroyed, and returns whether to go on without Pulumi.
    Raises `UserError` where it does not, or where Pulumi leaves anything in the sandbox.
    """
    if not state.made:
        say(f"nothing runs in {state.folder}")
        return
    with state.held():
        destroyed = not force and state.sandbox.exists() and _destroyed(state, say, confirm)
        supervised_process.end_leftovers(
            state.folder / "engine.json", argument=str(state.folder / "engine-events.json")
        )
        sandbox.stop(state.sandbox)
        state.clear()
    say(
        f"{'the stack is destroyed, ' if destroyed else ''}the sandbox has stopped, "
        f"and all of the run is removed from {state.folder}"
    )


def _destroyed(state: State, say: Callable[[str], None], confirm: Callable[[str], bool]) -> bool:
    """Whether the stack is destroyed, rather than given up."""
    try:
        _destroy(state, say)
    except Exception as error:  # the run can be removed after any of them
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if not confirm(f"the stack cannot be destroyed: {reason}"):
            remedy = "" if FORCE in reason else f"\n{FORCE}."
            raise UserError(f"the stack cannot be destroyed: {reason}{remedy}") from None
        return False
    return True


def _destroy(state: State, say: Callable[[str], None]) -> None:
    engine = Engine(state.folder, sandbox.start(state.sandbox, None), state.sandbox)
    engine.configure({})  # to destroy needs no more than the salt
    _recover(engine)
    engine.destroy(lambda done: say(f"{done.title}: {done.count} gone"))
    if left := sandbox.resources():
        raise UserError("destroyed, but the sandbox still holds:\n  - " + "\n  - ".join(left))


def rank(
    endpoint: Endpoint,
    described: spec.Spec,
    folder: Path,
    user: str,
    top: int,
    context: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The best `top` items of the whole catalogue for one user, with a title where the item table has one.

    What of the context is not given is not sent either: nothing is guessed, this machine's clock included.
    """
    users, items = catalogue.side(described, "user", folder), catalogue.side(described, "item", folder)
    if user not in users:
        raise UserError(f"no user {user!r} in {folder}; there are {len(users)}, such as {next(iter(users), '-')!r}")
    titles = catalogue.titles(described, folder)
    candidates = [{"id": key, **item} for key, item in items.items()]
    best = best_of(endpoint, {**users[user], **(context or {})}, candidates, top)
    return [{**item, "title": titles.get(item["id"], "")} for item in best]


def best_of(
    endpoint: Endpoint, user: Mapping[str, Any], catalogue: Sequence[Mapping[str, Any]], top: int
) -> list[dict[str, Any]]:
    """`id` and `probability` of the best `top` items for a user, whose row may hold features of context too."""
    # The endpoint takes a bounded number of items a request; the best of each part hold the best of all.
    best: list[dict[str, Any]] = []
    for start in range(0, len(catalogue), 1000):
        best += endpoint.post({"user": user, "items": catalogue[start : start + 1000], "top": top})["ranking"]
    return sorted(best, key=lambda item: -item["probability"])[:top]


def context_of(described: spec.Spec, given: Iterable[str]) -> dict[str, Any]:
    """Features of the request itself, each given as `name=value`. Raises `UserError` naming the one that is not."""
    there_are = f"dataset {described.name} has {', '.join(described.context) or 'none in use'}"
    found: dict[str, Any] = {}
    for text in given:
        name, equals, written = text.partition("=")
        if not equals or name not in described.context:
            raise UserError(f"--context {text}: must be name=value of a feature of side context; {there_are}")
        feature = described.features[name]
        found[name] = catalogue.value(written if written.strip() else "", feature)
        if found[name] is None and written.strip():
            raise UserError(f"--context {text}: {name} is of type {feature.type}")
    return found


def _rows(state: State, described: spec.Spec, data: Path | None, say: Callable[[str], None]) -> Path:
    if data is not None:
        try:
            _require_tables(described, files_of(str(data)), data)
        except SnapshotError as error:
            raise UserError(str(error).replace("training:local_data", "DATA")) from None
        return data.absolute()
    if described.name == "movielens":
        return movielens.fetch(paths.folder() / "movielens", say)
    folder = state.folder / "data" / "synthetic"
    if not (folder / "SYNTHETIC.json").exists():
        say("No DATA given: SYNTHETIC rows in Criteo's shape are made. They are no click log; bring train.txt for one.")
        command = [
            sys.executable,
            "-m",
            "workloads.data.synthesize",
            "--rows",
            str(SYNTHETIC_ROWS),
            "--output",
            str(folder),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"synthetic rows could not be made: {done.stderr.strip()}")
    return folder


def _require_tables(described: spec.Spec, files: Sequence[Path], data: Path) -> None:
    """Told here, where a person knows the file by the path it was given."""
    for which in ("interactions", "users", "items"):
        table: spec.Table | None = getattr(described, which)
        if table is None:
            continue
        found = table.among(files)
        if not found:
            raise UserError(
                f"DATA '{data}': dataset {described.name} reads its {which} from {' or '.join(table.files)}, and no "
                f"file there has such a name: {', '.join(path.name for path in files)}"
            )
        for path in found:
            if path.stat().st_size == 0:
                raise UserError(f"DATA '{data}': {path} is empty")


def _require_plain_paths(*folders: Path) -> None:
    """The drivers of the sandbox's clusters do not bear them; Spark alone, as in `evaluate`, does."""
    for folder in folders:
        if " " in str(folder):
            raise UserError(
                f"{folder}: Spark does not start from a path with a space in it. "
                "Clone into another folder, or name another with STATE=<folder>."
            )


def _recover(engine: Engine) -> None:
    """Make the stack ready for an `up`, whatever a killed run left of it."""
    from sandbox.azure_native.resource_type import by_token

    def id_of(resource: dict[str, Any]) -> str | None:
        kind = by_token().get(resource["type"])
        if kind is None:
            return None  # a resource of the release, whose create finds by itself what it made
        address = kind.address(resource["inputs"], os.environ["ARM_SUBSCRIPTION_ID"])
        return address if sandbox.exists(address) else None

    engine.select()
    engine.settle_pending(id_of)


def golden(outputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that training kept with the model which serves, each with the probability it computed."""
    client = AzureClients.discover().machine_learning(outputs["ml_workspace_id"])
    if not (run := live_deployment.run_id(client, outputs["endpoint_name"])):
        raise UserError(
            f"no deployment of endpoint {outputs['endpoint_name']} has traffic: it was changed by hand. "
            "A local run is made again by `make local-down` and `make local`."
        )
    artefact = Artefact(outputs["lake_blob_endpoint"], "models", run)
    try:
        return [json.loads(line) for line in artefact.text("golden.jsonl").splitlines()]
    except ValueError as error:
        raise UserError(
            f"golden.jsonl of run {run} in the lake's models cannot be read: {error}. "
            "A local run is made again by `make local-down` and `make local`."
        ) from None


def _scores(endpoint: Endpoint, golden: list[dict[str, Any]]) -> list[float]:
    return endpoint.post({"rows": [line["row"] for line in golden]})["probabilities"]
