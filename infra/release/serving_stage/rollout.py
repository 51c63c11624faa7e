"""The rollout: a new deployment at 0 %, checked there, then traffic in steps, with a check at each step.

A failed check returns all traffic to the deployment that had it, and `up` fails with the figures. The failed deployment
stays at 0 % for diagnosis until the next rollout begins; there is never more than one. The previous deployment also
stays warm at 0 %; older ones are deleted. `create` and `update` do the same and may run again, because a deployment's
name is the digest of its model version, environment and engine. Does not train or register: it receives the number of a
model version. Does not define the checks: `probe.py` does.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, TypedDict

import pulumi
import requests

from infra.cloud import azure_cli
from infra.cloud.artefact import Artefact
from infra.cloud.clients import AzureClients
from infra.cloud.live_deployment import endpoint_key
from infra.dynamic.inputs import InputField, Inputs, Outputs, not_compared, replaces, updates
from infra.dynamic.provider import INCARNATION, Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.release.serving_stage.deployment import Scale, observed

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import KubernetesOnlineDeployment

    from infra.release.checks.probe import Probe

# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/machinelearningservices/online_endpoint.py
_API_VERSION = "2025-12-01"
_TRAFFIC_SECONDS = 600
ALL_TRAFFIC = 100


class RolloutFailed(Exception):
    """The new deployment failed a check; the traffic is as it was before the rollout."""


class DeploymentInputs(Inputs):
    """Inputs that name a deployment."""

    model_name: InputField[str] = updates()
    model_version: InputField[str] = updates()
    environment: InputField[str] = updates()
    """`<name>:<version>`"""
    engine: InputField[str] = updates()


class RolloutInputs(DeploymentInputs):
    workspace_id: InputField[str] = replaces()
    workspace_uid: InputField[str] = replaces()
    endpoint_name: InputField[str] = replaces()
    endpoint_revision: InputField[str] = updates()
    instance_type: InputField[str] = updates()
    scale: InputField[Scale] = updates()
    rollout: InputField[Sequence[float]] = not_compared()
    """Traffic steps in percent."""
    limits: InputField[Mapping[str, float]] = not_compared()
    """The fields of `probe.Limits`."""
    blob_endpoint: InputField[str] = updates()
    models_container: InputField[str] = not_compared()
    share: InputField[int] = updates()
    """Always 100. A refresh reads the actual percentage, so the next `up` repeats the rollout if it differs."""


class RolloutOutputs(Outputs):
    deployment: str
    previous: str | None
    checks: list[dict[str, object]]
    """Measurements at each share of traffic: `share` and the fields of `probe.ProbeResult`."""
    scoring_uri: str


class _RolloutProvider(ReleaseProvider[RolloutInputs, RolloutOutputs]):
    def create_object(self, inputs: RolloutInputs) -> Creation[RolloutOutputs]:
        return Creation(inputs.endpoint_name, _roll_out(inputs, None))

    def read_object(self, state: ResourceState[RolloutInputs, RolloutOutputs]) -> RolloutInputs | None:
        """Read the deployment; `share` is its percent of the traffic, 0 if it does not exist."""
        from azure.core.exceptions import ResourceNotFoundError

        inputs, endpoint, name = state.inputs, state.id, state.outputs.deployment
        client = AzureClients.discover().machine_learning(inputs.workspace_id)
        try:
            traffic = client.online_endpoints.get(endpoint).traffic or {}
            deployments = {each.name: each for each in client.online_deployments.list(endpoint)}
        except ResourceNotFoundError:
            return None
        if name not in deployments:
            return replace(inputs, share=0)
        return replace(inputs, **observed(deployments[name], inputs.scale)._asdict(), share=traffic.get(name, 0))

    def update_object(
        self, state: ResourceState[RolloutInputs, RolloutOutputs], inputs: RolloutInputs
    ) -> RolloutOutputs:
        return _roll_out(inputs, state.outputs)

    def claim(self, inputs: RolloutInputs) -> None:
        """Tag the live deployment as the last step: until then it belongs to the old resource."""
        client = AzureClients.discover().machine_learning(inputs.workspace_id)
        name = deployment_name(inputs)
        if _incarnation(client.online_deployments.get(name, inputs.endpoint_name)) != inputs.incarnation:
            model = client.models.get(inputs.model_name, inputs.model_version)
            client.online_deployments.begin_create_or_update(
                _deployment(inputs, name, model.tags, incarnation=inputs.incarnation)
            ).result()

    def delete_object(self, state: ResourceState[RolloutInputs, RolloutOutputs]) -> None:
        """Delete the deployments, but not one that a replacement of this resource has adopted, nor its traffic."""
        from azure.core.exceptions import ResourceNotFoundError

        cloud, inputs, endpoint = AzureClients.discover(), state.inputs, state.inputs.endpoint_name
        client = cloud.machine_learning(inputs.workspace_id)
        try:
            traffic = client.online_endpoints.get(endpoint).traffic or {}
            deployments = list(client.online_deployments.list(endpoint))
            own = {each.name for each in deployments if _incarnation(each) in (None, inputs.incarnation)}
            if not any(share for name, share in traffic.items() if name not in own):
                _set_traffic(cloud, inputs, {})
            _delete(client, endpoint, own)
        except ResourceNotFoundError:
            return


def deployment_name(inputs: DeploymentInputs) -> str:
    """`m<model version>-<digest of model, environment and engine>`: letters, digits, hyphens, 3-32 characters."""
    content = {key: getattr(inputs, key) for key in ("model_name", "model_version", "environment", "engine")}
    return f"m{inputs.model_version}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]}"


def _incarnation(deployment: "KubernetesOnlineDeployment") -> str | None:
    return (deployment.tags or {}).get(INCARNATION)


def _roll_out(inputs: RolloutInputs, earlier: RolloutOutputs | None) -> RolloutOutputs:
    """Roll the model out. `earlier`: outputs of the rollout before, if there was one."""
    cloud = AzureClients.discover()
    client = cloud.machine_learning(inputs.workspace_id)
    endpoint, name = inputs.endpoint_name, deployment_name(inputs)
    deployments = {deployment.name: deployment for deployment in client.online_deployments.list(endpoint)}
    recorded, warm_previous = (
        each if each in deployments else None
        for each in ((earlier.deployment, earlier.previous) if earlier else (None, None))
    )
    before = {key: share for key, share in (client.online_endpoints.get(endpoint).traffic or {}).items() if share}
    if recorded and not before:  # a write of the endpoint removed its traffic
        before = {recorded: 100}
        _set_traffic(cloud, inputs, before)
    live = max((key for key in before if key != name), key=lambda key: before[key], default=None)
    retained = deployments.keys() & {name, *before, recorded, warm_previous}
    _delete(client, endpoint, deployments.keys() - retained)

    # A deployment that is still warm has passed the steps before: only its golden rows are checked again.
    warm = name in (recorded, warm_previous)
    shares = _steps(inputs.rollout) if live and not warm else [100]
    checks, share = [], 0
    model = client.models.get(inputs.model_name, inputs.model_version)
    try:
        # An existing deployment keeps its owner: a rollout that replaces another adopts it at its end (`claim`).
        incarnation = _incarnation(deployments[name]) if name in deployments else inputs.incarnation
        client.online_deployments.begin_create_or_update(
            _deployment(inputs, name, model.tags, incarnation=incarnation)
        ).result()
        scoring_uri = client.online_endpoints.get(endpoint).scoring_uri
        with _probe(client, inputs, model.path, scoring_uri) as probe:
            for share in (0, *shares):
                if share:
                    _set_traffic(cloud, inputs, {name: share, live: 100 - share} if live else {name: share})
                result = probe.check(name, live, takes_all=share == 100, measured=share > 0 or not warm)
                checks.append({"share": share, **asdict(result)})
    except Exception as error:
        logs = azure_cli.deployment_logs(inputs.workspace_id, endpoint, name)
        message = f"deployment {name} of {endpoint} did not pass at {share} %: {error}"
        _return_traffic(cloud, inputs, {live: 100} if live else before, message)
        traffic = f"{live} has all traffic" if live else "The traffic is as before"
        raise RolloutFailed(
            f"{message}\n{traffic}. {name} keeps running without traffic until the next rollout; its log:\n{logs}"
        ) from error

    previous = live or (warm_previous if name == recorded else None)
    _delete(client, endpoint, retained - {name, previous})
    return RolloutOutputs(deployment=name, previous=previous, checks=checks, scoring_uri=scoring_uri)


def _delete(client: "MLClient", endpoint: str, names: set[str]) -> None:
    for name in names:
        client.online_deployments.begin_delete(name, endpoint).result()


def _return_traffic(cloud: AzureClients, inputs: RolloutInputs, traffic: dict[str, int], message: str) -> None:
    try:
        _set_traffic(cloud, inputs, traffic)
    except Exception as error:
        raise RolloutFailed(f"{message}\nTraffic could not be returned to {traffic} either: {error}") from error


def _steps(steps: Sequence[float]) -> list[int]:
    return [int(step) for step in steps]  # numbers come back from state as floats


def _deployment(
    inputs: RolloutInputs, name: str, model_tags: Mapping[str, str], *, incarnation: str | None = None
) -> "KubernetesOnlineDeployment":
    """The deployment as an entity of Azure ML's SDK. `model_tags`: tags of its model version."""
    from azure.ai.ml.entities import (
        KubernetesOnlineDeployment,
        OnlineRequestSettings,
        ProbeSettings,
        ResourceRequirementsSettings,
        ResourceSettings,
        TargetUtilizationScaleSettings,
    )

    tags: dict[str, str] = {
        key: model_tags[key] for key in ("dataset", "snapshot", "code", "run_id") if key in model_tags
    }
    tags |= {"model_version": inputs.model_version, "engine": inputs.engine}
    tags |= {"image": inputs.environment.rpartition(":")[2]}  # a version is named by the digest
    if incarnation:
        tags |= {INCARNATION: incarnation}
    scale = inputs.scale
    size = ResourceSettings(cpu=scale["cpu"], memory=scale["memory"])
    # A model and a JVM take seconds to load; a probe that gives up earlier would restart the container again and again.
    probe = {"failure_threshold": 30, "success_threshold": 1, "timeout": 2, "period": 10, "initial_delay": 1}
    return KubernetesOnlineDeployment(
        name=name,
        endpoint_name=inputs.endpoint_name,
        model=f"azureml:{inputs.model_name}:{inputs.model_version}",
        environment=f"azureml:{inputs.environment}",
        instance_type=inputs.instance_type,
        instance_count=int(scale["min"]),
        resources=ResourceRequirementsSettings(requests=size, limits=size),
        # The inference router scales the replicas. A HorizontalPodAutoscaler next to it would work against it.
        scale_settings=TargetUtilizationScaleSettings(
            min_instances=int(scale["min"]),
            max_instances=int(scale["max"]),
            target_utilization_percentage=int(scale["utilisation"]),
            polling_interval=10,
        ),
        request_settings=OnlineRequestSettings(
            request_timeout_ms=5000,
            max_concurrent_requests_per_instance=int(scale["concurrency"]),
            max_queue_wait_ms=500,
        ),
        liveness_probe=ProbeSettings(**probe),
        readiness_probe=ProbeSettings(**probe),
        environment_variables={
            "SCORING_ENGINE": inputs.engine,
            "MODEL_NAME": inputs.model_name,
            "MODEL_VERSION": inputs.model_version,
            **({"SCORING_SPARK_MEMORY": scale["heap"]} if scale.get("heap") else {}),
        },
        tags=tags,
    )


