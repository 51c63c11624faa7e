"""What serves now: which training run's model, which a new one is compared with, and the key to ask it with.

Asks Azure ML and changes nothing. A preview never asks.
"""

from typing import Any


def run_id(client: Any, endpoint: str) -> str:
    """Of the deployment with the most traffic; empty where anything on the way there is missing or not ours."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        traffic = client.online_endpoints.get(endpoint).traffic or {}
        most = max(traffic, key=lambda name: traffic[name], default=None)
        if most is None or not traffic[most]:
            return ""
        deployment = client.online_deployments.get(most, endpoint)
        name, version = deployment.environment_variables.get("MODEL_NAME"), deployment.tags.get("model_version")
        if not name or not version:
            return ""  # made by hand
        return client.models.get(name, version).tags.get("run_id", "")
    except ResourceNotFoundError:
        return ""


def endpoint_key(client: Any, endpoint: str) -> str:
    """What a caller sends as bearer: a key, or a token where the endpoint's `auth_mode` is one."""
    found = client.online_endpoints.get_keys(endpoint)
    return getattr(found, "primary_key", None) or found.access_token
