"""What `up` is made of, what can go wrong in each part of it, and one trial of one in the other.

A stage is brought about on a stack that stands, by what the next `up` finds changed: a setting, other rows, or a
resource that the state has forgotten, as if `up` had come no further before.
"""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cli import paths
from cli.endpoint import Endpoint
from cli.local_run import command, sandbox, supervised_process
from cli.local_run.engine import Engine
from testing.stack.local_run import ROOT, LocalRun, began

_TIMEOUT = 400
_IN_TRAINING = 8  # seconds from the run's start to when Spark works on rows
_LINES = 20_000  # of the interactions that are trained on again and again, fewer by one each time


@dataclass
class Stand:
    """A stack that serves, and what its trials need to know of it; its sandbox's addresses are in the environment."""

    run: LocalRun
    engine: Engine
    endpoint: Endpoint
    row: dict[str, Any]
    secrets: set[str]
    snapshots: int = 0

    @classmethod
    def of(cls, run: LocalRun) -> "Stand":
        endpoint = Endpoint.of(run.outputs)
        key = endpoint.client.headers["authorization"].removeprefix("Bearer ")
        secrets = {key, run.environment["ARM_CLIENT_SECRET"]}
        row = command.golden(run.outputs)[0]["row"]
        return cls(run, Engine(run.state, run.environment), endpoint, row, secrets)

    @property
    def record(self) -> Path:
        """Where the product looks for the engine that a killed run left."""
        return self.run.state / "engine.json"

    @property
    def faults(self) -> httpx.Client:
        trust = self.run.environment["SSL_CERT_FILE"]
        base = f"https://{self.run.environment['ARM_METADATA_HOSTNAME']}"
        return httpx.Client(base_url=base, verify=ssl.create_default_context(cafile=trust), trust_env=False)

    def other_rows(self) -> Path:
        """A folder of rows that nothing was trained on yet."""
        self.snapshots += 1
        source, folder = paths.folder() / "movielens", self.run.state / f"rows-{self.snapshots}"
        shutil.copytree(source, folder)
        lines = (source / "ml-100k.inter").read_text().splitlines(keepends=True)
        (folder / "ml-100k.inter").write_text("".join(lines[: _LINES - self.snapshots]))
        return folder

    def trains_on_other_rows(self) -> None:
        self.run.configure("training:local_data", str(self.other_rows()))
        self.run.configure("release:model", "trained")

    def toggle(self, key: str, first: str, second: str) -> None:
        self.run.configure(key, second if self.run.configured(key) == first else first)

    def forget(self, token: str) -> None:
        """Take a resource out of the state, and no more."""
        exported = json.loads(self.engine.text("stack", "export", "--stack", "local"))
        resources = exported["deployment"]["resources"]
        (gone,) = (resource["urn"] for resource in resources if resource["type"] == token)
        kept = [resource for resource in resources if resource["urn"] != gone]
        for resource in kept:
            resource["dependencies"] = [urn for urn in resource.get("dependencies", []) if urn != gone]
            for name, urns in resource.get("propertyDependencies", {}).items():
                resource["propertyDependencies"][name] = [urn for urn in urns if urn != gone]
        exported["deployment"]["resources"] = kept
        file = self.run.state / "forgotten.json"
        file.write_text(json.dumps(exported))
        self.engine.text("stack", "import", "--stack", "local", "--file", str(file))
        file.unlink()


@dataclass(frozen=True)
class Stage:
    name: str
    token: str
    """Type of the resource that is at work in it."""
    path: str
    method: str
    """Of the request that starts the work."""
    change: Callable[[Stand], None]
    operation: bool = False
    """Whether that request starts an operation, which may fail later."""
    trains: bool = False


def _dynamic(token: str) -> str:
    return f"pulumi-python:dynamic/{token}"


def _forgets(token: str) -> Callable[[Stand], None]:
    return lambda stand: stand.forget(_dynamic(token))


