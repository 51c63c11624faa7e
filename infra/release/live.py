"""Which training run's model serves now: what a new model is compared with.

Asks Azure ML and changes nothing. A preview never asks: only a training run that is about to start does.
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
