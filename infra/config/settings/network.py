"""Settings `network:`: public or private endpoints, and the address ranges."""

from ipaddress import IPv4Network
from typing import Literal

from pydantic import Field, field_validator

from infra.config import addresses
from infra.config.settings.fields import Group, rule


class NetworkSettings(Group):
    mode: Literal["public", "private"] = Field(
        "public",
        description="public: the resources have public endpoints. private: they are reachable only from the stack's "
        "virtual network.",
        examples=["private"],
    )
    address_space: str = Field(
        "10.40.0.0/20",
        description="IPv4 range of a private stack's virtual network. It is split into four equal subnets.",
        examples=["10.40.0.0/20"],
        json_schema_extra=rule(
            f"a private IPv4 range from /24 to /16, outside {addresses.POD_RANGE} (pods) and "
            f"{addresses.SERVICE_RANGE} (services), with an address for each node and training machine"
        ),
    )
    authorized_ranges: list[str] = Field(
        default_factory=list,
        description="IPv4 ranges that may connect to the Kubernetes API server. Empty: in a private stack the API "
        "server has no public address; in a public stack every address may connect, and must log in.",
        examples=[["203.0.113.0/24"]],
        json_schema_extra=rule("each an IPv4 range"),
    )

    @field_validator("address_space")
    @classmethod
    def _divisible(cls, value: str) -> str:
        addresses.subnets_of(value)
        return value

    @field_validator("authorized_ranges")
    @classmethod
    def _ranges(cls, values: list[str]) -> list[str]:
        return [str(IPv4Network(value)) for value in values]

    @property
    def is_private(self) -> bool:
        return self.mode == "private"
