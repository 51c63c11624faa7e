"""Number of replicas for a load, by the rule that Microsoft documents for Azure ML's router on Kubernetes.

Every polling interval the router compares the running and waiting requests with the replicas. As documented:

    replicas = ceil(concurrent requests / target utilisation / concurrent requests per replica)

Replicas are added at once (documented: "eager and fast"), and removed only after the load has stayed low
("conservative"). Not documented, and chosen here: one replica is removed at the end of that time. The same page also
defines utilisation as the share of busy replicas. That is the same for replicas with one concurrent request; for
replicas with more, this module uses the share of their concurrent requests.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-kubernetes-inference-routing-azureml-fe.md
("Autoscaling")
"""

from dataclasses import dataclass

CALM_POLLS = 20
"""Successive polls that must all require fewer replicas before one is removed.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-kubernetes-inference-routing-azureml-fe.md ("around
20 times of the scale up refresh interval"; MicrosoftDocs/azure-docs has an older copy that says a minute)
"""


@dataclass(frozen=True)
class Scale:
    least: int
    most: int
    utilisation: int
    """Target, in percent."""
    polling_interval: float

    def wanted(self, concurrent: int, at_once: int) -> int:
        """Replicas for so many concurrent requests, of which each replica takes `at_once`."""
        asked = -(-100 * concurrent // (self.utilisation * at_once))
        return min(max(asked, self.least), self.most)


class Scaler:
    """Scaling of one deployment, with the state of earlier polls."""

    def __init__(self, scale: Scale, at_once: int) -> None:
        self._scale, self._at_once = scale, at_once
        self._calm = 0

    def poll(self, concurrent: int, replicas: int) -> int:
        """Change of the number of replicas: any increase, or a decrease by one."""
        change = self._scale.wanted(concurrent, self._at_once) - replicas
        self._calm = self._calm + 1 if change < 0 else 0
        if change < 0 and self._calm < CALM_POLLS:
            return 0
        self._calm = 0
        return max(change, -1)
