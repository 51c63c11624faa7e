"""A local run for tests: `personalization local` in a separate folder, with queries and changes of its stack."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from databricks.sdk.service.jobs import RunResultState

from benchmarks import quiet_refreshes
from cli.changes.preview import Change
from infra.cloud.clients import AzureClients
from testing.sandbox.process import in_environment

ROOT = Path(__file__).parents[2]
_ALERT_RULES, _ALERT_RULES_API = "Microsoft.Insights/scheduledQueryRules", "2025-01-01-preview"
CRITEO_ROWS = ROOT.parent / "shared" / "data" / "criteo_1tb_1k.tsv.gz"
"""1,000 real rows of Criteo's 1TB log, too few clicks to evaluate a model. Their licence keeps them out of the
repository."""


def began(events: Path, token: str) -> bool:
    """Whether the engine's event log contains a resource of this type."""
    try:
        log = events.read_bytes()
    except FileNotFoundError:  # every command of the engine starts by deleting it
        return False
    return f'"type":"{token}"'.encode() in log


@dataclass
class LocalRun:
    """A stack that `personalization local` deploys, with its state in the folder `state`."""

    state: Path
    plain: bool = False
    """Whether the stack is in the state after `make local` without options."""
    pending: bool = False
    """Whether a setting was changed by `configure` or `unset` and not applied yet."""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "cli", *arguments, "--state", str(self.state)]

    def run(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "local":
            self.plain = False
        return subprocess.run(
            self.command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )

    def up(self, *arguments: str) -> str:
        done = self.run("local", *arguments)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        self.plain, self.pending = not arguments, False
        return done.stdout

    def up_killed(self, when: Callable[[], bool], after: float = 0) -> None:
        """Start `local` and kill that process only, `after` seconds after `when` returned true."""
        started = subprocess.Popen(self.command("local"), cwd=ROOT, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while not when():
            assert started.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(after)
        started.send_signal(signal.SIGKILL)
        started.wait()

    def began(self, token: str) -> bool:
        """Whether the engine has started to work on a resource of this type."""
        return began(self.state / "engine-events.json", token)

    def touched(self) -> set[str]:
        """URNs of the resources that the last `up` of `personalization` changed."""
        events = map(json.loads, (self.state / "engine-events.json").read_text().splitlines())
        steps = [event["resourcePreEvent"]["metadata"] for event in events if "resourcePreEvent" in event]
        own = "pulumi:providers:"
        return {step["urn"] for step in steps if step["op"] != "same" and not step["type"].startswith(own)}

    def down(self) -> None:
        done = self.run("local-down")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **json.loads((self.state / "sandbox" / "environment.json").read_text())}

    @property
    def outputs(self) -> dict[str, Any]:
        return json.loads((self.state / "run.json").read_text())["outputs"]

    def configure(self, key: str, value: str) -> None:
        """Change a setting in the stack file; `up` writes the file again and so undoes the change."""
        file = self.state / "Pulumi.local.yaml"
        content = yaml.safe_load(file.read_text())
        content["config"][key] = value
        file.write_text(yaml.safe_dump(content))
        self.pending = True

    def unset(self, key: str) -> None:
        """Remove a setting from the stack file, until `up` writes the file again."""
        file = self.state / "Pulumi.local.yaml"
        content = yaml.safe_load(file.read_text())
        del content["config"][key]
        file.write_text(yaml.safe_dump(content))
        self.pending = True

    def configured(self, key: str) -> str | None:
        return yaml.safe_load((self.state / "Pulumi.local.yaml").read_text())["config"].get(key)

    def jobs_runs_versions(self) -> tuple[int, int, int]:
        """Numbers of training jobs, of their runs and of versions of the model."""
        with self._azure_ml() as client:
            workspace = self._databricks()
            return (
                len(list(workspace.jobs.list())),
                len(list(workspace.jobs.list_runs())),
                len(list(client.models.list(name=self.outputs["model_name"]))),
            )

    def alert_queries_and_job(self) -> tuple[dict[str, str], str]:
        """The queries of the log alert rules by the name of the rule, and the id of the training job."""
        group = self.outputs["ml_workspace_id"].partition("/providers/")[0]
        with in_environment(self.environment):
            listed = AzureClients.discover().resource(f"{group}/providers/{_ALERT_RULES}", _ALERT_RULES_API) or {}
            (job,) = self._databricks().jobs.list()
        rules = {rule["properties"]["displayName"]: rule["properties"]["criteria"]["allOf"] for rule in listed["value"]}
        queries = {name.removeprefix("Personalization: "): parts[0]["query"] for name, parts in rules.items()}
        return queries, str(job.job_id)

    def clusters_and_policies(self) -> tuple[int, int]:
        """Numbers of interactive clusters and of cluster policies."""
        with in_environment(self.environment):
            workspace = self._databricks()
            return len(list(workspace.clusters.list())), len(list(workspace.cluster_policies.list()))

    def objects(self) -> set[str]:
        """Kind and id of each object that the release created in the Databricks workspace."""
        with in_environment(self.environment):
            workspace = self._databricks()
            experiment = workspace.experiments.get_by_name(self.outputs["tracking_experiment"]).experiment
            folder = self.outputs["notebooks"].rpartition("/")[0]
            scopes = [scope.name for scope in workspace.secrets.list_scopes()]
            return {
                *(f"job {job.job_id}" for job in workspace.jobs.list()),
                *(f"policy {policy.policy_id}" for policy in workspace.cluster_policies.list()),
                *(f"cluster {cluster.cluster_id}" for cluster in workspace.clusters.list()),
                *(f"secret {scope} {key.key}" for scope in scopes for key in workspace.secrets.list_secrets(scope)),
                *(f"volume {volume.full_name}" for volume in workspace.volumes.list(scopes[0], "personalization")),
                *(f"file {file.path}" for file in workspace.workspace.list(folder, recursive=True)),
                f"experiment {experiment.experiment_id} {experiment.lifecycle_stage}",
            }

    def traffic(self) -> dict[str, int]:
        """Percent of the endpoint's traffic by deployment, without the deployments that have none."""
        with self._azure_ml() as client:
            traffic = client.online_endpoints.get(self.outputs["endpoint_name"]).traffic
        return {name: share for name, share in traffic.items() if share}

    def is_live(self, version: str) -> bool:
        """Whether deployments of this model version receive all traffic."""
        live = self.traffic()
        with self._azure_ml() as client:
            deployments = list(client.online_deployments.list(self.outputs["endpoint_name"]))
        versions = {deployment.name: deployment.tags["model_version"] for deployment in deployments}
        return bool(live) and {versions[name] for name in live} == {version}

    def variables(self) -> dict[str, str]:
        """Environment variables of the live deployment."""
        (live,) = self.traffic()
        with self._azure_ml() as client:
            return dict(client.online_deployments.get(live, self.outputs["endpoint_name"]).environment_variables)

    def builds(self) -> int:
        """Number of image builds that the registry has run."""
        return len(list((self.state / "sandbox" / "registries").glob("*/runs/*.log")))

    def model_tags(self, version: str) -> dict[str, str]:
        with self._azure_ml() as client:
            return dict(client.models.get(self.outputs["model_name"], version).tags)

    def land(self, snapshot: str, table: str, changed: Callable[[list[str]], list[str]]) -> None:
        """Upload the run's rows to the lake as a snapshot, with the lines of one table changed by `changed`."""
        folder = Path(json.loads((self.state / "run.json").read_text())["data"])
        with in_environment(self.environment):
            rows = AzureClients.discover().blobs(self.outputs["lake_blob_endpoint"]).get_container_client("raw")
            for file in folder.iterdir():
                text = file.read_text()
                if file.name == table:
                    head, *lines = text.splitlines()
                    text = "\n".join([head, *changed(lines)]) + "\n"
                rows.upload_blob(f"movielens/{snapshot}/{file.name}", text, overwrite=True)

    def run_job(self, **parameters: str) -> str:
        """Start the training job as Databricks' schedule does, wait for its end and return the id of the run."""
        with in_environment(self.environment):
            jobs = self._databricks().jobs
            (job,) = jobs.list()
            run = jobs.run_now(job.job_id, job_parameters=parameters or None).result()
            assert run.state.result_state == RunResultState.SUCCESS
            return str(run.run_id)

    def artefacts(self, run_id: str, name: str) -> list[Path]:
        """Paths on this machine of a file of a training run in the lake; `run_id` "" is the models container itself."""
        return list((self.state / "sandbox" / "accounts").glob(f"*/models/{Path(run_id) / name}"))

    def delete_deployment_of(self, version: str) -> None:
        endpoint = self.outputs["endpoint_name"]
        with self._azure_ml() as client:
            deployments = client.online_deployments
            (name,) = (each.name for each in deployments.list(endpoint) if each.tags["model_version"] == version)
            deployments.begin_delete(name, endpoint).result()

    def _databricks(self) -> Any:
        host = self.outputs["databricks_url"].removeprefix("https://")
        return AzureClients.discover().databricks(host, self.outputs["databricks_workspace_id"])

    @contextmanager
    def _azure_ml(self) -> Iterator[Any]:
        with in_environment(self.environment):
            yield AzureClients.discover().machine_learning(self.outputs["ml_workspace_id"])

    def urns(self, prefix: str) -> list[str]:
        """URNs of the stack's resources whose type has this prefix."""
        exported = json.loads(self.engine.text("stack", "export", "--stack", "local"))
        return [each["urn"] for each in exported["deployment"]["resources"] if each["type"].startswith(prefix)]

    @property
    def engine(self) -> Any:
        from cli.local_run.engine import Engine

        return Engine(self.state, self.environment)

    def pulumi(self, command: str, *arguments: str) -> dict[str, int]:
        """Run the real engine directly, without `personalization`; returns the number of steps by operation."""
        from cli.local_run.engine import Engine

        engine = Engine(self.state, self.environment)
        events = self.state / f"test-{command}-events.json"
        events.unlink(missing_ok=True)
        done = subprocess.run(
            [
                *("pulumi", command, "--yes", "--skip-preview", "--non-interactive", "--stack", "local"),
                *("--config-file", str(engine.config_file), "--event-log", str(events), *arguments),
            ],
            cwd=ROOT,
            env=engine.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        (summary,) = (
            event["summaryEvent"]
            for event in map(json.loads, events.read_text().splitlines())
            if "summaryEvent" in event
        )
        changes = {operation: count for operation, count in summary["resourceChanges"].items() if operation != "same"}
        self.plain = self.plain and not changes
        self.pending = self.pending and command != "up"
        return changes

    def drift(self) -> tuple[Change, ...]:
        """Changes that `pulumi preview --refresh --expect-no-changes` reports."""
        return quiet_refreshes.drift(self.engine)

    def processes(self) -> list[str]:
        """Process id and command line of every process of this run."""
        return [f"{process.pid} {' '.join(command)}" for process, command, _ in self._own_processes()]

    def replicas(self) -> dict[str, set[int]]:
        """Process ids of the replicas by the folder name of their deployment; a replica runs in a folder below it."""
        replicas: dict[str, set[int]] = {}
        for process, command, folder in self._own_processes():
            if command[-2:] == ["-m", "scoring"]:
                replicas.setdefault(Path(folder).parent.name, set()).add(process.pid)
        return replicas

    def _own_processes(self) -> Iterator[tuple[psutil.Process, list[str], str]]:
        """Processes whose arguments or current folder are in this run's folder, with their arguments and folder."""
        for process in psutil.process_iter(["cmdline", "cwd"]):
            command, folder = process.info["cmdline"] or [], process.info["cwd"] or ""
            if str(self.state) in " ".join(command) or folder.startswith(str(self.state)):
                yield process, command, folder
