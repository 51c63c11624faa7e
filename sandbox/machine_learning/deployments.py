"""Online deployments: what one names, resolved to a service; started, updated in place, deleted, found after a restart.

The model is copied beside the deployment, `models/<model>/<version>/<last part of its path>`, and `AZUREML_MODEL_DIR`
names `models/<model>/<version>`, as in Azure. An update starts the new replicas before the old ones stop; one that
does not get ready changes nothing. What runs is remembered in the deployment's own folder, not in the resource, so
that a failed update does not outlive a restart.
"""

import asyncio
import contextlib
import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.cloud import Behaviour, CloudError, Sandbox
from sandbox.machine_learning import endpoints
from sandbox.machine_learning.replicas import Deployment, NotReady, Service, container_label, tail
from sandbox.machine_learning.workspace import fit_instance_type, kubernetes_compute
from sandbox.registry import find_image
from sandbox.store import Body

DEPLOYMENT = f"{endpoints.ENDPOINT}/deployments"
_MOST_DEPLOYMENTS = 20
_MOST_STARTUP_SECONDS = 900.0
_MODEL_URI = re.compile(
    r"azureml://(subscriptions/.+/workspaces/(?P<workspace>[^/]+)/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+)",
    re.IGNORECASE,
)


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Probe(_Model):
    initial_delay: timedelta = timedelta(seconds=10)
    period: timedelta = timedelta(seconds=10)
    timeout: timedelta = timedelta(seconds=2)
    failure_threshold: int = Field(30, ge=1)

    @property
    def budget(self) -> float:
        return (self.initial_delay + self.failure_threshold * self.period).total_seconds()


class _RequestSettings(_Model):
    max_concurrent_requests_per_instance: int = Field(1, ge=1)
    max_queue_wait: timedelta = timedelta(milliseconds=500)
    request_timeout: timedelta = Field(timedelta(seconds=5), le=timedelta(seconds=300))


class _ScaleSettings(_Model):
    min_instances: int | None = Field(None, ge=1)


class _Settings(_Model):
    endpoint_compute_type: str
    environment_id: str = Field(min_length=1)
    model: str | None = None
    model_mount_path: str | None = None
    instance_type: str | None = None
    environment_variables: dict[str, str] = {}
    container_resource_requirements: dict[str, dict[str, str]] = {}
    liveness_probe: _Probe = _Probe()
    readiness_probe: _Probe = _Probe()
    request_settings: _RequestSettings = _RequestSettings()
    scale_settings: _ScaleSettings = _ScaleSettings()


def behaviours(sandbox: Sandbox) -> dict[str, Behaviour]:
    return {DEPLOYMENT: Behaviour(on_put=_put, on_delete=_delete, actions={"getlogs": _get_logs})}


async def resume(sandbox: Sandbox) -> None:
    """Bring every deployment back; it answers 503 until it is ready again."""
    if shutil.which("docker"):
        listing = ["docker", "ps", "--all", "--quiet", "--filter", f"label={container_label(sandbox)}"]
        left = await asyncio.to_thread(subprocess.run, listing, capture_output=True, text=True)
        if orphans := left.stdout.split():
            await asyncio.to_thread(subprocess.run, ["docker", "rm", "--force", *orphans], capture_output=True)
    resources = list(sandbox.store.below("/subscriptions"))
    for endpoint_id, body in resources:
        if body["type"].lower() == endpoints.ENDPOINT:
            endpoints.recall(sandbox, endpoint_id)
    for deployment_id, body in resources:
        if body["type"].lower() == DEPLOYMENT:
            with contextlib.suppress(CloudError, FileNotFoundError):
                endpoint, name, folder = _locate(sandbox, deployment_id)
                service = Service(**json.loads((folder / "service.json").read_text()))
                for stale in folder.glob("run-*"):
                    shutil.rmtree(stale)
                deployment = Deployment(sandbox, endpoints.fleet(sandbox).transport, service, folder, _generation())
                endpoint.deployments[name] = deployment
                deployment.guard()


