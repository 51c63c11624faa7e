"""The Pulumi CLI for stack `local`: its environment, its commands, and its event log as stages of progress.

Of the program's resources it knows only the type tokens that define the stages.
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

from cli import pulumi_cli
from cli.errors import UserError
from cli.local_run import supervised_process
from cli.local_run.run_directory import FORCE
from cli.paths import PROJECT
from cli.stacks import files, state
from sandbox import instance_lock, state_files

STACK = "local"
# A file backend encrypts with a passphrase. The secrets of this stack are valid only on this machine.
_PASSPHRASE = "sandbox"

STAGES = (
    ("azure-native:", "Azure resources"),
    ("pulumi-python:dynamic/lake:Snapshot", "upload of rows"),
    ("pulumi-python:dynamic/databricks:TrainingRun", "training on Spark"),
    ("pulumi-python:dynamic/containerregistry:ScoringImage", "scoring image"),
    ("pulumi-python:dynamic/machinelearning:ModelVersion", "gate and model registry"),
    ("pulumi-python:dynamic/machinelearning:Rollout", "rollout"),
)


_PAUSE = 1.0  # seconds without an open operation after which a stage has ended
_GONE_SECONDS = 3.0  # seconds without a sandbox after which it counts as ended; a restart takes less


@dataclass
class Stage:
    title: str
    started: float
    ended: float | None = None
    open: set[str] = field(default_factory=set)
    count: int = 0
    reported: bool = False

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started


class CloudEnded(UserError):
    """The sandbox ended while the engine was using it."""


class _SandboxWatch:
    """Detects that the sandbox process has ended. A missing answer does not count: the sandbox may be busy."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._seen, self._next = folder, time.monotonic(), 0.0

    def require(self, *, at_once: bool = False) -> None:
        """Raise `CloudEnded` if no sandbox has run for some seconds, in which another command may have restarted it."""
        now = time.monotonic()
        if self._folder is None or (now < self._next and not at_once):
            return
        self._next = now + 1.0
        if instance_lock.runs(self._folder):
            self._seen = now
        elif at_once or now - self._seen >= _GONE_SECONDS:
            raise CloudEnded(
                "the sandbox has ended, possibly killed for lack of memory; its log is "
                f"{self._folder / 'sandbox.log'}. `make local` restarts it and continues the run; "
                "`make local-down` removes the run"
            )


