"""Online deployments: start, update in place, deletion, and restart with the sandbox.

The model is copied to `models/<model>/<version>/<last part of its path>` in the deployment's folder, and
`AZUREML_MODEL_DIR` is `models/<model>/<version>`, as in Azure. An update starts the new replicas before the old ones
stop; if they do not get ready, the old ones continue. The running service is stored in the deployment's folder, not in
the resource, so a restart does not start a failed update.
"""

import asyncio
import contextlib
import json
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox import state_files
from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Sandbox
from sandbox.machine_learning import endpoints
from sandbox.machine_learning.deployment_spec import DeploymentSpec, resolve
from sandbox.machine_learning.replicas import Deployment, NotReady, container_label, tail
from sandbox.registry.containers import engine_of
from sandbox.state_files import Unreadable

DEPLOYMENT = f"{endpoints.ENDPOINT}/deployments"
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-quotas.md
_MOST_DEPLOYMENTS = 20
_SPEC = TypeAdapter(DeploymentSpec)


def behaviours() -> dict[str, Behaviour]:
    return {DEPLOYMENT: Behaviour(on_put=_put, on_delete=_delete, actions={"getlogs": _get_logs})}


async def resume(sandbox: Sandbox) -> None:
    """Restart every deployment. It answers 503 until it is ready again.

    Raises `Unreadable` for the first unreadable file, after all other deployments were restarted.
    """
    resources = list(sandbox.store.below("/subscriptions"))
    unreadable: list[Unreadable] = []
    for endpoint_id, body in resources:
        if body["type"].lower() == endpoints.ENDPOINT:
            try:
                endpoints.recall(sandbox, endpoint_id)
            except Unreadable as error:
                unreadable.append(error)
    if engine := engine_of(sandbox.folder):
        await engine.remove_labelled(container_label(sandbox))
    for deployment_id, body in resources:
        if body["type"].lower() == DEPLOYMENT:
            with contextlib.suppress(CloudError, FileNotFoundError):
                endpoint, name, folder = _locate(sandbox, deployment_id)
                try:
                    spec = _SPEC.validate_json((folder / "service.json").read_bytes())
                except ValidationError as error:
                    unreadable.append(Unreadable(folder / "service.json", f"{error.error_count()} errors in it"))
                    continue
                for stale in folder.glob("run-*"):
                    shutil.rmtree(stale)
                deployment = Deployment(sandbox, endpoints.fleet(sandbox).transport, spec, folder, _generation())
                endpoint.deployments[name] = deployment
                deployment.guard()
    if unreadable:
        raise unreadable[0]


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-safely-rollout-online-endpoints.md;
# azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py
# (`OnlineDeploymentProperties.scale_settings`)
async def _put(sandbox: Sandbox, deployment_id: str, body: Body) -> None:
    endpoint, name, folder = _locate(sandbox, deployment_id)
    shown = deployment_id.rpartition("/")[2]
    if not endpoints.NAME.fullmatch(shown) or not 6 <= len(endpoint.name + shown) <= 62:
        message = f"Deployment name '{shown}': 3 to 32 letters, digits and hyphens, 6 to 62 with its endpoint's name."
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-quotas.md (the limits)
        # No source: create a deployment with such a name on Azure, and read the code.
        raise CloudError(400, "BadArgument", message)
    if name not in endpoint.deployments and len(endpoint.deployments) >= _MOST_DEPLOYMENTS:
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-quotas.md (the limit)
        # No source: create one deployment too many on Azure, and read the code.
        raise CloudError(400, "BadArgument", f"An endpoint has at most {_MOST_DEPLOYMENTS} deployments.")
    body["properties"].setdefault("scaleSettings", {"scaleType": "Default"})  # azure-ai-ml expects it
    spec, model = resolve(sandbox, endpoint.compute, body)
    old = endpoint.deployments.get(name)
    if old is not None and old.spec == spec:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        await asyncio.to_thread(_copy_model, model, folder / "models" / str(spec.model) / model.name)
    new = Deployment(sandbox, endpoints.fleet(sandbox).transport, spec, folder, _generation())
    try:
        await new.start()
    except NotReady as error:
        message = f"Deployment '{shown}' did not get ready: {error}. Its last log lines:\n{new.tail(20)}"
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
        # (`ResourceNotReady`)
        raise CloudError(400, "ResourceNotReady", message) from error
    state_files.write(folder / "service.json", json.dumps(asdict(spec)))
    endpoint.deployments[name] = new
    if old is not None:
        await old.stop(drain=True)


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-safely-rollout-online-endpoints.md
async def _delete(sandbox: Sandbox, deployment_id: str, body: Body) -> None:
    try:
        endpoint, name, folder = _locate(sandbox, deployment_id)
    except CloudError:
        return
    share = {deployment.lower(): part for deployment, part in endpoint.traffic.items()}.get(name, 0)
    if share and not _goes_with_parent(sandbox, deployment_id):
        message = f"Deployment '{name}' still gets {share} % of the endpoint's traffic. Set its traffic to 0 first."
        # No source: delete a deployment with traffic on Azure, and read the code.
        raise CloudError(400, "BadArgument", message)
    if deployment := endpoint.deployments.pop(name, None):
        await deployment.stop(drain=True)
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


# Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (`DeploymentLogsRequest`,
# `ContainerType`)
async def _get_logs(sandbox: Sandbox, deployment_id: str, request: Request) -> Response:
    _, _, folder = _locate(sandbox, deployment_id)
    asked = await request.json()
    if str(asked.get("containerType")).lower() == "storageinitializer":
        models = sorted(path.relative_to(folder).as_posix() for path in folder.glob("models/*/*/*"))
        return JSONResponse({"content": "\n".join(f"Copied {model}" for model in models)})
    return JSONResponse({"content": tail(folder / "console.log", int(asked.get("tail") or 500))})


def _copy_model(source: Path, target: Path) -> None:
    """Copy a model's version, which never changes, once. The copy is renamed at the end, so it is complete."""
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


def _locate(sandbox: Sandbox, deployment_id: str) -> tuple[endpoints.Endpoint, str, Path]:
    endpoint_id, _, name = deployment_id.rpartition("/deployments/")
    endpoint = endpoints.find(sandbox, endpoint_id)
    return endpoint, name.lower(), endpoint.folder / name.lower()


def _goes_with_parent(sandbox: Sandbox, deployment_id: str) -> bool:
    """Whether its endpoint, workspace or resource group is being deleted."""
    parts = deployment_id.split("/")
    above = (sandbox.store.get("/".join(parts[:end])) for end in range(5, len(parts), 2))
    return any(body["properties"].get("provisioningState") == "Deleting" for body in above if body)


def _generation() -> str:
    return f"run-{secrets.token_hex(3)}"