class _EndpointProperties(TypedDict, total=False):
    traffic: dict[str, int] | None
    provisioningState: str


class _Endpoint(TypedDict):
    """The part of the endpoint's resource that a rollout reads and writes."""

    properties: _EndpointProperties


def _set_traffic(cloud: AzureClients, inputs: RolloutInputs, traffic: dict[str, int]) -> None:
    """Write the endpoint back as Azure reports it, with other traffic.

    Does not use the SDK's entity, which knows only part of the resource: its PUT would drop the rest.
    """
    resource_id = f"{inputs.workspace_id}/onlineEndpoints/{inputs.endpoint_name}"
    url = f"{cloud.resource_manager}{resource_id}?api-version={_API_VERSION}"
    headers = {"Authorization": f"Bearer {cloud.credential().get_token(cloud.scope).token}"}

    def call(method: str, body: _Endpoint | None = None) -> _Endpoint:
        answer = requests.request(method, url, json=body, headers=headers, timeout=60)
        if not answer.ok:
            raise RolloutFailed(f"{method} of {inputs.endpoint_name}: HTTP {answer.status_code} {answer.text}")
        return answer.json()

    endpoint = call("GET")
    if (endpoint["properties"].get("traffic") or {}) == traffic:
        return
    call("PUT", {**endpoint, "properties": {**endpoint["properties"], "traffic": traffic}})
    deadline = time.monotonic() + _TRAFFIC_SECONDS
    while (state := call("GET")["properties"].get("provisioningState")) != "Succeeded":
        if state in ("Failed", "Canceled") or time.monotonic() > deadline:
            raise RolloutFailed(f"traffic of {inputs.endpoint_name} could not be set to {traffic}: {state}")
        time.sleep(0.2)


def _probe(client: "MLClient", inputs: RolloutInputs, model_path: str, scoring_uri: str) -> "Probe":
    """Create the probe with the golden rows of this model version."""
    from infra.release.checks.probe import Limits, Probe

    artefact = Artefact(inputs.blob_endpoint, inputs.models_container, model_path.rstrip("/").rpartition("/")[2])
    golden = [json.loads(line) for line in artefact.text("golden.jsonl").splitlines()]
    key = endpoint_key(client, inputs.endpoint_name)
    return Probe(scoring_uri, key, f"{inputs.model_name}:{inputs.model_version}", golden, Limits(**inputs.limits))


class Rollout(DynamicResource[RolloutInputs], module="machinelearning", name="Rollout", provider=_RolloutProvider):
    deployment: pulumi.Output[str]
    if TYPE_CHECKING:  # at run time Pulumi's SDK converts outputs by their annotation, and knows no `object`
        checks: pulumi.Output[list[dict[str, object]]]
    scoring_uri: pulumi.Output[str]
