"""Model, image, engine and scale of an online deployment, read back in the form of the rollout's inputs.

Compares the properties that a person may change: model, environment, engine, replicas, their size and concurrency.
Does not compare probes and time limits, which Azure ML may return in another notation, nor the current number of
replicas, which the inference router sets. Does not write deployments: `rollout.py` does.
"""

import re
from collections.abc import Mapping
from typing import Any

_UNITS = {None: 1.0, "m": 0.001, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


def observed(deployment: Any, declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rollout's inputs with the values of `deployment`, an entity of Azure ML's SDK.

    A quantity that equals the declared one is returned in the notation of `declared`.
    """
    model, environment = (str(path).split("/") for path in (deployment.model, deployment.environment))
    variables = deployment.environment_variables or {}
    return {
        "model_name": model[-3],
        "model_version": model[-1],
        "environment": f"{environment[-3]}:{environment[-1]}",
        "engine": variables.get("SCORING_ENGINE"),
        "scale": _scale(deployment, variables, declared["scale"]),
    }


def _scale(deployment: Any, variables: Mapping[str, str], declared: Mapping[str, Any]) -> dict[str, Any]:
    scale, requests = deployment.scale_settings, deployment.resources and deployment.resources.requests
    held = {
        "min": getattr(scale, "min_instances", None),
        "max": getattr(scale, "max_instances", None),
        "utilisation": getattr(scale, "target_utilization_percentage", None),
        "concurrency": getattr(deployment.request_settings, "max_concurrent_requests_per_instance", None),
        "cpu": getattr(requests, "cpu", None),
        "memory": getattr(requests, "memory", None),
        "heap": variables.get("SCORING_SPARK_MEMORY"),
    }
    unchanged = {name: value for name, value in declared.items() if _same(value, held[name])}
    return {**{name: value for name, value in held.items() if value is not None}, **unchanged}


def _same(declared: Any, held: Any) -> bool:
    return declared == held or (_amount(declared) is not None and _amount(declared) == _amount(held))


def _amount(quantity: Any) -> float | None:
    """A Kubernetes quantity as a number: `1000m` equals `1`, and `1024Mi` equals `1Gi`; None for another text."""
    match = re.fullmatch(r"([0-9.]+)(m|[KMG]i)?", str(quantity))
    return float(match[1]) * _UNITS[match[2]] if match else None
