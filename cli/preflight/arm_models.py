"""Models of Azure's responses, with the keys that the checks read; other keys are ignored.

Shapes: https://learn.microsoft.com/rest/api/resources, …/compute, …/keyvault, …/authorization
"""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


class Anything(_Answer):
    """Response of which only the existence matters."""


class Listed(_Answer):
    """A resource or a group in a list."""

    id: str
    name: str
    tags: dict[str, str] = {}


class ResourceType(_Answer):
    resource_type: str
    locations: list[str] = []


class Provider(_Answer):
    namespace: str
    registration_state: str
    resource_types: list[ResourceType]


class LocationInfo(_Answer):
    location: str
    zones: list[str] = []


class RestrictionInfo(_Answer):
    locations: list[str] = []
    zones: list[str] = []


class Restriction(_Answer):
    type: str
    """`Location` or `Zone`."""
    restriction_info: RestrictionInfo = RestrictionInfo()
    reason_code: str = ""


class Capability(_Answer):
    name: str
    value: str


class Size(_Answer):
    resource_type: str
    name: str
    family: str = ""
    location_info: list[LocationInfo] = []
    capabilities: list[Capability] = []
    restrictions: list[Restriction] = []

    @property
    def vcpus(self) -> int:
        return next((int(item.value) for item in self.capabilities if item.name == "vCPUs"), 0)

    @property
    def refused(self) -> str:
        """Reason why this subscription cannot use the size in the region; empty if it can."""
        return next((item.reason_code for item in self.restrictions if item.type == "Location"), "")

    @property
    def zones(self) -> set[str]:
        """Zones of the region in which this subscription can use the size."""
        offered = {zone for location in self.location_info for zone in location.zones}
        closed = {zone for item in self.restrictions if item.type == "Zone" for zone in item.restriction_info.zones}
        return offered - closed


class UsageName(_Answer):
    value: str
    localized_value: str = ""


class Usage(_Answer):
    name: UsageName
    current_value: int
    limit: int


class NameAnswer(_Answer):
    name_available: bool
    reason: str | None = None
    message: str | None = None


class DeletedProperties(_Answer):
    location: str = ""
    scheduled_purge_date: str = ""
    purge_protection_enabled: bool | None = None


class Deleted(_Answer):
    name: str
    properties: DeletedProperties = DeletedProperties()


class AgentPool(_Answer):
    count: int | None = None
    mode: str | None = None
    vm_size: str | None = None


class ClusterProperties(_Answer):
    agent_pool_profiles: list[AgentPool] | None = None
    current_kubernetes_version: str | None = None
    kubernetes_version: str | None = None


class Cluster(_Answer):
    properties: ClusterProperties


class WorkspaceProperties(_Answer):
    is_uc_enabled: bool | None = None
    workspace_url: str = ""


class Workspace(_Answer):
    properties: WorkspaceProperties


class Permission(_Answer):
    actions: list[str] = []
    not_actions: list[str] = []
    condition: str | None = None


class SubscriptionPolicies(_Answer):
    quota_id: str = ""
    """The kind of offer, such as `FreeTrial_2014-09-01`."""


class Subscription(_Answer):
    subscription_id: str
    display_name: str = ""
    subscription_policies: SubscriptionPolicies = SubscriptionPolicies()


class Endpoints(_Answer):
    blob: str


class StorageProperties(_Answer):
    primary_endpoints: Endpoints


class StorageAccount(_Answer):
    properties: StorageProperties
