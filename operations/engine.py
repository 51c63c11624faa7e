"""The real Pulumi CLI on stack `local`: its environment, its commands, and its event log as lines of progress.

Knows nothing of what the program declares beyond the type tokens it names stages by.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from operations import processes, stacks
from operations.errors import UserError
from operations.state import NO_PULUMI

PROJECT = Path(__file__).parents[1]
STACK = "local"
# A file backend encrypts with a passphrase; this stack's state holds nothing that is secret outside this machine.
_PASSPHRASE = "sandbox"

STAGES = (
    ("azure-native:", "Azure resources"),
    ("pulumi-python:dynamic/lake:Snapshot", "rows into the lake"),
    ("pulumi-python:dynamic/databricks:TrainingRun", "training on Spark"),
    ("pulumi-python:dynamic/containerregistry:ScoringImage", "scoring image"),
    ("pulumi-python:dynamic/machinelearning:ModelVersion", "gate and model registry"),
    ("pulumi-python:dynamic/machinelearning:Rollout", "rollout"),
)


_PAUSE = 1.0  # seconds; between two resources of a stage there may be none at work


@dataclass
class Stage:
    title: str
    started: float
    ended: float | None = None
    open: set[str] = field(default_factory=set)
    count: int = 0
    told: bool = False

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started


class UpFailed(UserError):
    """`pulumi` ended with an error; the message carries what it reported."""


class Engine:
    def __init__(self, state: Path, environment: Mapping[str, str]) -> None:
        self.state = state
        home = state / "pulumi"
        (home / "backend").mkdir(parents=True, exist_ok=True)
        self.config_file = state / "Pulumi.local.yaml"
        provider = PROJECT / "sandbox" / "azure_native" / "bin"
        self.environment = {
            **environment,
            # The stand-in for the azure-native plugin is found on PATH, by this stack only.
            "PATH": f"{provider}:{environment['PATH']}",
            "PULUMI_HOME": str(home),
            # Sidecar files of attributes are written after the state: a kill in between makes it unreadable.
            "PULUMI_BACKEND_URL": f"file://{home / 'backend'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE": _PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DEBUG_COMMANDS": "true",  # without it there is no --event-log
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }
        if not shutil.which("pulumi", path=environment["PATH"]):
            raise UserError(NO_PULUMI)

    def configure(self, values: Mapping[str, Any]) -> None:
        """Write the stack file of this run: the repository's `Pulumi.local.yaml` plus `values`; keeps the salt."""
        stack_file: dict[str, Any] = yaml.safe_load(stacks.text_of(PROJECT, STACK))
        if self.config_file.exists():
            kept = yaml.safe_load(self.config_file.read_text())
            stack_file |= {key: value for key, value in kept.items() if key != "config"}
        stack_file["config"] |= values
        self.config_file.write_text(yaml.safe_dump(stack_file, sort_keys=False))

    def text(self, *arguments: str) -> str:
        """Run a short command and return what it prints. Raises `UpFailed` with its error output."""
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UpFailed(f"pulumi {arguments[0]} failed:\n{done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def select(self) -> None:
        """Make the stack if it is not there, and clear what a killed run left: processes, lock, pending operations."""
        ended = processes.end_leftovers(self._record)
        known = {stack["name"] for stack in json.loads(self.text("stack", "ls", "--json"))}
        if STACK not in known:
            self.text("stack", "init", STACK)
        elif ended or any((self.state / "pulumi" / "backend" / ".pulumi" / "locks").rglob("*.json")):
            self.text("cancel", "--yes", "--stack", STACK)

    def settle_pending(self, id_of: Callable[[dict[str, Any]], str | None]) -> None:
        """Settle creations that a killed run began and did not record.

        `id_of` gives the cloud's id of a pending resource that exists: it is taken into the state, and a refresh reads
        the rest. What does not exist is forgotten, and created by the next `up`.
        """
        exported = json.loads(self.text("stack", "export", "--stack", STACK))
        deployment = exported["deployment"]
        pending = deployment.pop("pending_operations", None)
        if not pending:
            return
        begun = [operation["resource"] for operation in pending if operation["type"] == "creating"]
        deployment["resources"] += [{**resource, "id": id} for resource in begun if (id := id_of(resource))]
        settled = self.state / "settled.json"
        settled.write_text(json.dumps(exported))
        self.text("stack", "import", "--stack", STACK, "--file", str(settled))
        settled.unlink()
        self._follow("refresh", ["--yes", "--skip-preview"], lambda _stage: None)

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.text("stack", "output", "--json", "--stack", STACK))

    def up(self, on_stage: Callable[[Stage], None]) -> list[Stage]:
        return self._follow("up", ["--yes", "--skip-preview"], on_stage)

    def destroy(self, on_stage: Callable[[Stage], None]) -> list[Stage]:
        return self._follow("destroy", ["--yes", "--skip-preview"], on_stage)

    @property
    def _record(self) -> Path:
        return self.state / "engine.json"

    def _follow(self, command: str, arguments: list[str], on_stage: Callable[[Stage], None]) -> list[Stage]:
        events, log = self.state / "engine-events.json", self.state / f"pulumi-{command}.log"
        events.unlink(missing_ok=True)
        process = processes.start(
            [
                *("pulumi", command, *arguments, "--non-interactive", "--stack", STACK),
                *("--config-file", str(self.config_file), "--event-log", str(events)),
            ],
            environment=self.environment,
            folder=PROJECT,
            log=log,
            record=self._record,
        )
        stages: dict[str, Stage] = {}
        errors: list[str] = []
        try:
            for event in _tail(events, process):
                _note(event, stages, errors)
                _tell(stages, on_stage, pause=_PAUSE)
            _tell(stages, on_stage, pause=0)
        except KeyboardInterrupt:
            print("interrupted: the engine ends what it is at", file=sys.stderr, flush=True)
            raise
        finally:
            if process.poll() is None:
                # Ctrl-C: the engine ends its operations and releases its lock.
                process.terminate()
            process.wait()
            processes.end_leftovers(self._record)
        if process.returncode:
            raise UpFailed(f"pulumi {command} failed:\n" + ("\n".join(errors) or log.read_text()[-3000:]))
        return list(stages.values())


