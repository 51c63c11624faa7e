"""Resolves a deployment's request to the service to run, or refuses it because a part of it does not exist or fit.

Environments must name an image: none is built from a context. Models must be in a blob datastore of their workspace.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from sandbox.arm.store import Body
from sandbox.blob import find_account
from sandbox.caller_network import is_public
from sandbox.context import CloudError, Sandbox
from sandbox.machine_learning.scaling import Scale
from sandbox.machine_learning.workspace import cluster_network, fit_instance_type, kubernetes_compute
from sandbox.registry.images import find_image
from sandbox.resource_rules.private_endpoints import reaches

# No source: deploy a service on Azure that gets ready after an hour, and see when Azure ML gives up.
_MOST_STARTUP_SECONDS = 900.0
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-data.md ("URI": of a datastore)
_MODEL_URI = re.compile(
    r"azureml://(subscriptions/.+/workspaces/(?P<workspace>[^/]+)/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class DeploymentSpec:
    """All values that are needed to start a deployment, also after a restart of the sandbox."""

    image: str
    model: str | None
    """`<model>/<version>` below the deployment's `models` folder."""
    environment: dict[str, str]
    instances: int
    """Number of replicas at the start; with `scale`, the least number."""
    scoring_path: str
    liveness_path: str
    readiness_path: str
    container_port: int
    """Port on which the image listens. A replica on the host's network gets a free port instead."""
    cpu_limit: float
    memory_limit: int
    max_concurrent: int
    queue_wait: float
    request_timeout: float
    startup_seconds: float
    liveness_period: float
    liveness_failures: int
    probe_timeout: float
    cluster: str = ""
    """Id of the cluster that runs it."""
    scale: Scale | None = None
    """None: a fixed number of replicas."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/reference-yaml-deployment-kubernetes-online.md
# ("ProbeSettings")
class _Probe(_Model):
    initial_delay: timedelta = timedelta(seconds=10)
    period: timedelta = timedelta(seconds=10)
    timeout: timedelta = timedelta(seconds=2)
    failure_threshold: int = Field(30, ge=1)

    @property
    def budget(self) -> float:
        return (self.initial_delay + self.failure_threshold * self.period).total_seconds()


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/reference-yaml-deployment-kubernetes-online.md
# ("RequestSettings"); MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-quotas.md (300 s)
class _RequestSettings(_Model):
    max_concurrent_requests_per_instance: int = Field(1, ge=1)
    max_queue_wait: timedelta = timedelta(milliseconds=500)
    request_timeout: timedelta = Field(timedelta(seconds=5), le=timedelta(seconds=300))


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/reference-yaml-deployment-kubernetes-online.md
# ("TargetUtilizationScaleSettings")
class _ScaleSettings(_Model):
    scale_type: Literal["Default", "TargetUtilization"] = "Default"
    min_instances: int = Field(1, ge=1)
    max_instances: int = Field(1, ge=1)
    target_utilization_percentage: int = Field(70, ge=1, le=100)
    polling_interval: timedelta = Field(timedelta(seconds=1), gt=timedelta(0))

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_instances > self.max_instances:
            raise ValueError(f"minInstances {self.min_instances} is above maxInstances {self.max_instances}")
        return self

    def scale(self) -> Scale | None:
        if self.scale_type == "Default":
            return None
        return Scale(
            least=self.min_instances,
            most=self.max_instances,
            utilisation=self.target_utilization_percentage,
            polling_interval=self.polling_interval.total_seconds(),
        )


# Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (`KubernetesOnlineDeployment`)
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


def resolve(sandbox: Sandbox, compute_id: str | None, body: Body) -> tuple[DeploymentSpec, Path | None]:
    """The service to run, and the present path of its model. Raises `CloudError` if a part does not exist or fit."""
    try:
        settings = _Settings.model_validate(_without_nulls(body["properties"]))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        # No source: create a deployment with a wrong property on Azure, and read the code.
        raise CloudError(400, "BadArgument", f"Deployment property '{path}': {first['msg']}.") from error
    if settings.endpoint_compute_type != "Kubernetes" or settings.model_mount_path:
        raise CloudError(400, "BadArgument", "The sandbox needs endpointComputeType Kubernetes and no modelMountPath.")
    compute = kubernetes_compute(sandbox, compute_id)
    cpu, memory = fit_instance_type(sandbox, settings.instance_type, settings.container_resource_requirements)

    environment = _asset(sandbox, settings.environment_id, "Environment")["properties"]
    image = environment.get("image")
    if not image:
        message = f"Environment '{settings.environment_id}' names no image: the sandbox builds none from a context."
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
        # (`BadArgument`: unable to download the container image)
        raise CloudError(400, "BadArgument", message)
    find_image(sandbox, image)
    network = cluster_network(sandbox, compute)
    _require_pull(sandbox, network, image)
    routes = environment.get("inferenceConfig") or {}
    if not routes.get("scoringRoute"):
        message = f"Environment '{settings.environment_id}' has no inferenceConfig with the routes of its container."
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-custom-container.md ("Inference
        # config"); Azure/azure-sdk-for-python#35387 (the code; "Could not find driver program in the request")
        raise CloudError(400, "BadRequest", message)
    scoring = routes["scoringRoute"]
    liveness, readiness = (routes.get(f"{kind}Route") or scoring for kind in ("liveness", "readiness"))
    model, source = _model(sandbox, settings.model, network) if settings.model else (None, None)
    requests, scale = settings.request_settings, settings.scale_settings.scale()
    spec = DeploymentSpec(
        image=image,
        model=model,
        environment=settings.environment_variables,
        instances=scale.least if scale else (body.get("sku") or {}).get("capacity") or 1,
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
        cluster=str(compute["resourceId"]),
        scale=scale,
    )
    return spec, source


def _require_pull(sandbox: Sandbox, network: str | None, image: str) -> None:
    """Refuse an image that the cluster cannot pull from its own network.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-secure-kubernetes-inferencing-environment.md;
    MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md (ImagePullLoopBackOff)
    """
    name = image.removeprefix(f"{sandbox.authority}/").partition("/")[0].lower()
    for registry_id, body in sandbox.store.below("/subscriptions"):
        is_registry = body["type"].lower() == "microsoft.containerregistry/registries"
        matches = is_registry and body["name"].lower() == name
        if matches and not is_public(body) and not reaches(sandbox, network, registry_id, "registry"):
            message = (
                f"The cluster cannot pull '{image}': its network has no private endpoint to the registry '{name}'."
            )
            raise CloudError(400, "ImagePullLoopBackOff", message)


def _require_download(sandbox: Sandbox, network: str | None, account_name: str) -> None:
    """Refuse a model that the cluster cannot download from its own network.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-secure-kubernetes-inferencing-environment.md
    """
    account = find_account(sandbox.store, account_name)
    if account and not is_public(account[1]) and not reaches(sandbox, network, account[0], "blob"):
        message = f"The cluster cannot read '{account_name}': its network has no private endpoint to its blobs."
        # No source: the code of a download that storage's firewall refused; a deployment on Azure shows it.
        raise CloudError(400, "ModelDownloadFailed", message)


def _model(sandbox: Sandbox, version_id: str, network: str | None) -> tuple[str, Path]:
    """`<model>/<version>`, and the path of the version's folder or file in a blob datastore's container.

    Source: Azure/AML-Kubernetes docs/faq.md ("compute only support Azure blob container")
    """
    uri = _asset(sandbox, version_id, "Model")["properties"]["modelUri"]
    parts = version_id.rstrip("/").split("/")
    workspace_id, name, version = "/".join(parts[:-4]), parts[-3], parts[-1]
    match = _MODEL_URI.fullmatch(uri)
    if not match or (match["workspace"] or parts[-5]).lower() != parts[-5].lower():
        message = (
            f"Model '{name}:{version}': '{uri}' is not azureml://…/datastores/<name>/paths/<path> of its workspace."
        )
        # No source: register a model on Azure with such an address, and read the code.
        raise CloudError(400, "InvalidModelUri", message)
    datastore = _asset(sandbox, f"{workspace_id}/datastores/{match['datastore']}", "Datastore")["properties"]
    if datastore["datastoreType"] != "AzureBlob":
        message = f"Model '{name}:{version}' is in a datastore of type {datastore['datastoreType']}, not AzureBlob."
        # No source: deploy a model of a Gen2 datastore to Kubernetes on Azure, and read the code.
        raise CloudError(400, "UnsupportedDatastore", message)
    _require_download(sandbox, network, datastore["accountName"])
    container = sandbox.container_folder(datastore["accountName"], datastore["containerName"])
    source = (container / match["path"]).resolve()
    if not source.is_relative_to(container.resolve()) or not source.exists():
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
        # (`BadArgument`: unable to download the model)
        raise CloudError(400, "BadArgument", f"Model '{name}:{version}': '{uri}' does not exist.")
    return f"{name}/{version}", source


def _asset(sandbox: Sandbox, resource_id: str, kind: str) -> Body:
    resource = sandbox.store.get(resource_id)
    if resource is None:
        # No source: deploy with an environment that does not exist on Azure, and read status and code.
        raise CloudError(400, f"{kind}NotFound", f"{kind} '{resource_id}' does not exist.")
    return resource


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
