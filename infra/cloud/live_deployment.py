"""The live model: which training run it is of, which a new model is compared with, and the endpoint's key.

Asks Azure ML and changes nothing. A preview asks only where `release:model` is `latest` (`candidate.py`).
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LiveModel:
    deployment: str
    run_id: str
    """Empty where none is recorded, as for a deployment or a model version that was made by hand."""


def live_model(client: Any, endpoint: str) -> LiveModel | None:
    """The model of the deployment with the most traffic; None where no deployment has any."""
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
    """The training run of the live model; empty where nothing is live or no run is recorded."""
    found = live_model(client, endpoint)
    return found.run_id if found else ""


def endpoint_key(client: Any, endpoint: str) -> str:
    """The bearer token of a caller: a key, or a token where the endpoint's `auth_mode` is one."""
    found = client.online_endpoints.get_keys(endpoint)
    return getattr(found, "primary_key", None) or found.access_token
