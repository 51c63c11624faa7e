"""Support windows: versions that Azure refuses for a new cluster, and versions that an existing one should leave soon.

Reads the windows from `infra/planning/compatibility.yaml`. Does not ask Azure which versions it offers.
"""

from collections.abc import Iterator
from functools import partial

from cli.preflight.arm_models import Cluster
from cli.preflight.check import Finding, Level, Question, Target
from infra.planning import compatibility

# Source: Azure/bicep-types-az generated/containerservice_1/microsoft.containerservice/2025-09-01/types.json
_CLUSTERS = "2025-09-01"


def questions(target: Target) -> Iterator[Question]:
    yield Question("versions", "of Kubernetes", partial(_kubernetes, target))
    if target.settings.release.enabled:
        yield Question("versions", "of Databricks' runtime", partial(_runtime, target))


def _kubernetes(target: Target) -> Iterator[Finding]:
    cluster = target.arm.get(
        Cluster,
        target.resource("Microsoft.ContainerService/managedClusters", target.names.kubernetes_cluster),
        _CLUSTERS,
    )
    runs = cluster and (cluster.properties.kubernetes_version or cluster.properties.current_kubernetes_version)
    wanted = target.settings.serving.kubernetes_version or runs
    if not wanted:
        yield Finding("versions", Level.OK, "Kubernetes by AKS's default")
        return
    end = compatibility.kubernetes_support(wanted)
    if end is None:
        yield Finding("versions", Level.OK, f"Kubernetes {wanted}")
        return
    keeps = bool(runs) and f"{runs}.".startswith(f"{end.version}.")
    level = Level.BLOCKING if end.ended and not keeps else Level.WARNING
    yield Finding("versions", level, str(end), target.set(end.setting, end.replacement) if end.replacement else "")


def _runtime(target: Target) -> Iterator[Finding]:
    version = target.settings.training.spark_version
    end = compatibility.runtime_support(version)
    if end is None:
        yield Finding("versions", Level.OK, f"Databricks runtime {version}")
    else:
        remedy = target.set(end.setting, end.replacement) if end.replacement else ""
        yield Finding("versions", Level.WARNING, str(end), remedy)
