"""Stages of `up`, faults that can occur in them, and a trial: one `up` with one fault in one stage.

A stage is triggered on a deployed stack by a change that the next `up` finds: a setting, other rows, or a resource that
was removed from the state, as if an earlier `up` had not come so far.
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
_IN_TRAINING = 8
"""Seconds from the start of a training run until Spark reads rows."""
_LINES = 20_000
"""Interactions in the first set of rows; each further set has one less, so that it is a new snapshot."""


@dataclass
class DeployedStack:
    """A stack with a live model, and the data that trials need. The environment must hold the sandbox's addresses."""

    run: LocalRun
    engine: Engine
    endpoint: Endpoint
    row: dict[str, Any]
    secrets: set[str]
    snapshots: int = 0

    @classmethod
    def of(cls, run: LocalRun) -> "DeployedStack":
        endpoint = Endpoint.of(run.outputs)
        key = endpoint.client.headers["authorization"].removeprefix("Bearer ")
        secrets = {key, run.environment["ARM_CLIENT_SECRET"]}
        row = command.golden(run.outputs)[0]["row"]
        return cls(run, Engine(run.state, run.environment), endpoint, row, secrets)

    @property
    def record(self) -> Path:
        """File in which the product records its engine process, to find one that a killed run left."""
        return self.run.state / "engine.json"

    @property
    def faults(self) -> httpx.Client:
        trust = self.run.environment["SSL_CERT_FILE"]
        base = f"https://{self.run.environment['ARM_METADATA_HOSTNAME']}"
        return httpx.Client(base_url=base, verify=ssl.create_default_context(cafile=trust), trust_env=False)

    def other_rows(self) -> Path:
        """A folder with rows on which no model has been trained yet."""
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
        """Remove a resource from the state only."""
        exported = json.loads(self.engine.text("stack", "export", "--stack", "local"))
        resources = exported["deployment"]["resources"]
        (removed,) = (resource["urn"] for resource in resources if resource["type"] == token)
        others = [resource for resource in resources if resource["urn"] != removed]
        for resource in others:
            resource["dependencies"] = [urn for urn in resource.get("dependencies", []) if urn != removed]
            for name, urns in resource.get("propertyDependencies", {}).items():
                resource["propertyDependencies"][name] = [urn for urn in urns if urn != removed]
        exported["deployment"]["resources"] = others
        file = self.run.state / "forgotten.json"
        file.write_text(json.dumps(exported))
        self.engine.text("stack", "import", "--stack", "local", "--file", str(file))
        file.unlink()


@dataclass(frozen=True)
class Stage:
    name: str
    token: str
    """Type of the resource that the stage creates or updates."""
    path: str
    """Pattern of the path of the request that starts the work."""
    method: str
    """Method of that request; empty for any."""
    change: Callable[[DeployedStack], None]
    operation: bool = False
    """Whether that request starts an asynchronous operation, which may fail later."""
    trains: bool = False


def _dynamic(token: str) -> str:
    return f"pulumi-python:dynamic/{token}"


def _forgets(token: str) -> Callable[[DeployedStack], None]:
    return lambda stack: stack.forget(_dynamic(token))


STAGES = (
    Stage(
        "node pool",
        "azure-native:containerservice:AgentPool",
        r"/agentPools/[^/]+$",
        "PUT",
        lambda stack: stack.toggle("serving:nodes_max", "4", "5"),
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
        DeployedStack.trains_on_other_rows,
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
        lambda stack: stack.toggle("release:model", "1", "2"),
        operation=True,
    ),
)


@dataclass(frozen=True)
class Fault:
    name: str
    rule: Mapping[str, Any] = field(default_factory=dict)
    """The sandbox's fault rule for the request of the stage; without path and method."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the sandbox during the trial."""
    strike: Callable[["DeployedStack", subprocess.Popen[bytes]], None] | None = None
    """Action on the running `up` once it works on the stage."""
    says: str = ""
    """Pattern that the error message must match if `up` fails."""
    serves: bool = True
    """Whether the endpoint, which runs in the sandbox, can answer during the fault."""
    fits: Callable[[Stage], bool] = lambda stage: True
    """Whether the fault can occur in a stage."""


def _interrupt(_: DeployedStack, process: subprocess.Popen[bytes]) -> None:
    """Send SIGINT to the process group, as a terminal does on Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)


def _power_fails(stack: DeployedStack, process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()  # here, so that nothing else collects its exit status
    supervised_process.end_leftovers(stack.record)


def _cloud_dies(stack: DeployedStack, _: subprocess.Popen[bytes]) -> None:
    folder = stack.run.state / "sandbox"
    os.kill(int((folder / "lock").read_text()), signal.SIGKILL)
    time.sleep(1)
    sandbox.start(folder, None)


def _disk_full(stack: DeployedStack, process: subprocess.Popen[bytes]) -> None:
    """Limit new files of models to 64 KiB until `up` has ended; existing models can be read."""
    (models,) = (stack.run.state / "sandbox" / "accounts").glob("*/models")
    small = stack.run.state / "small"
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
"""Property of a test's report that holds its result: stage, fault and the fields of `Outcome`."""
# Training takes longest and comes last.
CELLS = [
    (stage, fault) for fault in FAULTS for stage in sorted(STAGES, key=lambda stage: stage.trains) if fault.fits(stage)
]


