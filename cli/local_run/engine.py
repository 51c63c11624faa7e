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

from cli.errors import UserError
from cli.local_run import supervised_process
from cli.local_run.run_directory import FORCE
from cli.stacks import files
from cli.stacks.state import NO_PULUMI
from sandbox import instance_lock, state_files

PROJECT = Path(__file__).parents[2]
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
_GONE_SECONDS = 3.0


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


class CloudEnded(UserError):
    """The sandbox ended while the engine worked on it."""


class _Watch:
    """Notices that the sandbox has ended; not that it has no answer, since it may only be busy."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._seen, self._next = folder, time.monotonic(), 0.0

    def require(self, *, at_once: bool = False) -> None:
        """Raises `CloudEnded` where no sandbox has run for some seconds: another command may have started it again."""
        now = time.monotonic()
        if self._folder is None or (now < self._next and not at_once):
            return
        self._next = now + 1.0
        if instance_lock.runs(self._folder):
            self._seen = now
        elif at_once or now - self._seen >= _GONE_SECONDS:
            raise CloudEnded(
                f"the sandbox has ended, perhaps killed for want of memory; its log is {self._folder / 'sandbox.log'}. "
                "`make local` starts it again and goes on from here; `make local-down` removes the run"
            )


class Engine:
    def __init__(self, state: Path, environment: Mapping[str, str], cloud: Path | None = None) -> None:
        """`cloud`: folder of the sandbox that the engine works on, which is then watched meanwhile."""
        self.state, self._cloud = state, cloud
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
        """Write the stack file of this run: the repository's `Pulumi.local.yaml`, salt included, plus `values`."""
        stack_file: dict[str, Any] = yaml.safe_load(files.text_of(PROJECT, STACK))
        stack_file["config"] |= values
        state_files.write(self.config_file, yaml.safe_dump(stack_file, sort_keys=False))

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
        """Make the stack if it is not there, and clear what a killed run left: processes, lock, pending operations.

        Raises `UserError` naming the file where Pulumi's own state cannot be read.
        """
        ended = self.end_leftovers()
        self._require_state()
        known = {stack["name"] for stack in json.loads(self.text("stack", "ls", "--json"))}
        if STACK not in known:
            self.text("stack", "init", STACK)
        elif ended or any((self._backend / "locks").rglob("*.json")):
            self.text("cancel", "--yes", "--stack", STACK)

    def end_leftovers(self) -> list[int]:
        return supervised_process.end_leftovers(self._record, argument=str(self._events))

    def _require_state(self) -> None:
        """Pulumi names no file where its state is cut short, and begins an empty one where it is gone."""
        meta = self._backend / "meta.yaml"
        if meta.exists() and "version" not in meta.read_text(errors="replace"):
            meta.unlink()  # Pulumi writes it again
        file = next((self._backend / "stacks").glob(f"*/{STACK}.json*"), None)
        if file is None:
            return
        file, before = file.with_name(f"{STACK}.json"), file.with_name(f"{STACK}.json.bak")
        try:
            state_files.read_json(file, "checkpoint")
        except (FileNotFoundError, state_files.Unreadable) as error:
            cause = error if isinstance(error, state_files.Unreadable) else f"{file} is missing"
        else:
            return
        try:
            state_files.read_json(before, "checkpoint")
        except (FileNotFoundError, state_files.Unreadable):
            raise UserError(f"{cause}. {FORCE}.") from None
        raise UserError(
            f"{cause}. Its content before the last change is in {before.name}: `cp '{before}' '{file}'`, "
            f"then the same command again. Or: {FORCE}."
        )

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
        state_files.write(settled, json.dumps(exported))
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
        cloud = _Watch(self._cloud)
        try:
            for event in _tail(events, process):
                cloud.require()
                _note(event, stages, errors)
                _tell(stages, on_stage, pause=_PAUSE)
            _tell(stages, on_stage, pause=0)
        except CloudEnded:
            # The engine would wait for the cloud for minutes. The next run settles pending operations.
            self.end_leftovers()
            raise
        except KeyboardInterrupt:
            print("interrupted: the engine ends what it is at", file=sys.stderr, flush=True)
            raise
        finally:
            if process.poll() is None:
                # Ctrl-C: the engine ends its operations and releases its lock.
                process.terminate()
            process.wait()
            self.end_leftovers()
        if process.returncode:
            cloud.require(at_once=True)
            raise UpFailed(f"pulumi {command} failed:\n" + ("\n".join(errors) or log.read_text()[-3000:]))
        return list(stages.values())


def _tail(path: Path, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Events as the engine writes them, one JSON object a line, until it has ended and all is read.

    An empty one where there is nothing new.
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
