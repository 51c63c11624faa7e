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
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pulumi
import requests
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud import azure_cli
from infra.cloud.artefact import Artefact
from infra.cloud.clients import AzureClients
from infra.cloud.live_deployment import endpoint_key
from infra.dynamic.provider import INCARNATION, ReleaseProvider, gone
from infra.release.serving_stage.deployment import observed

if TYPE_CHECKING:
    from infra.release.checks.probe import Probe

# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/machinelearningservices/online_endpoint.py
_API_VERSION = "2025-12-01"
_TRAFFIC_SECONDS = 600


class RolloutFailed(Exception):
    """The new deployment failed a check; the live one has all traffic again."""


class _RolloutProvider(ReleaseProvider):
    identity = ("workspace_id", "workspace_uid", "endpoint_name")
    inputs = (
        *("model_name", "model_version", "environment", "engine", "instance_type", "scale", "blob_endpoint"),
        *("endpoint_revision", "share"),
    )
    optional = ("rollout", "limits", "models_container")

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["endpoint_name"], {**props, **_roll_out(props, {})})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Read the deployment; `share` is its percent of the traffic, 0 if it does not exist."""
        from azure.core.exceptions import ResourceNotFoundError

        client = AzureClients.discover().machine_learning(props["workspace_id"])
        endpoint, name = id_, props["deployment"]
        try:
            traffic = client.online_endpoints.get(endpoint).traffic or {}
            deployments = {each.name: each for each in client.online_deployments.list(endpoint)}
        except ResourceNotFoundError:
            return gone()
        if name not in deployments:
            return ReadResult(id_, {**props, "share": 0})
        return ReadResult(id_, {**props, **observed(deployments[name], props), "share": traffic.get(name, 0)})

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({**news, **_roll_out(news, olds)})

    def claim(self, props: dict[str, Any]) -> None:
        """Tag the live deployment as the last step: until then it belongs to the old resource."""
        client = AzureClients.discover().machine_learning(props["workspace_id"])
        endpoint, name = props["endpoint_name"], deployment_name(props)
        if _incarnation(client.online_deployments.get(name, endpoint)) != props[INCARNATION]:
            model = client.models.get(props["model_name"], str(props["model_version"]))
            client.online_deployments.begin_create_or_update(
                _deployment(props, name, model.tags, incarnation=props[INCARNATION])
            ).result()

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Delete the deployments, but not one that a replacement of this resource has adopted, nor its traffic."""
        from azure.core.exceptions import ResourceNotFoundError

        cloud, endpoint = AzureClients.discover(), props["endpoint_name"]
        client = cloud.machine_learning(props["workspace_id"])
        try:
            traffic = client.online_endpoints.get(endpoint).traffic or {}
            deployments = list(client.online_deployments.list(endpoint))
            own = {each.name for each in deployments if _incarnation(each) in (None, props.get(INCARNATION))}
            if not any(share for name, share in traffic.items() if name not in own):
                _set_traffic(cloud, props, {})
            _delete(client, endpoint, own)
        except ResourceNotFoundError:
            return


def deployment_name(props: dict[str, Any]) -> str:
    """`m<model version>-<digest of model, environment and engine>`: letters, digits, hyphens, 3-32 characters."""
    content = {key: props[key] for key in ("model_name", "model_version", "environment", "engine")}
    return f"m{props['model_version']}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]}"


def _incarnation(deployment: Any) -> str | None:
    return (deployment.tags or {}).get(INCARNATION)


