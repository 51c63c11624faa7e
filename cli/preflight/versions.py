"""Support windows: versions that Azure refuses for a new cluster, and versions whose support ends soon.

Reads the windows from `infra/planning/compatibility.yaml`. Does not query the versions that Azure offers.
"""

from collections.abc import Iterator
from functools import partial

from cli.preflight.arm_models import Cluster
from cli.preflight.check import Check, Finding, Level, Target
from infra.planning import compatibility

# Source: Azure/bicep-types-az generated/containerservice_1/microsoft.containerservice/2025-09-01/types.json
_CLUSTERS = "2025-09-01"


def checks(target: Target) -> Iterator[Check]:
    yield Check("versions", "Kubernetes", partial(_kubernetes, target))
    if target.settings.release.enabled:
        yield Check("versions", "Databricks' runtime", partial(_runtime, target))


def _kubernetes(target: Target) -> Iterator[Finding]:
    cluster = target.arm.get(
        Cluster,
        target.resource("Microsoft.ContainerService/managedClusters", target.names.kubernetes_cluster),
        _CLUSTERS,
    )
    current = cluster and (cluster.properties.kubernetes_version or cluster.properties.current_kubernetes_version)
    version = target.settings.serving.kubernetes_version or current
    if not version:
        yield Finding("versions", Level.OK, "Kubernetes in AKS's default version")
        return
    end = compatibility.kubernetes_support(version)
    if end is None:
        yield Finding("versions", Level.OK, f"Kubernetes {version}")
        return
    unchanged = bool(current) and f"{current}.".startswith(f"{end.version}.")
    level = Level.BLOCKING if end.ended and not unchanged else Level.WARNING
    yield Finding("versions", level, str(end), target.set(end.setting, end.replacement) if end.replacement else "")


def _runtime(target: Target) -> Iterator[Finding]:
    version = target.settings.training.spark_version
    end = compatibility.runtime_support(version)
    if end is None:
        yield Finding("versions", Level.OK, f"Databricks runtime {version}")
    else:
        remedy = target.set(end.setting, end.replacement) if end.replacement else ""
        yield Finding("versions", Level.WARNING, str(end), remedy)
