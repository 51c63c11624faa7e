"""The stack that a page is about: its outputs, its state, and where its rows and its replicas' metrics are.

Everything is asked when a view is opened, never kept: what has changed since is seen with the next look.
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
from cli.local_run.engine import PROJECT, STACK, Engine
from cli.stacks import state
from infra.cloud import live_deployment
from infra.cloud.artefact import Artefact, ArtefactError
from infra.cloud.clients import AzureClients

UNANSWERED = (UserError, ArtefactError, NotAnswered, AzureError, requests.RequestException, httpx.HTTPError)
"""What a question ends with where something is down, or not there: told on the page, in these errors' own words."""
_MOST_WORDS = 600


@dataclass(frozen=True)
class Subject:
    stack: str
    outputs: Callable[[], dict[str, Any]]
    resources: Callable[[], list[state.Resource]]
    remedy: str
    """What to do where its cloud does not answer."""
    dataset: str | None = None
    """None: the release's own outputs name it."""
    data: Path | None = None
    """Folder with the tables of users and items; None where whoever opened the page has named none."""
    replicas: Callable[[], Sequence[str]] = tuple
    """Addresses of the replicas' Prometheus metrics, as far as they can be reached from here."""


def of_local_run(
    folder: Path, recorded: Mapping[str, Any], environment: Mapping[str, str], data: Path | None
) -> Subject:
    """`recorded`: what the run wrote down; `environment`: of its sandbox."""
    engine = Engine(folder, environment)
    rows = Path(recorded["data"])
    return Subject(
        stack=STACK,
        outputs=lambda: state.outputs(PROJECT, STACK, engine.environment),
        resources=lambda: state.resources(PROJECT, STACK, engine.environment),
        remedy="If the sandbox was stopped, `personalization open` or `make local` starts it again with all it holds.",
        dataset=recorded["dataset"],
        data=data or (rows if rows.is_dir() else rows.parent),
        replicas=lambda: discovered(f"https://{environment['ARM_METADATA_HOSTNAME']}/sandbox/metrics"),
    )


def of_stack(folder: Path, stack: str, data: Path | None, metrics: Sequence[str]) -> Subject:
    """A stack of the project in `folder`, by Pulumi's own login."""
    return Subject(
        stack=stack,
        outputs=lambda: state.outputs(folder, stack),
        resources=lambda: state.resources(folder, stack),
        remedy="See that you are logged in (`az login`) and that this machine reaches it.",
        data=data,
        replicas=lambda: metrics,
    )


def require_release(outputs: Mapping[str, Any]) -> None:
    if not outputs.get("deployment"):
        raise UserError(
            "no release stands in this stack: release:enabled is false, its first `up` is still at work, or it failed"
        )


def machine_learning(outputs: Mapping[str, Any]) -> Any:
    """A client of the stack's Azure ML workspace. Raises one of `UNANSWERED` at once where its cloud is not there."""
    if not outputs.get("ml_workspace_id"):
        raise UserError("this stack has no Azure ML workspace yet: its first `up` is still at work, or it failed")
    return AzureClients.discover().machine_learning(outputs["ml_workspace_id"])


def serving_artefact(outputs: Mapping[str, Any]) -> Artefact:
    """Of the model that serves now, or of the last one trained where Azure ML tells of none. Raises one of
    `UNANSWERED`."""
    require_release(outputs)
    run = live_deployment.run_id(machine_learning(outputs), outputs["endpoint_name"]) or outputs["training_run_id"]
    return Artefact(outputs["lake_blob_endpoint"], "models", str(run))


def reason(error: Exception) -> str:
    """One of `UNANSWERED` to a person: what did not answer, without the layers of a library's message."""
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"{_address(error.request)} does not answer"
    if isinstance(error, httpx.TransportError):
        return (
            f"{error.request.url.scheme}://{error.request.url.netloc.decode()} does not answer ({type(error).__name__})"
        )
    said = str(getattr(error, "message", "") or error).strip() or type(error).__name__
    return said if len(said) <= _MOST_WORDS else f"{said[:_MOST_WORDS]}…"


def _address(request: Any) -> str:
    url = httpx.URL(str(request.url)) if request is not None and request.url else None
    return f"{url.scheme}://{url.netloc.decode()}" if url else "the cloud"


def discovered(url: str) -> list[str]:
    """From a document of Prometheus' HTTP service discovery; none where that is not answered."""
    try:
        groups = json.loads(httpx.get(url, timeout=5).raise_for_status().text)
    except (httpx.HTTPError, ValueError):
        return []
    return [f"http://{target}/metrics" for group in groups for target in group["targets"]]