async def _put(sandbox: Sandbox, deployment_id: str, body: Body) -> None:
    endpoint, name, folder = _locate(sandbox, deployment_id)
    shown = deployment_id.rpartition("/")[2]
    if not endpoints.NAME.fullmatch(shown) or not 6 <= len(endpoint.name + shown) <= 62:
        message = f"Deployment name '{shown}': 3 to 32 letters, digits and hyphens, 6 to 62 with its endpoint's name."
        raise CloudError(400, "BadArgument", message)
    if name not in endpoint.deployments and len(endpoint.deployments) >= _MOST_DEPLOYMENTS:
        raise CloudError(400, "BadArgument", f"An endpoint has at most {_MOST_DEPLOYMENTS} deployments.")
    body["properties"].setdefault("scaleSettings", {"scaleType": "Default"})  # azure-ai-ml reads it unasked
    service, model = _resolve(sandbox, endpoint, body)
    old = endpoint.deployments.get(name)
    if old is not None and old.service == service:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        await asyncio.to_thread(_copy_model, model, folder / "models" / str(service.model) / model.name)
    new = Deployment(sandbox, endpoints.fleet(sandbox).transport, service, folder, _generation())
    try:
        await new.start()
    except NotReady as error:
        message = f"Deployment '{shown}' did not get ready: {error}. Its last log lines:\n{new.tail(20)}"
        raise CloudError(400, "ResourceNotReady", message) from error
    (folder / "service.json").write_text(json.dumps(asdict(service)))
    endpoint.deployments[name] = new
    if old is not None:
        await old.stop(drain=True)


async def _delete(sandbox: Sandbox, deployment_id: str, body: Body) -> None:
    try:
        endpoint, name, folder = _locate(sandbox, deployment_id)
    except CloudError:
        return
    share = {deployment.lower(): part for deployment, part in endpoint.traffic.items()}.get(name, 0)
    if share and not _goes_with_parent(sandbox, deployment_id):
        message = f"Deployment '{name}' still gets {share} % of the endpoint's traffic. Set its traffic to 0 first."
        raise CloudError(400, "BadArgument", message)
    if deployment := endpoint.deployments.pop(name, None):
        await deployment.stop(drain=True)
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _get_logs(sandbox: Sandbox, deployment_id: str, request: Request) -> Response:
    _, _, folder = _locate(sandbox, deployment_id)
    asked = await request.json()
    if str(asked.get("containerType")).lower() == "storageinitializer":
        models = sorted(path.relative_to(folder).as_posix() for path in folder.glob("models/*/*/*"))
        return JSONResponse({"content": "\n".join(f"Copied {model}" for model in models)})
    return JSONResponse({"content": tail(folder / "console.log", int(asked.get("tail") or 500))})