def _tail(path: Path, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Events as the engine writes them, one JSON object a line, until it has ended and all is read.

    An empty one where there is nothing new.
    """
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)
    if not path.exists():
        return
    with path.open() as file:
        partial = ""
        while True:
            ended = process.poll() is not None
            partial += file.read()
            *lines, partial = partial.split("\n")
            for line in lines:
                if line:
                    yield json.loads(line)
            if ended:
                return
            yield {}
            time.sleep(0.1)


def _tell(stages: dict[str, Stage], on_stage: Callable[[Stage], None], pause: float) -> None:
    """Report stages that ended `pause` seconds ago and have not gone on since."""
    for stage in stages.values():
        if stage.ended is not None and not stage.told and time.monotonic() - stage.ended >= pause:
            stage.told = True
            on_stage(stage)


def _note(event: Mapping[str, Any], stages: dict[str, Stage], errors: list[str]) -> None:
    if diagnostic := event.get("diagnosticEvent"):
        if diagnostic["severity"] == "error" and not diagnostic.get("ephemeral"):
            errors.append(_readable(diagnostic["message"]))
        return
    for kind in ("resourcePreEvent", "resOutputsEvent", "resOpFailedEvent"):
        if kind not in event:
            continue
        step = event[kind]["metadata"]
        title = next((title for prefix, title in STAGES if step["type"].startswith(prefix)), None)
        if title is None or step["op"] == "same":
            return
        stage = stages.setdefault(title, Stage(title, time.monotonic()))
        if kind == "resourcePreEvent":
            stage.open.add(step["urn"])
            stage.count += 1
            stage.ended, stage.told = None, False
            return
        stage.open.discard(step["urn"])
        if not stage.open:
            stage.ended = time.monotonic()


def _readable(message: str) -> str:
    """A diagnostic without colour marks and without the gRPC phrase that dynamic providers' errors come wrapped in."""
    for mark in ("<{%reset%}>", "<{%fg 13%}>", "<{%bold%}>"):
        message = message.replace(mark, "")
    return message.replace("Exception calling application: ", "").strip()
