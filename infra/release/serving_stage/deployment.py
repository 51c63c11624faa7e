"""Model, image, engine and scale of an online deployment, read back in the form of the rollout's inputs.

Compares the properties that a person may change: model, environment, engine, replicas, their size and concurrency.
Does not compare probes and time limits, which Azure ML may return in another notation, nor the current number of
replicas, which the inference router sets. Does not write deployments: `rollout.py` does.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

if TYPE_CHECKING:
    from azure.ai.ml.entities import KubernetesOnlineDeployment

_UNITS = {None: 1.0, "m": 0.001, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


class Scale(TypedDict):
    """Replicas of a deployment, and their size. The engine returns numbers as floats."""

    min: float
    """Replicas."""
    max: float
    utilisation: float
    """Target in percent."""
    concurrency: float
    """Requests of a replica at once."""
    cpu: str
    memory: str
    heap: NotRequired[str]
    """Heap of the JVM, such as `2048m`."""


class ObservedDeployment(NamedTuple):
    """Inputs of the rollout, with the values of a deployment."""

    model_name: str
    model_version: str
    environment: str
    engine: str | None
    scale: dict[str, object]


def observed(deployment: "KubernetesOnlineDeployment", declared: Scale) -> ObservedDeployment:
    """Return the values of `deployment`. A quantity that equals the declared one is in the notation of `declared`."""
    model, environment = (str(path).split("/") for path in (deployment.model, deployment.environment))
    variables = deployment.environment_variables or {}
    return ObservedDeployment(
        model_name=model[-3],
        model_version=model[-1],
        environment=f"{environment[-3]}:{environment[-1]}",
        engine=variables.get("SCORING_ENGINE"),
        scale=_scale(deployment, variables, declared),
    )


def _scale(
    deployment: "KubernetesOnlineDeployment", variables: Mapping[str, str], declared: Scale
) -> dict[str, object]:
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


def _same(declared: object, held: object) -> bool:
    return declared == held or (_amount(declared) is not None and _amount(declared) == _amount(held))


def _amount(quantity: object) -> float | None:
    """A Kubernetes quantity as a number: `1000m` equals `1`, and `1024Mi` equals `1Gi`; None for another text."""
    match = re.fullmatch(r"([0-9.]+)(m|[KMG]i)?", str(quantity))
    return float(match[1]) * _UNITS[match[2]] if match else None