class Engine:
    def __init__(self, state: Path, environment: Mapping[str, str], cloud: Path | None = None) -> None:
        """Prepare the environment.

        state: folder of the local run. environment: of the sandbox. cloud: folder of the sandbox, if commands should
        stop when the sandbox ends.
        """
        self.state, self._cloud = state, cloud
        home = state / "pulumi"
        (home / "backend").mkdir(parents=True, exist_ok=True)
        self.config_file = state / "Pulumi.local.yaml"
        provider = PROJECT / "sandbox" / "azure_native" / "bin"
        self.environment = {
            **environment,
            # Only this stack finds the stand-in for the azure-native plugin on PATH.
            "PATH": f"{provider}:{environment['PATH']}",
            "PULUMI_HOME": str(home),
            # Metadata files are written after the state, so a kill in between would make the state unreadable.
            "PULUMI_BACKEND_URL": f"file://{home / 'backend'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE": _PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DEBUG_COMMANDS": "true",  # enables --event-log
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }
        if not shutil.which("pulumi", path=environment["PATH"]):
            raise UserError(pulumi_cli.MISSING)

    def configure(self, values: Mapping[str, Any]) -> None:
        """Write the run's stack file: the repository's `Pulumi.local.yaml`, including its salt, and `values`."""
        stack_file: dict[str, Any] = yaml.safe_load(files.text_of(PROJECT, STACK))
        stack_file["config"] |= values
        state_files.write(self.config_file, yaml.safe_dump(stack_file, sort_keys=False))

    def text(self, *arguments: str) -> str:
        """Run a short command and return its output. Raises `UserError` with its error output."""
        failure = f"pulumi {arguments[0]} failed"
        return pulumi_cli.output(PROJECT, *arguments, failure=failure, environment=self.environment)

    def select(self) -> None:
        """Create the stack if it does not exist, and remove processes and locks of a killed run.

        Raises `UserError` with the name of the file if Pulumi's state cannot be read.
        """
        ended = self.end_leftovers()
        self._require_state()
        known = {stack["name"] for stack in json.loads(self.text("stack", "ls", "--json"))}
        if STACK not in known:
            self.text("stack", "init", STACK)
        elif ended or any((self._backend / "locks").rglob("*.json")):
            self.text("cancel", "--yes", "--stack", STACK)

    def end_leftovers(self) -> list[int]:
        """End processes of a killed run, and return their ids."""
        return supervised_process.end_leftovers(self._record, argument=str(self._events))

    def _require_state(self) -> None:
        """Refuse a damaged or missing state: Pulumi would not name the file, or would start with an empty state."""
        meta = self._backend / "meta.yaml"
        if meta.exists() and "version" not in meta.read_text(errors="replace"):
            meta.unlink()  # Pulumi writes it again
        file = next((self._backend / "stacks").glob(f"*/{STACK}.json*"), None)
        if file is None:
            return
        file, backup = file.with_name(f"{STACK}.json"), file.with_name(f"{STACK}.json.bak")
        try:
            state_files.read_json(file, "checkpoint")
        except (FileNotFoundError, state_files.Unreadable) as error:
            cause = error if isinstance(error, state_files.Unreadable) else f"{file} is missing"
        else:
            return
        try:
            state_files.read_json(backup, "checkpoint")
        except (FileNotFoundError, state_files.Unreadable):
            raise UserError(f"{cause}. {FORCE}.") from None
        raise UserError(
            f"{cause}. Its content before the last change is in {backup.name}: `cp '{backup}' '{file}'`, "
            f"then the same command again. Or: {FORCE}."
        )

    def settle_pending(self, id_of: Callable[[dict[str, Any]], str | None]) -> None:
        """Complete or drop creations that a killed run started but did not record.

        id_of: returns the cloud's id of a pending resource, or None if it does not exist. An existing resource is added
        to the state, and a refresh reads its properties. The others are dropped; the next `up` creates them.
        """
        exported = json.loads(self.text("stack", "export", "--stack", STACK))
        deployment = exported["deployment"]
        pending = deployment.pop("pending_operations", None)
        if not pending:
            return
        creating = [operation["resource"] for operation in pending if operation["type"] == "creating"]
        deployment["resources"] += [{**resource, "id": id} for resource in creating if (id := id_of(resource))]
        settled = self.state / "settled.json"
        state_files.write(settled, json.dumps(exported))
        self.text("stack", "import", "--stack", STACK, "--file", str(settled))
        settled.unlink()
        self._follow("refresh", ["--yes", "--skip-preview"], lambda _stage: None)

    def outputs(self) -> dict[str, Any]:
        return state.outputs(PROJECT, STACK, self.environment)

    def up(self, on_stage: Callable[[Stage], None]) -> list[Stage]:
        return self._follow("up", ["--yes", "--skip-preview"], on_stage)

    def destroy(self, on_stage: Callable[[Stage], None]) -> list[Stage]:
        return self._follow("destroy", ["--yes", "--skip-preview"], on_stage)

    @property
    def _record(self) -> Path:
        return self.state / "engine.json"

    @property
    def _events(self) -> Path:
        return self.state / "engine-events.json"

    @property
    def _backend(self) -> Path:
        return self.state / "pulumi" / "backend" / ".pulumi"

    def _follow(self, command: str, arguments: list[str], on_stage: Callable[[Stage], None]) -> list[Stage]:
        events, log = self._events, self.state / f"pulumi-{command}.log"
        events.unlink(missing_ok=True)
        process = supervised_process.start(
            pulumi_cli.command(
                *(command, *arguments, "--stack", STACK),
                *("--config-file", str(self.config_file), "--event-log", str(events)),
            ),
            environment=self.environment,
            folder=PROJECT,
            log=log,
            record=self._record,
        )
        stages: dict[str, Stage] = {}
        errors: list[str] = []
        cloud = _SandboxWatch(self._cloud)
        try:
            for event in _tail(events, process):
                cloud.require()
                _record_event(event, stages, errors)
                _report_ended(stages, on_stage, pause=_PAUSE)
            _report_ended(stages, on_stage, pause=0)
        except CloudEnded:
            # The engine would wait for the cloud for minutes. The next run settles its pending operations.
            self.end_leftovers()
            raise
        except KeyboardInterrupt:
            print("interrupted: the engine completes its current operations", file=sys.stderr, flush=True)
            raise
        finally:
            if process.poll() is None:
                # Ctrl-C: the engine completes its operations and releases its lock.
                process.terminate()
            process.wait()
            self.end_leftovers()
        if process.returncode:
            cloud.require(at_once=True)
            raise UserError(f"pulumi {command} failed:\n" + ("\n".join(errors) or log.read_text()[-3000:]))
        return list(stages.values())


def _tail(path: Path, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the engine's events (one JSON object per line) until it has ended and all are read.

    Yields an empty event while there is no new one, so that the caller can check other conditions.
    """
    while not path.exists() and process.poll() is None:
        yield {}
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


def _report_ended(stages: dict[str, Stage], on_stage: Callable[[Stage], None], pause: float) -> None:
    """Report each stage once, when it has had no open operation for `pause` seconds."""
    for stage in stages.values():
        if stage.ended is not None and not stage.reported and time.monotonic() - stage.ended >= pause:
            stage.reported = True
            on_stage(stage)


def _record_event(event: Mapping[str, Any], stages: dict[str, Stage], errors: list[str]) -> None:
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
            stage.ended, stage.reported = None, False
            return
        stage.open.discard(step["urn"])
        if not stage.open:
            stage.ended = time.monotonic()


def _readable(message: str) -> str:
    """Remove colour marks, and the gRPC phrase that precedes errors of dynamic providers."""
    for mark in ("<{%reset%}>", "<{%fg 13%}>", "<{%bold%}>"):
        message = message.replace(mark, "")
    return message.replace("Exception calling application: ", "").strip()
