"""The order in which the program writes to its AKS cluster: one write at a time, each after the one before it.

AKS refuses a write of a cluster, of its pools and of everything below it while another is under way, with a code that
azure-native does not retry. Creation and update follow the list from its top, deletion from its end. Does not make the
resources: the components do, and name their step.

Source: Azure/terraform-azurerm-avm-ptn-aks-production#25 (409 OperationNotAllowed);
Azure/terraform-azurerm-avm-res-containerservice-managedcluster#160 (pools); Azure/AKS-Construction#385 (extension)
Source: pulumi/pulumi-azure-native provider/pkg/azure/client_azcore.go (`shouldRetryConflict`)
"""

from collections.abc import Sequence
from typing import TypeVar

import pulumi

R = TypeVar("R", bound=pulumi.Resource)

CLUSTER_WRITES = (
    "cluster",
    "system pool",  # AKS creates it with the cluster. It also waits for what AKS itself does to a new cluster
    "scoring pool",  # the router of the extension counts on its nodes
    "drain of the scoring pool",  # whose deletion must come before the pool's
    "version upgrades",
    "node image upgrades",
    "trusted access",  # Azure ML enters the cluster by it
    "extension",  # last: AKS works on at the cluster when the extension is there. The attach follows, in Azure ML
)


class WriteOrder:
    """The steps that a program has reached, and what the next one depends on."""

    def __init__(self, steps: Sequence[str] = CLUSTER_WRITES) -> None:
        self._steps, self._written = steps, list[pulumi.Resource]()

    def before(self, step: str) -> list[pulumi.Resource]:
        """Return the `depends_on` of the resource of this step. Raises `ValueError` if it is not its turn."""
        if self._steps[len(self._written)] != step:
            raise ValueError(f"'{step}' is not the next write of the cluster, '{self._steps[len(self._written)]}' is")
        return self._written[-1:]

    def wrote(self, resource: R) -> R:
        """Record the resource of the step that `before` was asked for, and return it."""
        self._written.append(resource)
        return resource