def _roll_out(props: dict[str, Any], olds: dict[str, Any]) -> dict[str, Any]:
    cloud = AzureClients.discover()
    client = cloud.machine_learning(props["workspace_id"])
    endpoint, name = props["endpoint_name"], deployment_name(props)
    deployments = {deployment.name: deployment for deployment in client.online_deployments.list(endpoint)}
    recorded, warm_previous = (
        olds.get(key) if olds.get(key) in deployments else None for key in ("deployment", "previous")
    )
    before = {key: share for key, share in (client.online_endpoints.get(endpoint).traffic or {}).items() if share}
    if recorded and not before:  # a write of the endpoint removed its traffic
        before = {recorded: 100}
        _set_traffic(cloud, props, before)
    live = max((key for key in before if key != name), key=lambda key: before[key], default=None)
    retained = deployments.keys() & {name, *before, recorded, warm_previous}
    _delete(client, endpoint, deployments.keys() - retained)

    # A deployment that is still warm has passed the steps before: only its golden rows are checked again.
    warm = name in (recorded, warm_previous)
    shares = _steps(props["rollout"]) if live and not warm else [100]
    checks, share = [], 0
    model = client.models.get(props["model_name"], str(props["model_version"]))
    try:
        # An existing deployment keeps its owner: a rollout that replaces another adopts it at its end (`claim`).
        incarnation = _incarnation(deployments[name]) if name in deployments else props.get(INCARNATION)
        client.online_deployments.begin_create_or_update(
            _deployment(props, name, model.tags, incarnation=incarnation)
        ).result()
        scoring_uri = client.online_endpoints.get(endpoint).scoring_uri
        with _probe(client, props, model.path, scoring_uri) as probe:
            for share in (0, *shares):
                if share:
                    _set_traffic(cloud, props, {name: share, live: 100 - share} if live else {name: share})
                result = probe.check(name, live, takes_all=share == 100, measured=share > 0 or not warm)
                checks.append({"share": share, **asdict(result)})
    except Exception as error:
        logs = azure_cli.deployment_logs(props["workspace_id"], endpoint, name)
        message = f"deployment {name} of {endpoint} did not pass at {share} %: {error}"
        _return_traffic(cloud, props, {live: 100} if live else before, message)
        raise RolloutFailed(
            f"{message}\n{live or 'The deployment that was live'} is live as before. {name} keeps running without "
            f"traffic until the next rollout; its log:\n{logs}"
        ) from error

    previous = live or (warm_previous if name == recorded else None)
    _delete(client, endpoint, retained - {name, previous})
    return {"deployment": name, "previous": previous, "checks": checks, "scoring_uri": scoring_uri}


def _delete(client: Any, endpoint: str, names: set[str]) -> None:
    for name in names:
        client.online_deployments.begin_delete(name, endpoint).result()


def _return_traffic(cloud: AzureClients, props: dict[str, Any], traffic: dict[str, int], message: str) -> None:
    try:
        _set_traffic(cloud, props, traffic)
    except Exception as error:
        raise RolloutFailed(f"{message}\nTraffic could not be returned to {traffic} either: {error}") from error


def _steps(steps: list[Any]) -> list[int]:
    return [int(step) for step in steps]  # numbers come back from state as floats


def _deployment(props: dict[str, Any], name: str, model_tags: dict[str, str], *, incarnation: str | None = None) -> Any:
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
    tags |= {"model_version": str(props["model_version"]), "engine": props["engine"]}
    tags |= {"image": props["environment"].rpartition(":")[2]}  # a version is named by the digest
    if incarnation:
        tags |= {INCARNATION: incarnation}
    scale = props["scale"]
    size = ResourceSettings(cpu=scale["cpu"], memory=scale["memory"])
    # A model and a JVM take seconds to load; a probe that gives up earlier would restart the container again and again.
    probe = {"failure_threshold": 30, "success_threshold": 1, "timeout": 2, "period": 10, "initial_delay": 1}
    return KubernetesOnlineDeployment(
        name=name,
        endpoint_name=props["endpoint_name"],
        model=f"azureml:{props['model_name']}:{props['model_version']}",
        environment=f"azureml:{props['environment']}",
        instance_type=props["instance_type"],
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
            "SCORING_ENGINE": props["engine"],
            "MODEL_NAME": props["model_name"],
            "MODEL_VERSION": str(props["model_version"]),
            **({"SCORING_SPARK_MEMORY": scale["heap"]} if scale.get("heap") else {}),
        },
        tags=tags,
    )