@dataclass(frozen=True)
class Outcome:
    first: bool
    """Whether the `up` that met the fault succeeded."""
    seconds: float
    """Duration of the next `up`; 0 if none was needed."""
    message: str
    lost: int
    """Requests to the endpoint that failed during the trial."""
    asked: int
    """Requests to the endpoint during the trial."""


def trial(stack: DeployedStack, stage: Stage, fault: Fault) -> Outcome:
    """Run `up` with one fault in one stage, and again if it failed; asserts that the stack is complete afterwards."""
    run = stack.run
    before = run.jobs_runs_versions()
    stage.change(stack)
    with users(stack, fault.serves) as answers:
        with stack.faults as http:
            if fault.rule:
                rule = {"path": stage.path, **({"method": stage.method} if stage.method else {}), **fault.rule}
                http.post("/sandbox/faults", json=[rule]).raise_for_status()
            if fault.settings:
                http.put("/sandbox/settings", json=fault.settings).raise_for_status()
            code, message = _up(stack, stage, fault)
            assert code or fault.strike is not _power_fails, "the killed process ended with exit code 0"
        with stack.faults as http:
            left = http.get("/sandbox/faults").json()
            http.delete("/sandbox/faults").raise_for_status()
            http.put("/sandbox/settings", json={}).raise_for_status()
        if fault.rule:
            assert not left or left[0].get("times", 1) < fault.rule.get("times", 1), "no request met the fault"
        began, seconds = time.monotonic(), 0.0
        if code:
            _assert_clear(message, fault)
            command._recover(stack.engine)
            code, log = _up(stack, stage, None)
            assert code == 0, log
            seconds = time.monotonic() - began
    _assert_complete(stack, before, trained=int(stage.trains))
    assert answers["failed"] == 0, answers
    return Outcome(seconds == 0, seconds, message, answers["failed"], answers["asked"])


def _up(stack: DeployedStack, stage: Stage, fault: Fault | None) -> tuple[int, str]:
    """Exit code and log of `pulumi up`; `fault.strike` is called once it works on the stage."""
    engine = stack.engine
    events, log = stack.run.state / "fault-events.json", stack.run.state / "fault-up.log"
    events.unlink(missing_ok=True)
    command = [
        *("pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--color", "never", "--stack", "local"),
        *("--config-file", str(engine.config_file), "--event-log", str(events)),
    ]
    process = supervised_process.start(
        command, environment=engine.environment, folder=ROOT, log=log, record=stack.record
    )
    if fault and fault.strike:
        while process.poll() is None and not began(events, stage.token):
            time.sleep(0.02)
        assert process.poll() is None, "the stage never began: " + log.read_text()[-2000:]
        # The fault must strike in the middle of the work, of which the engine's log shows only the beginning.
        time.sleep(_IN_TRAINING if stage.trains else 0.3)
        fault.strike(stack, process)
    code = process.wait(_TIMEOUT)
    return code, log.read_text()


def _assert_clear(message: str, fault: Fault) -> None:
    errors = "\n".join(line for line in message.splitlines() if line.strip())
    assert "Traceback" not in errors, errors
    assert re.search(fault.says, errors), errors[-3000:]


def _assert_complete(stack: DeployedStack, before: tuple[int, int, int], trained: int) -> None:
    """Assert one job, cluster, policy and live deployment, one more run and version if one was trained, no secret."""
    jobs, runs, versions = before
    after = stack.run.jobs_runs_versions()
    # A failed run remains listed next to the run that replaced it.
    assert (after[0], after[2]) == (jobs, versions + trained), after
    assert runs + trained <= after[1] <= runs + 2 * trained, after
    assert stack.run.clusters_and_policies() == (1, 1)
    shares = stack.run.traffic()
    assert sorted(shares.values(), reverse=True)[0] == 100
    assert sum(shares.values()) == 100
    backend = stack.run.state / "pulumi" / "backend"
    for path in [*backend.rglob("*.json"), stack.run.state / "fault-up.log"]:
        text = path.read_text(errors="replace")
        assert not [secret for secret in stack.secrets if secret in text], path


@contextmanager
def users(stack: DeployedStack, serves: bool) -> Iterator[dict[str, int]]:
    """Send twenty requests per second to the endpoint during the block; counts them and those not answered 200.

    Sends none if `serves` is false.
    """
    answers, over = {"asked": 0, "failed": 0}, threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            answers["asked"] += 1
            try:
                status = stack.endpoint.client.post(stack.endpoint.uri, json={"rows": [stack.row]}).status_code
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
