"""Settings `reliability:`: zones, replication and the upgrade window."""

from typing import Literal

from pydantic import Field

from infra.config.settings.fields import Group, rule


class ReliabilitySettings(Group):
    # Source: MicrosoftDocs/azure-docs articles/reliability/availability-zones-overview.md (three in a region)
    zones: list[Literal["1", "2", "3"]] | None = Field(
        None,
        description="Availability zones of public IP addresses and, in production, of the nodes. Unset: all zones of "
        "the region.",
        examples=[["1", "2"]],
        json_schema_extra=rule("zones that the region has"),
    )
    redundancy: Literal["zone", "local"] | None = Field(
        None,
        description="Replication of stored data. zone: copies in several zones. local: copies in one zone. Unset: zone "
        "in production if the region has zones, otherwise local.",
        examples=["zone"],
    )
    # Source: MicrosoftDocs/azure-aks-docs articles/aks/planned-maintenance.md
    maintenance_day: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"] = Field(
        "Sunday",
        description="Day of the week on which AKS may upgrade the cluster and its nodes.",
        examples=["Saturday"],
    )
    maintenance_hour: int = Field(
        1, ge=0, le=23, description="Hour (UTC) at which the four-hour upgrade window begins.", examples=[3]
    )