STAGES = (
    Stage(
        "node pool",
        "azure-native:containerservice:AgentPool",
        r"/agentPools/[^/]+$",
        "PUT",
        lambda stand: stand.toggle("serving:nodes_max", "4", "5"),
        operation=True,
    ),
    Stage("rows", _dynamic("lake:Snapshot"), r"^/blob/[^/]+/raw/", "PUT", _forgets("lake:Snapshot")),
    Stage(
        "catalog",
        _dynamic("databricks:Catalog"),
        r"/unity-catalog/(catalogs|schemas)",
        "",
        _forgets("databricks:Catalog"),
    ),
    Stage("workload", _dynamic("databricks:Workload"), r"/workspace/import", "POST", _forgets("databricks:Workload")),
    Stage("job", _dynamic("databricks:TrainingJob"), r"/jobs/reset", "POST", _forgets("databricks:TrainingJob")),
    Stage(
        "training",
        _dynamic("databricks:TrainingRun"),
        r"/jobs/run-now",
        "POST",
        Stand.trains_on_other_rows,
        operation=True,
        trains=True,
    ),
    Stage(
        "experiment", _dynamic("databricks:Experiment"), r"/mlflow/experiments/", "", _forgets("databricks:Experiment")
    ),
    Stage(
        "policy",
        _dynamic("databricks:ClusterPolicy"),
        r"/policies/clusters/",
        "",
        _forgets("databricks:ClusterPolicy"),
    ),
    Stage(
        "cluster",
        _dynamic("databricks:InteractiveCluster"),
        r"/clusters/(edit|start|delete)$",
        "POST",
        _forgets("databricks:InteractiveCluster"),
    ),
    Stage("key", _dynamic("databricks:EndpointKey"), r"/secrets/", "", _forgets("databricks:EndpointKey")),
    Stage(
        "notebooks", _dynamic("databricks:Notebooks"), r"/workspace/import", "POST", _forgets("databricks:Notebooks")
    ),
    Stage(
        "registry", _dynamic("machinelearning:ModelVersion"), r"/models/", "", _forgets("machinelearning:ModelVersion")
    ),
    Stage(
        "image",
        _dynamic("containerregistry:ScoringImage"),
        r"/scheduleRun",
        "POST",
        _forgets("containerregistry:ScoringImage"),
    ),
    Stage(
        "environment",
        _dynamic("machinelearning:EnvironmentVersion"),
        r"/environments/",
        "PUT",
        _forgets("machinelearning:EnvironmentVersion"),
    ),
    Stage(
        "rollout",
        _dynamic("machinelearning:Rollout"),
        r"/deployments/",
        "PUT",
        lambda stand: stand.toggle("release:model", "1", "2"),
        operation=True,
    ),
)


@dataclass(frozen=True)
class Fault:
    name: str
    rule: Mapping[str, Any] = field(default_factory=dict)
    """Of the sandbox, for the stage's own request."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    strike: Callable[["Stand", subprocess.Popen[bytes]], None] | None = None
    """What is done once the stage is at work."""
    says: str = ""
    """What the message tells of, where `up` fails."""
    serves: bool = True
    """Whether the endpoint can answer meanwhile; it is the sandbox's own."""
    fits: Callable[[Stage], bool] = lambda stage: True


