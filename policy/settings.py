"""Properties of azure-native types for the rules, and their allowed values.

Source of defaults and meanings: the descriptions of the properties in the API versions of azure-native 3.29.0.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policy.inputs import Resource, read


@dataclass(frozen=True)
class Setting:
    """A property of one type and its allowed values; a message proposes the first one first."""

    type: str
    path: str
    allowed: tuple[Any, ...]
    default: Any
    """Azure's default, by the description of the property in its API."""
    unless: str = ""
    """Another property that achieves the same if it is set."""

    def problems(self, resource: Resource) -> Iterator[str]:
        if resource.resource_type != f"azure-native:{self.type}" or (self.unless and read(resource.props, self.unless)):
            return
        declared = read(resource.props, self.path)
        value = self.default if declared is None else declared
        if _folded(value) not in map(_folded, self.allowed):
            state = (
                f"is {json.dumps(declared)}"
                if declared is not None
                else f"is not set, and Azure's default is {json.dumps(value)}"
            )
            yield f"{self.path} {state}; set it to {' or '.join(map(json.dumps, self.allowed))}."


STORAGE, REGISTRY, CLUSTER = "storage:StorageAccount", "containerregistry:Registry", "containerservice:ManagedCluster"
SHARED_KEYS = [Setting(STORAGE, "allowSharedKeyAccess", (False,), True)]
PUBLIC_BLOBS = [
    Setting(STORAGE, "allowBlobPublicAccess", (False,), False),
    Setting("storage:BlobContainer", "publicAccess", ("None",), "None"),
]
REGISTRY_LOGIN = [
    Setting(REGISTRY, "adminUserEnabled", (False,), False),
    Setting(REGISTRY, "anonymousPullEnabled", (False,), False),
]
LOCAL_ACCOUNTS = [Setting(CLUSTER, "disableLocalAccounts", (True,), False)]
COMPUTE = "machinelearningservices:Compute"
LOCAL_AUTHENTICATION = [
    Setting(COMPUTE, "properties.disableLocalAuth", (True,), False),
    Setting("operationalinsights:Workspace", "features.disableLocalAuth", (True,), False),
    Setting("applicationinsights:Component", "disableLocalAuth", (True,), False),
    Setting("keyvault:Vault", "properties.enableRbacAuthorization", (True,), False),
    Setting(
        "machinelearningservices:Workspace", "systemDatastoresAuthMode", ("Identity", "UserDelegationSAS"), "AccessKey"
    ),
]
"""Keys, passwords and access lists that a service has in addition to Entra."""
TLS = [
    Setting(STORAGE, "minimumTlsVersion", ("TLS1_2", "TLS1_3"), "TLS1_0"),
    Setting(STORAGE, "enableHttpsTrafficOnly", (True,), True),
]
PUBLIC_ACCESS = [
    Setting(STORAGE, "publicNetworkAccess", ("Disabled", "SecuredByPerimeter"), "Enabled"),
    Setting(REGISTRY, "publicNetworkAccess", ("Disabled",), "Enabled"),
    Setting("keyvault:Vault", "properties.publicNetworkAccess", ("Disabled",), "Enabled"),
    Setting("databricks:Workspace", "publicNetworkAccess", ("Disabled",), "Enabled"),
    Setting("machinelearningservices:Workspace", "publicNetworkAccess", ("Disabled",), "Enabled"),
    Setting(
        CLUSTER,
        "apiServerAccessProfile.enablePrivateCluster",
        (True,),
        False,
        unless="apiServerAccessProfile.authorizedIPRanges",
    ),
]


def _folded(value: Any) -> Any:
    """Lower-case text: Azure's services differ in how they write `Disabled`."""
    return value.lower() if isinstance(value, str) else value
