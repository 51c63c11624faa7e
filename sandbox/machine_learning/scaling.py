"""How many replicas a load asks for, by the rule that Microsoft documents for Azure ML's router on Kubernetes.

Every polling interval the router compares requests, those in work and those that wait, with replicas. As documented:

    replicas = ceil(concurrent requests / target utilisation / requests a replica takes at once)

More are started at once (documented: "eager and fast"); fewer are not before the load has stayed low ("conservative").
Not documented, and chosen here: one replica goes at the end of that time. The same page also calls utilisation the
share of replicas that are busy; that is the same where a replica takes one request at once, and where it takes more,
its share of them is what counts here.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-kubernetes-inference-routing-azureml-fe.md
("Autoscaling")
"""

from dataclasses import dataclass

CALM_POLLS = 20
"""Polls in a row that must each ask for fewer replicas before one goes.

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
        """Replicas for so many requests, of which each replica takes `at_once`."""
        asked = -(-100 * concurrent // (self.utilisation * at_once))
        return min(max(asked, self.least), self.most)


class Scaler:
    """The decisions on one deployment, which depend on what the polls before have seen."""

    def __init__(self, scale: Scale, at_once: int) -> None:
        self._scale, self._at_once = scale, at_once
        self._calm = 0

    def poll(self, concurrent: int, replicas: int) -> int:
        """By how many replicas to change: any number more, or one fewer."""
        change = self._scale.wanted(concurrent, self._at_once) - replicas
        self._calm = self._calm + 1 if change < 0 else 0
        if change < 0 and self._calm < CALM_POLLS:
            return 0
        self._calm = 0
        return max(change, -1)