def _interrupt(_: Stand, process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C goes, to all of the terminal's foreground."""
    os.killpg(process.pid, signal.SIGINT)


def _power_fails(stand: Stand, process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()  # before others reap it, and its end with it
    supervised_process.end_leftovers(stand.record)


def _cloud_dies(stand: Stand, _: subprocess.Popen[bytes]) -> None:
    folder = stand.run.state / "sandbox"
    os.kill(int((folder / "lock").read_text()), signal.SIGKILL)
    time.sleep(1)
    sandbox.start(folder, None)


def _disk_full(stand: Stand, process: subprocess.Popen[bytes]) -> None:
    """Models are read as ever, and 64 KiB of new ones can be written, until `up` has ended."""
    (models,) = (stand.run.state / "sandbox" / "accounts").glob("*/models")
    small = stand.run.state / "small"
    small.mkdir(exist_ok=True)
    _do("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small)
    try:
        upper, work = small / "upper", small / "work"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir={models},upperdir={upper},workdir={work}"
        _do("mount", "-t", "overlay", "-o", options, "overlay", models)
        try:
            process.wait(_TIMEOUT)
        finally:
            _do("umount", "-l", models)
    finally:
        _do("umount", "-l", small)


def _do(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True)


FAULTS = (
    Fault("429", {"status": 429, "headers": {"Retry-After": "1"}, "times": 2}, says="429|Fault429|limit"),
    Fault("500", {"status": 500, "times": 2}, says="500"),
    Fault("409", {"status": 409}, says="409"),
    Fault("slow", {"delay": 4.0, "times": 2}, says="tim"),
    Fault("reset", {"reset": True}, says="onnection|EOF|response"),
    Fault("answer lost", {"lost": True}, says="onnection|EOF|response"),
    Fault(
        "operation fails",
        {"operation_failure": {"code": "AllocationFailed", "message": "There is no capacity."}},
        says="There is no capacity|AllocationFailed",
        fits=lambda stage: stage.operation,
    ),
    Fault("token expires", settings={"token_lifetime": 3}, says="token|401"),
    Fault("Ctrl-C", strike=_interrupt),
    Fault("killed", strike=_power_fails),
    Fault("cloud dies", strike=_cloud_dies, says="onnect|EOF|response|refused|401|has ended", serves=False),
    Fault(
        "disk full",
        strike=_disk_full,
        says="No space left|space|Errno 28",
        fits=lambda stage: stage.trains and os.geteuid() == 0 and shutil.which("mount") is not None,
    ),
)


CELL = "cell"
"""Property of a test's report that holds what it found: stage, fault and the fields of `Outcome`."""
# Training, which takes longest, comes last.
CELLS = [
    (stage, fault) for fault in FAULTS for stage in sorted(STAGES, key=lambda stage: stage.trains) if fault.fits(stage)
]


@dataclass(frozen=True)
class Outcome:
    first: bool
    """Whether the `up` that met the fault succeeded."""
    seconds: float
    """Of the next `up`; 0 where none was needed."""
    message: str
    lost: int
    asked: int


def trial(stand: Stand, stage: Stage, fault: Fault) -> Outcome:
    """One fault in one stage, and `up` again if it failed; asserts that all is whole afterwards."""
    run = stand.run
    before = run.jobs_runs_versions()
    stage.change(stand)
    with users(stand, fault.serves) as answers:
        with stand.faults as http:
            if fault.rule:
                rule = {"path": stage.path, **({"method": stage.method} if stage.method else {}), **fault.rule}
                http.post("/sandbox/faults", json=[rule]).raise_for_status()
            if fault.settings:
                http.put("/sandbox/settings", json=fault.settings).raise_for_status()
            code, message = _up(stand, stage, fault)
            assert code or fault.strike is not _power_fails, "what was killed cannot have succeeded"
        with stand.faults as http:
            left = http.get("/sandbox/faults").json()
            http.delete("/sandbox/faults").raise_for_status()
            http.put("/sandbox/settings", json={}).raise_for_status()
        if fault.rule:
            assert not left or left[0].get("times", 1) < fault.rule.get("times", 1), "the fault met nothing"
        began, seconds = time.monotonic(), 0.0
        if code:
            _is_clear(message, fault)
            command._recover(stand.engine)
            code, said = _up(stand, stage, None)
            assert code == 0, said
            seconds = time.monotonic() - began
    _is_whole(stand, before, trained=int(stage.trains))
    assert answers["failed"] == 0, answers
    return Outcome(seconds == 0, seconds, message, answers["failed"], answers["asked"])


def _up(stand: Stand, stage: Stage, fault: Fault | None) -> tuple[int, str]:
    engine = stand.engine
    events, log = stand.run.state / "fault-events.json", stand.run.state / "fault-up.log"
    events.unlink(missing_ok=True)
    command = [
        *("pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--color", "never", "--stack", "local"),
        *("--config-file", str(engine.config_file), "--event-log", str(events)),
    ]
    process = supervised_process.start(
        command, environment=engine.environment, folder=ROOT, log=log, record=stand.record
    )
    if fault and fault.strike:
        while process.poll() is None and not began(events, stage.token):
            time.sleep(0.02)
        assert process.poll() is None, "the stage never began: " + log.read_text()[-2000:]
        time.sleep(_IN_TRAINING if stage.trains else 0.3)
        fault.strike(stand, process)
    code = process.wait(_TIMEOUT)
    return code, log.read_text()


def _is_clear(message: str, fault: Fault) -> None:
    errors = "\n".join(line for line in message.splitlines() if line.strip())
    assert "Traceback" not in errors, errors
    assert re.search(fault.says, errors), errors[-3000:]


def _is_whole(stand: Stand, before: tuple[int, int, int], trained: int) -> None:
    """One job, cluster and policy, one more run and version if one was trained, one live deployment, no secret told."""
    jobs, runs, versions = before
    found = stand.run.jobs_runs_versions()
    # A run that failed stays on record beside the one that made up for it.
    assert (found[0], found[2]) == (jobs, versions + trained), found
    assert runs + trained <= found[1] <= runs + 2 * trained, found
    assert stand.run.clusters_and_policies() == (1, 1)
    shares = stand.run.traffic()
    assert sorted(shares.values(), reverse=True)[0] == 100
    assert sum(shares.values()) == 100
    backend = stand.run.state / "pulumi" / "backend"
    for path in [*backend.rglob("*.json"), stand.run.state / "fault-up.log"]:
        text = path.read_text(errors="replace")
        assert not [secret for secret in stand.secrets if secret in text], path


@contextmanager
def users(stand: Stand, serves: bool) -> Iterator[dict[str, int]]:
    """Requests to the endpoint, twenty a second, as long as the block lasts; counts those not answered 200."""
    answers, over = {"asked": 0, "failed": 0}, threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            answers["asked"] += 1
            try:
                status = stand.endpoint.client.post(stand.endpoint.uri, json={"rows": [stand.row]}).status_code
            except httpx.TransportError:
                status = 0
            answers["failed"] += status != 200

    asking = threading.Thread(target=ask, daemon=True)
    if serves:
        asking.start()
    try:
        yield answers
    finally:
        over.set()
        if serves:
            asking.join()
