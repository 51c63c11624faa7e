"""The rollout: a new deployment at 0 %, checked there, then traffic, step by step, checked at each.

A failed check returns all traffic to the deployment that had it and fails `up` with the figures. The failed deployment
stays at 0 % to be looked at, until the next rollout begins: there is never more than one. The previous deployment stays
warm at 0 %, too; older ones go. `create` and `update` do the same and may be run again: a deployment's name is the
digest of what it runs. Does not train or register; what it serves is a version number. Does not say what is a failed
check: that is `probe.py`.
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
from infra.cloud.clients import Cloud
from infra.cloud.live_deployment import endpoint_key
from infra.dynamic.provider import INCARNATION, ReleaseProvider, gone
from infra.release.serving_stage.deployment import observed

if TYPE_CHECKING:
    from infra.release.checks.probe import Probe

# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/machinelearningservices/online_endpoint.py
_API_VERSION = "2025-12-01"
_TRAFFIC_SECONDS = 600


class RolloutFailed(Exception):
    """The new deployment failed a check; the old one has all traffic again."""


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
        """`share` is the percent of the deployment's traffic, 0 where the deployment is gone."""
        from azure.core.exceptions import ResourceNotFoundError

        client, endpoint, name = Cloud.discover().machine_learning(props["workspace_id"]), id_, props["deployment"]
        try:
            traffic = client.online_endpoints.get(endpoint).traffic or {}
            deployments = {found.name: found for found in client.online_deployments.list(endpoint)}
        except ResourceNotFoundError:
            return gone()
        if name not in deployments:
            return ReadResult(id_, {**props, "share": 0})
        return ReadResult(id_, {**props, **observed(deployments[name], props), "share": traffic.get(name, 0)})

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({**news, **_roll_out(news, olds)})

    def claim(self, props: dict[str, Any]) -> None:
        """Tag the deployment that serves, last of all: until then it is the old resource's."""
        client = Cloud.discover().machine_learning(props["workspace_id"])
        endpoint, name = props["endpoint_name"], deployment_name(props)
        if _incarnation(client.online_deployments.get(name, endpoint)) != props[INCARNATION]:
            model = client.models.get(props["model_name"], str(props["model_version"]))
            client.online_deployments.begin_create_or_update(
                _deployment(props, name, model.tags, incarnation=props[INCARNATION])
            ).result()

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Not what a replacement of this resource has taken over, nor its traffic."""
        from azure.core.exceptions import ResourceNotFoundError

        cloud, endpoint = Cloud.discover(), props["endpoint_name"]
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
    """`m<model version>-<digest of all that runs>`: letters, digits and hyphens, 3-32 characters."""
    runs = {key: props[key] for key in ("model_name", "model_version", "environment", "engine")}
    return f"m{props['model_version']}-{hashlib.sha256(json.dumps(runs, sort_keys=True).encode()).hexdigest()[:8]}"


def _incarnation(deployment: Any) -> str | None:
    return (deployment.tags or {}).get(INCARNATION)


def _roll_out(props: dict[str, Any], olds: dict[str, Any]) -> dict[str, Any]:
    cloud = Cloud.discover()
    client = cloud.machine_learning(props["workspace_id"])
    endpoint, name = props["endpoint_name"], deployment_name(props)
    deployments = {deployment.name: deployment for deployment in client.online_deployments.list(endpoint)}
    stand = set(deployments)
    served, kept = (olds.get(key) if olds.get(key) in stand else None for key in ("deployment", "previous"))
    before = {key: share for key, share in (client.online_endpoints.get(endpoint).traffic or {}).items() if share}
    if served and not before:  # whoever wrote the endpoint took its traffic away
        before = {served: 100}
        _set_traffic(cloud, props, before)
    live = max((key for key in before if key != name), key=lambda key: before[key], default=None)
    keeps = stand & {name, *before, served, kept}
    _delete(client, endpoint, stand - keeps)

    # One that is still warm has gone through the steps already: its golden rows again, and users need not wait longer.
    warm = name in (served, kept)
    shares = _steps(props["rollout"]) if live and not warm else [100]
    checks, share = [], 0
    model = client.models.get(props["model_name"], str(props["model_version"]))
    try:
        # One that exists stays whose it is: a rollout that replaces another takes it over at its end (`claim`).
        incarnation = _incarnation(deployments[name]) if name in stand else props.get(INCARNATION)
        client.online_deployments.begin_create_or_update(
            _deployment(props, name, model.tags, incarnation=incarnation)
        ).result()
        scoring_uri = client.online_endpoints.get(endpoint).scoring_uri
        with _probe(client, props, model.path, scoring_uri) as probe:
            for share in (0, *shares):
                if share:
                    _set_traffic(cloud, props, {name: share, live: 100 - share} if live else {name: share})
                found = probe.check(name, live, takes_all=share == 100, measured=share > 0 or not warm)
                checks.append({"share": share, **asdict(found)})
    except Exception as error:
        said = f"deployment {name} of {endpoint} did not pass at {share} %: {error}"
        _return_traffic(cloud, props, {live: 100} if live else before, said)
        raise RolloutFailed(
            f"{said}\n{live or 'The deployment that was live'} is live as before. {name} keeps running without traffic "
            f"until the next rollout; its log:\n{azure_cli.deployment_logs(props['workspace_id'], endpoint, name)}"
        ) from error

    previous = live or (kept if name == served else None)
    _delete(client, endpoint, keeps - {name, previous})
    return {"deployment": name, "previous": previous, "checks": checks, "scoring_uri": scoring_uri}


def _delete(client: Any, endpoint: str, names: set[str]) -> None:
    for name in names:
        client.online_deployments.begin_delete(name, endpoint).result()


def _return_traffic(cloud: Cloud, props: dict[str, Any], traffic: dict[str, int], said: str) -> None:
    try:
        _set_traffic(cloud, props, traffic)
    except Exception as error:
        raise RolloutFailed(f"{said}\nTraffic could not be returned to {traffic} either: {error}") from error


def _steps(steps: list[Any]) -> list[int]:
    return [int(step) for step in steps]  # numbers come back from state as floats


def _deployment(props: dict[str, Any], name: str, of_model: dict[str, str], *, incarnation: str | None = None) -> Any:
    from azure.ai.ml.entities import (
        KubernetesOnlineDeployment,
        OnlineRequestSettings,
        ProbeSettings,
        ResourceRequirementsSettings,
        ResourceSettings,
        TargetUtilizationScaleSettings,
    )

    tags: dict[str, str] = {key: of_model[key] for key in ("dataset", "snapshot", "code", "run_id") if key in of_model}
    tags |= {"model_version": str(props["model_version"]), "engine": props["engine"]}
    tags |= {"image": props["environment"].rpartition(":")[2]}  # a version is named by the digest
    if incarnation:
        tags |= {INCARNATION: incarnation}
    scale = props["scale"]
    size = ResourceSettings(cpu=scale["cpu"], memory=scale["memory"])
    # A model and a JVM take seconds to load; a probe that gives up earlier restarts the container for ever.
    patient = {"failure_threshold": 30, "success_threshold": 1, "timeout": 2, "period": 10, "initial_delay": 1}
    return KubernetesOnlineDeployment(
        name=name,
        endpoint_name=props["endpoint_name"],
        model=f"azureml:{props['model_name']}:{props['model_version']}",
        environment=f"azureml:{props['environment']}",
        instance_type=props["instance_type"],
        instance_count=int(scale["min"]),
        resources=ResourceRequirementsSettings(requests=size, limits=size),
        # The inference router scales by what it knows itself; a HorizontalPodAutoscaler beside it would fight it.
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
        liveness_probe=ProbeSettings(**patient),
        readiness_probe=ProbeSettings(**patient),
        environment_variables={
            "SCORING_ENGINE": props["engine"],
            "MODEL_NAME": props["model_name"],
            "MODEL_VERSION": str(props["model_version"]),
            **({"SCORING_SPARK_MEMORY": scale["heap"]} if scale.get("heap") else {}),
        },
        tags=tags,
    )


def _set_traffic(cloud: Cloud, props: dict[str, Any], traffic: dict[str, int]) -> None:
    """Write the endpoint back as Azure reports it, with other traffic.

    Not through the SDK's entity, which knows only part of the resource: its PUT would drop the rest.
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
    """With the rows that training kept with this model version."""
    from infra.release.checks.probe import Limits, Probe

    artefact = Artefact(props["blob_endpoint"], props["models_container"], model_path.rstrip("/").rpartition("/")[2])
    golden = [json.loads(line) for line in artefact.text("golden.jsonl").splitlines()]
    key = endpoint_key(client, props["endpoint_name"])
    return Probe(scoring_uri, key, f"{props['model_name']}:{props['model_version']}", golden, Limits(**props["limits"]))


class Rollout(Resource, module="machinelearning", name="Rollout"):
    deployment: pulumi.Output[str]
    checks: pulumi.Output[list[dict[str, Any]]]
    """At each share of traffic, what was measured: `share` and the fields of `probe.Figures`."""
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
        """`environment`: `<name>:<version>`.

        `scale`: `min` and `max` replicas, `utilisation` in percent they are scaled for; `cpu`, `memory` and
        `concurrency` of each, and with a JVM its `heap`, such as `2048m`. `limits`: the fields of `probe.Limits`.
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
            "share": 100,  # percent of the traffic that the deployment has once it is rolled out
        }
        outputs = {"deployment": None, "previous": None, "checks": None, "scoring_uri": None}
        super().__init__(_RolloutProvider(), name, {**props, **outputs}, opts)
