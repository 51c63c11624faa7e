"""The live model's training run, with which a new model is compared, and the endpoint's key.

Reads Azure ML and changes nothing. A preview reads it only with `release:model: latest` (`candidate.py`).
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LiveModel:
    deployment: str
    run_id: str
    """Empty if none is recorded, as for a deployment or a model version that was created by hand."""


def live_model(client: Any, endpoint: str) -> LiveModel | None:
    """The model of the deployment with the most traffic; None if no deployment has traffic."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        traffic = client.online_endpoints.get(endpoint).traffic or {}
    except ResourceNotFoundError:
        return None
    most = max(traffic, key=lambda name: traffic[name], default=None)
    if most is None or not traffic[most]:
        return None
    try:
        deployment = client.online_deployments.get(most, endpoint)
        name, version = deployment.environment_variables.get("MODEL_NAME"), deployment.tags.get("model_version")
        tags = client.models.get(name, version).tags if name and version else {}
    except ResourceNotFoundError:
        tags = {}
    return LiveModel(most, tags.get("run_id", ""))


def run_id(client: Any, endpoint: str) -> str:
    """The training run of the live model; empty without a live model or a recorded run."""
    model = live_model(client, endpoint)
    return model.run_id if model else ""


def endpoint_key(client: Any, endpoint: str) -> str:
    """The bearer token of a caller: a key, or a token if the endpoint's `auth_mode` requires one."""
    keys = client.online_endpoints.get_keys(endpoint)
    return getattr(keys, "primary_key", None) or keys.access_token