def _resolve(sandbox: Sandbox, endpoint: endpoints.Endpoint, body: Body) -> tuple[Service, Path | None]:
    """What to run, and where its model lies now; `CloudError` if anything it names does not exist or fit."""
    try:
        settings = _Settings.model_validate(_without_nulls(body["properties"]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CloudError(400, "BadArgument", f"Deployment property '{where}': {first['msg']}.") from error
    if settings.endpoint_compute_type != "Kubernetes" or settings.model_mount_path:
        raise CloudError(400, "BadArgument", "The sandbox needs endpointComputeType Kubernetes and no modelMountPath.")
    endpoint_body = sandbox.store.get(endpoint.resource_id) or {"properties": {}}
    compute = kubernetes_compute(sandbox, endpoint_body["properties"].get("compute"))
    cpu, memory = fit_instance_type(compute, settings.instance_type, settings.container_resource_requirements)

    environment = _asset(sandbox, settings.environment_id, "Environment")["properties"]
    image = environment.get("image")
    if not image:
        message = f"Environment '{settings.environment_id}' names no image: the sandbox builds none from a context."
        raise CloudError(400, "ImageNotFound", message)
    find_image(sandbox, image)
    routes = environment.get("inferenceConfig") or {}
    if not routes.get("scoringRoute"):
        message = f"Environment '{settings.environment_id}' has no inferenceConfig with the routes of its container."
        raise CloudError(400, "BadArgument", message)
    scoring = routes["scoringRoute"]
    liveness, readiness = (routes.get(f"{kind}Route") or scoring for kind in ("liveness", "readiness"))
    model, source = _model(sandbox, settings.model) if settings.model else (None, None)
    requests, instances = settings.request_settings, (body.get("sku") or {}).get("capacity") or 1
    service = Service(
        image=image,
        model=model,
        environment=settings.environment_variables,
        instances=settings.scale_settings.min_instances or instances,
        scoring_path=scoring["path"],
        liveness_path=liveness["path"],
        readiness_path=readiness["path"],
        container_port=int(scoring["port"]),
        cpu_limit=cpu,
        memory_limit=memory,
        max_concurrent=requests.max_concurrent_requests_per_instance,
        queue_wait=requests.max_queue_wait.total_seconds(),
        request_timeout=requests.request_timeout.total_seconds(),
        startup_seconds=min(settings.readiness_probe.budget, _MOST_STARTUP_SECONDS),
        liveness_period=settings.liveness_probe.period.total_seconds(),
        liveness_failures=settings.liveness_probe.failure_threshold,
        probe_timeout=settings.readiness_probe.timeout.total_seconds(),
    )
    return service, source


def _model(sandbox: Sandbox, version_id: str) -> tuple[str, Path]:
    """`<model>/<version>` and the folder or file that the version's URI names in a datastore's container."""
    uri = _asset(sandbox, version_id, "Model")["properties"]["modelUri"]
    parts = version_id.rstrip("/").split("/")
    workspace_id, name, version = "/".join(parts[:-4]), parts[-3], parts[-1]
    match = _MODEL_URI.fullmatch(uri)
    if not match or (match["workspace"] or parts[-5]).lower() != parts[-5].lower():
        message = (
            f"Model '{name}:{version}': '{uri}' is no azureml://…/datastores/<name>/paths/<path> of its workspace."
        )
        raise CloudError(400, "InvalidModelUri", message)
    datastore = _asset(sandbox, f"{workspace_id}/datastores/{match['datastore']}", "Datastore")["properties"]
    container = sandbox.container_folder(
        datastore["accountName"], datastore.get("filesystem") or datastore["containerName"]
    )
    source = (container / match["path"]).resolve()
    if not source.is_relative_to(container.resolve()) or not source.exists():
        raise CloudError(400, "ModelNotFound", f"Model '{name}:{version}': there is nothing at '{uri}'.")
    return f"{name}/{version}", source


def _copy_model(source: Path, target: Path) -> None:
    """A version never changes, so what was copied once stays; a copy counts only when it is whole."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, partial)
    else:
        shutil.copy2(source, partial)
    partial.rename(target)


def _asset(sandbox: Sandbox, resource_id: str, kind: str) -> Body:
    resource = sandbox.store.get(resource_id)
    if resource is None:
        raise CloudError(400, f"{kind}NotFound", f"{kind} '{resource_id}' does not exist.")
    return resource


def _locate(sandbox: Sandbox, deployment_id: str) -> tuple[endpoints.Endpoint, str, Path]:
    endpoint_id, _, name = deployment_id.rpartition("/deployments/")
    endpoint = endpoints.find(sandbox, endpoint_id)
    return endpoint, name.lower(), endpoint.folder / name.lower()


def _goes_with_parent(sandbox: Sandbox, deployment_id: str) -> bool:
    """Whether its endpoint, workspace or resource group is what is being deleted."""
    parts = deployment_id.split("/")
    above = (sandbox.store.get("/".join(parts[:end])) for end in range(5, len(parts), 2))
    return any(body["properties"].get("provisioningState") == "Deleting" for body in above if body)


def _generation() -> str:
    return f"run-{secrets.token_hex(3)}"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