def _set_traffic(cloud: AzureClients, props: dict[str, Any], traffic: dict[str, int]) -> None:
    """Write the endpoint back as Azure reports it, with other traffic.

    Does not use the SDK's entity, which knows only part of the resource: its PUT would drop the rest.
    """
    resource_id = f"{props['workspace_id']}/onlineEndpoints/{props['endpoint_name']}"
    url = f"{cloud.resource_manager}{resource_id}?api-version={_API_VERSION}"
    headers = {"Authorization": f"Bearer {cloud.credential().get_token(cloud.scope).token}"}

    def call(method: str, body: Any = None) -> Any:
        answer = requests.request(method, url, json=body, headers=headers, timeout=60)
        if not answer.ok:
            raise RolloutFailed(f"{method} of {props['endpoint_name']}: HTTP {answer.status_code} {answer.text}")
        return answer.json()

    endpoint = call("GET")
    if (endpoint["properties"].get("traffic") or {}) == traffic:
        return
    call("PUT", {**endpoint, "properties": {**endpoint["properties"], "traffic": traffic}})
    deadline = time.monotonic() + _TRAFFIC_SECONDS
    while (state := call("GET")["properties"].get("provisioningState")) != "Succeeded":
        if state in ("Failed", "Canceled") or time.monotonic() > deadline:
            raise RolloutFailed(f"traffic of {props['endpoint_name']} could not be set to {traffic}: {state}")
        time.sleep(0.2)


def _probe(client: Any, props: dict[str, Any], model_path: str, scoring_uri: str) -> "Probe":
    """Create the probe with the golden rows of this model version."""
    from infra.release.checks.probe import Limits, Probe

    artefact = Artefact(props["blob_endpoint"], props["models_container"], model_path.rstrip("/").rpartition("/")[2])
    golden = [json.loads(line) for line in artefact.text("golden.jsonl").splitlines()]
    key = endpoint_key(client, props["endpoint_name"])
    return Probe(scoring_uri, key, f"{props['model_name']}:{props['model_version']}", golden, Limits(**props["limits"]))


class Rollout(Resource, module="machinelearning", name="Rollout"):
    deployment: pulumi.Output[str]
    checks: pulumi.Output[list[dict[str, Any]]]
    """Measurements at each share of traffic: `share` and the fields of `probe.ProbeResult`."""
    scoring_uri: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        endpoint_name: pulumi.Input[str],
        endpoint_revision: pulumi.Input[str],
        model_name: str,
        model_version: pulumi.Input[str],
        environment: pulumi.Input[str],
        engine: str,
        instance_type: str,
        scale: dict[str, int | str],
        rollout: list[int],
        limits: dict[str, float],
        blob_endpoint: pulumi.Input[str],
        models_container: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Declare a rollout.

        environment: `<name>:<version>`.
        scale: `min` and `max` replicas, target `utilisation` in percent; `cpu`, `memory` and `concurrency` of a
            replica, and with a JVM its `heap`, such as `2048m`.
        limits: the fields of `probe.Limits`.
        """
        props = {
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "endpoint_name": endpoint_name,
            "endpoint_revision": endpoint_revision,
            "model_name": model_name,
            "model_version": model_version,
            "environment": environment,
            "engine": engine,
            "instance_type": instance_type,
            "scale": scale,
            "rollout": rollout,
            "limits": limits,
            "blob_endpoint": blob_endpoint,
            "models_container": models_container,
            "share": 100,  # percent of the traffic after the rollout
        }
        outputs = {"deployment": None, "previous": None, "checks": None, "scoring_uri": None}
        super().__init__(_RolloutProvider(), name, {**props, **outputs}, opts)
