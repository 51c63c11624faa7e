"""Data source of the dashboard: outputs and state of one stack, its rows, and addresses of its replicas' metrics.

Nothing is cached: each view queries its data when it is opened, so a reload shows changes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import requests
from azure.core.exceptions import AzureError

from cli.azure_resource_manager import NotAnswered
from cli.errors import UserError
from cli.local_run.engine import STACK, Engine
from cli.paths import PROJECT
from cli.stacks import state
from infra.cloud import live_deployment
from infra.cloud.artefact import Artefact, ArtefactError
from infra.cloud.clients import AzureClients

EXPECTED_ERRORS = (UserError, ArtefactError, NotAnswered, AzureError, requests.RequestException, httpx.HTTPError)
"""Errors of queries if a service is down or a resource does not exist. The dashboard shows their messages."""
_MAX_CHARACTERS = 600


@dataclass(frozen=True)
class StackSource:
    stack: str
    outputs: Callable[[], dict[str, Any]]
    resources: Callable[[], list[state.Resource]]
    remedy: str
    """Advice to the user if the stack's cloud does not answer."""
    dataset: str | None = None
    """Name of the dataset; None if it is to be read from the stack's output `release`."""
    data: Path | None = None
    """Folder with the tables of users and items; None if no folder was given."""
    replicas: Callable[[], Sequence[str]] = tuple
    """Addresses of the replicas' Prometheus metrics that this machine can reach."""


def of_local_run(
    folder: Path, recorded: Mapping[str, Any], environment: Mapping[str, str], data: Path | None
) -> StackSource:
    """Return the source for the local run.

    folder: of the run. recorded: the run's record. environment: of its sandbox. data: other tables than the run's.
    """
    engine = Engine(folder, environment)
    rows = Path(recorded["data"])
    return StackSource(
        stack=STACK,
        outputs=engine.outputs,
        resources=lambda: state.resources(PROJECT, STACK, engine.environment),
        remedy="If the sandbox was stopped, `personalization dashboard` or `make local` restarts it.",
        dataset=recorded["dataset"],
        data=data or (rows if rows.is_dir() else rows.parent),
        replicas=lambda: discover_metrics(f"https://{environment['ARM_METADATA_HOSTNAME']}/sandbox/metrics"),
    )


def of_stack(folder: Path, stack: str, data: Path | None, metrics: Sequence[str]) -> StackSource:
    """Return the source for a stack of the project in `folder`, which is read with the current Pulumi login."""
    return StackSource(
        stack=stack,
        outputs=lambda: state.outputs(folder, stack),
        resources=lambda: state.resources(folder, stack),
        remedy="Check that you are logged in (`az login`) and that this machine can reach Azure.",
        data=data,
        replicas=lambda: metrics,
    )


def require_release(outputs: Mapping[str, Any]) -> None:
    """Raise `UserError` if the stack has no release."""
    if not outputs.get("deployment"):
        raise UserError(
            "this stack has no release: release:enabled is false, or its first `up` is still running or has failed"
        )


def machine_learning(outputs: Mapping[str, Any]) -> Any:
    """Return a client of the stack's Azure ML workspace. Raises one of `EXPECTED_ERRORS` if its cloud is down."""
    if not outputs.get("ml_workspace_id"):
        raise UserError("this stack has no Azure ML workspace yet: its first `up` is still running, or it failed")
    return AzureClients.discover().machine_learning(outputs["ml_workspace_id"])


def live_artefact(outputs: Mapping[str, Any]) -> Artefact:
    """Return the artefact of the live model, or of the last trained one if Azure ML has no record of the live model.

    Raises one of `EXPECTED_ERRORS`.
    """
    require_release(outputs)
    run = live_deployment.run_id(machine_learning(outputs), outputs["endpoint_name"]) or outputs["training_run_id"]
    return Artefact(outputs["lake_blob_endpoint"], "models", str(run))


def reason(error: Exception) -> str:
    """Return one of `EXPECTED_ERRORS` as a message for the user, without the nested texts of client libraries."""
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"{_address(error.request)} does not answer"
    if isinstance(error, httpx.TransportError):
        return (
            f"{error.request.url.scheme}://{error.request.url.netloc.decode()} does not answer ({type(error).__name__})"
        )
    message = str(getattr(error, "message", "") or error).strip() or type(error).__name__
    return message if len(message) <= _MAX_CHARACTERS else f"{message[:_MAX_CHARACTERS]}…"


def _address(request: Any) -> str:
    url = httpx.URL(str(request.url)) if request is not None and request.url else None
    return f"{url.scheme}://{url.netloc.decode()}" if url else "the cloud"


def discover_metrics(url: str) -> list[str]:
    """Return the metrics addresses in a document of Prometheus' HTTP service discovery; none if it is unavailable."""
    try:
        groups = json.loads(httpx.get(url, timeout=5).raise_for_status().text)
    except (httpx.HTTPError, ValueError):
        return []
    return [f"http://{target}/metrics" for group in groups for target in group["targets"]]
