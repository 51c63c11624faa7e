"""Every ARM PUT of the first deployment of a production and a development stack, as the provider's process sent it.

A sandbox answers, so computed ids are invented; the program's own values are real. Does not record
the requests of a release: they go through the models of azure-ai-ml.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from infra.aks.attachment import API_VERSION, AttachmentInputs, attach_body
from testing.arm.answers import DEVELOPMENT, PRODUCTION, traffic

_STREAMS = """2026-11-25: the list of streams is open; this one is Container Insights' own:
https://learn.microsoft.com/azure/azure-monitor/containers/container-insights-data-collection-configure"""
ACCEPTED = {
    ("Microsoft.Insights/dataCollectionRules", "properties.dataFlows[].streams[]"): _STREAMS,
    ("Microsoft.Insights/dataCollectionRules", "properties.dataSources.extensions[].streams[]"): _STREAMS,
}
"""Faults that Azure accepts: type and path, with the day and the reason."""


@dataclass(frozen=True)
class Put:
    stack: str
    address: str
    """The resource's id, as the URL has it."""
    api_version: str
    body: dict[str, Any]

    @property
    def type(self) -> str:
        """Resource type, such as `Microsoft.Network/privateEndpoints/privateDnsZoneGroups`."""
        if re.fullmatch(r"/subscriptions/[^/]+/resourceGroups/[^/]+", self.address):
            return "Microsoft.Resources/resourceGroups"
        namespace, *rest = self.address.rpartition("/providers/")[2].split("/")
        return "/".join([namespace, *rest[::2]])

    @property
    def name(self) -> str:
        """Name in a template: the names of the parents within its namespace first."""
        parts = self.address.rpartition("/providers/")[2].split("/")
        return "/".join(parts[2::2]) if parts[0] else parts[-1]

    def __str__(self) -> str:
        return f"{self.type} {self.name} ({self.stack})"


_WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
_CLUSTER = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c"
_ATTACHED = AttachmentInputs.of(
    {"location": "westeurope", "cluster_id": _CLUSTER, "namespace": "azureml", "extension_uid": "a-principal"}
)
_ATTACHES = [
    Put(stack, f"{_WORKSPACE}/computes/aks", API_VERSION, attach_body(_ATTACHED)) for stack in (PRODUCTION, DEVELOPMENT)
]
"""Requests that the program sends itself, not through the provider."""


@pytest.fixture(scope="session")
def puts(tmp_path_factory: pytest.TempPathFactory) -> list[Put]:
    """PUT requests of both stacks, sorted by type, name and stack."""
    puts = [each for each in traffic(tmp_path_factory) if each.method == "PUT" and each.origin != "reader"]
    sent = {(each.origin, each.path): Put(each.origin, each.path, each.api_version, each.sent) for each in puts}
    return sorted([*sent.values(), *_ATTACHES], key=str)


def require_no_faults(judge: Callable[[Put], Iterable[str]], judged: Iterable[Put]) -> None:
    """Assert that the faults (path, colon, message) equal the accepted ones; an accepted one must also occur."""
    faults = {(put.type, fault.partition(": ")[0], f"{put}: {fault}") for put in judged for fault in judge(put)}
    wrong = sorted(shown for *where, shown in faults if tuple(where) not in ACCEPTED)
    assert not wrong, "\n".join(wrong)
    assert {(kind, path) for kind, path, _ in faults} == ACCEPTED.keys()
