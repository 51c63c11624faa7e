"""The order in which the program writes to its AKS cluster: one write at a time, each after the one before it.

While AKS handles one write of a cluster, its pools or anything below it, it refuses another one, with a code that
azure-native does not retry. Creation and update follow the list from the top, deletion from the end. Does not create
the resources: the components do, and pass the name of their step.

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
    "system pool",  # AKS creates it with the cluster. The step also waits for changes that AKS makes to a new cluster
    "scoring pool",  # the extension's router runs on its nodes
    "drain of the scoring pool",  # must be deleted before the pool
    "version upgrades",
    "node image upgrades",
    "trusted access",  # gives Azure ML access to the cluster
    "extension",  # last: AKS keeps changing the cluster after the extension exists. The attach in Azure ML follows
)


class WriteOrder:
    """Steps that the program has declared so far, and the resource on which the next one depends."""

    def __init__(self, steps: Sequence[str] = CLUSTER_WRITES) -> None:
        self._steps, self._written = steps, list[pulumi.Resource]()

    def before(self, step: str) -> list[pulumi.Resource]:
        """Return the `depends_on` of this step's resource. Raises `ValueError` if the step is out of order."""
        if self._steps[len(self._written)] != step:
            raise ValueError(f"'{step}' is not the next write of the cluster, '{self._steps[len(self._written)]}' is")
        return self._written[-1:]

    def wrote(self, resource: R) -> R:
        """Record the resource of the step that was passed to `before`, and return it."""
        self._written.append(resource)
        return resource
