"""All settings of a stack, and the rules between settings of different groups."""

import json
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from infra.config import addresses, tag_rules
from infra.config.settings.access import AccessSettings
from infra.config.settings.alerts import AlertSettings
from infra.config.settings.budget import BudgetSettings
from infra.config.settings.fields import Group, rule
from infra.config.settings.network import NetworkSettings
from infra.config.settings.quality import QualitySettings
from infra.config.settings.release import ReleaseSettings
from infra.config.settings.reliability import ReliabilitySettings
from infra.config.settings.runner import RunnerSettings
from infra.config.settings.serving import ServingSettings
from infra.config.settings.training import TrainingSettings
from infra.planning import capacity, compatibility, regions

ENVIRONMENT = r"^[a-z][a-z0-9]{1,9}$"
OF_THE_PROJECT = ("environment", "production", "generation")
"""Settings in the project's namespace. All others belong to a group."""


def _true_or_false(value: Any) -> bool:
    """Convert `value`, and refuse pydantic's other spellings (yes, 1, on): the policy pack reads the same text.

    See `policy/stack.py`.
    """
    if value not in (True, False, "true", "false"):
        raise ValueError(f"must be true or false, not {value!r}")
    return value in (True, "true")


class Settings(Group):
    environment: str = Field(
        pattern=ENVIRONMENT,
        description="Short name of the environment, part of every resource name.",
        examples=["dev"],
        json_schema_extra=rule("2 to 10 lower-case letters and digits, the first a letter"),
    )
    production: Annotated[bool, BeforeValidator(_true_or_false)] = Field(
        description="Whether this is a production stack. true: Pulumi refuses to delete resources that hold data, the "
        "cluster has Azure's uptime SLA, its nodes are spread over zones, stored data has copies in several zones, the "
        "scoring pool has at least 3 nodes, no interactive cluster is created, and the policy rules for production "
        "apply. Settings below can change zones, copies and the interactive cluster.",
        examples=["false"],
    )
    location: str = Field(
        pattern=r"^[a-z0-9]+$",
        description="Azure region of all resources.",
        examples=["westeurope"],
        json_schema_extra=rule("a region of infra/planning/regions.yaml"),
    )
    generation: int = Field(
        1,
        ge=1,
        le=99,
        description="Part of every resource name. Raise it before the first deployment if soft-deleted resources still "
        "have the names. On a deployed stack a new value renames, and so replaces, every resource.",
        examples=[2],
    )
    network: NetworkSettings = NetworkSettings()
    access: AccessSettings = AccessSettings()
    reliability: ReliabilitySettings = ReliabilitySettings()
    alerts: AlertSettings = AlertSettings()
    budget: BudgetSettings = BudgetSettings()
    training: TrainingSettings = TrainingSettings()
    serving: ServingSettings = ServingSettings()
    runner: RunnerSettings = RunnerSettings()
    quality: QualitySettings = QualitySettings()
    release: ReleaseSettings = ReleaseSettings()
    tags: dict[str, str] = Field(
        default_factory=dict,
        description="Tags of every resource. A DNS zone gets at most 15 of them, those with plain names. An endpoint "
        "keeps the tags it was created with, because each write to it interrupts its traffic.",
        examples=[{"owner": "team-a"}],
        json_schema_extra=rule(
            "Azure's rules for tags: at most 48 tags, names of at most 128 and values of at most 256 characters, no "
            "control characters or <>%&\\?/ in a name"
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _nodes_by_production(cls, values: Any) -> Any:
        if values.get("production") not in (True, "true"):
            return values
        return {**values, "serving": {"nodes_min": capacity.ROUTERS, "nodes_max": 4, **values.get("serving", {})}}

    @field_validator("location")
    @classmethod
    def _is_a_region(cls, value: str) -> str:
        regions.require(value)
        return value

    @field_validator("tags")
    @classmethod
    def _azure_accepts_them(cls, value: dict[str, str]) -> dict[str, str]:
        tag_rules.require(value)
        return value

    @model_validator(mode="after")
    def _the_region_has_the_zones(self) -> Self:
        zones = regions.zones_by_region()[self.location]
        if unknown := sorted(set(self.reliability.zones or ()) - set(zones)):
            raise ValueError(
                f"reliability:zones names {', '.join(unknown)}, but {self.location} has "
                f"{', '.join(zones) or 'no zones'}. Set reliability:zones to {json.dumps(list(zones))}, or remove it."
            )
        if self.reliability.redundancy == "zone" and not zones:
            raise ValueError(
                f"reliability:redundancy is zone, but {self.location} has no zones. Set reliability:redundancy to "
                "local, or choose a region with zones."
            )
        return self

    @model_validator(mode="after")
    def _production_has_nodes_for_the_router(self) -> Self:
        if self.production:
            capacity.require_three_nodes(self.serving)
        return self

    @model_validator(mode="after")
    def _the_network_has_addresses(self) -> Self:
        machines = {
            # Both pools run while a pool of another size or zone replaces one.
            addresses.NODES: 2 * (self.serving.system_nodes + self.serving.nodes_max) + self.runners,
            addresses.DATABRICKS_HOSTS: (self.training.workers + 1) * (2 if self.has_interactive_cluster else 1),
        }
        if self.network.is_private:
            try:
                addresses.require_room(self.network.address_space, machines)
            except ValueError as error:
                raise ValueError(f"network:address_space: {error}") from None
        return self

    @model_validator(mode="after")
    def _a_runner_needs_a_private_network(self) -> Self:
        if self.runners and not self.network.is_private:
            raise ValueError(
                "runner:repository is set, but network:mode is public. GitHub's own runners can reach a public stack. "
                "Set network:mode to private, or remove runner:repository."
            )
        return self

    @model_validator(mode="after")
    def _a_budget_needs_an_address(self) -> Self:
        if self.budget.monthly and not self.alerts.emails:
            raise ValueError(
                "budget:monthly is set, but alerts:emails is empty, so Azure could notify nobody. Run "
                "pulumi config set --path 'alerts:emails[0]' <address>, or remove budget:monthly."
            )
        return self

    @model_validator(mode="after")
    def _a_release_needs_rows_and_a_deployer(self) -> Self:
        if not self.release.enabled:
            return self
        if not (self.training.local_data or self.training.snapshot):
            raise ValueError(
                "a release needs rows to train on: set training:local_data to local files to upload, or "
                "training:snapshot to a folder already in the lake. For a stack without a model, set release:enabled "
                "to false."
            )
        if not self.access.deployers:
            raise ValueError(
                "access:deployers is empty, so nobody may write to the lake. Run "
                "pulumi config set --path 'access:deployers.<object id>' ServicePrincipal (or User)."
            )
        return self

    @property
    def support_ends(self) -> list[compatibility.SupportEnd]:
        """Versions in use, set or default, whose support has ended or ends soon."""
        runtime = compatibility.runtime_support(self.training.spark_version) if self.release.enabled else None
        version = self.serving.kubernetes_version
        return [end for end in (runtime, version and compatibility.kubernetes_support(version)) if end]

    @property
    def runners(self) -> int:
        """Number of machines that run GitHub's workflows inside the network."""
        return self.runner.count if self.runner.repository else 0

    @property
    def has_interactive_cluster(self) -> bool:
        configured = self.training.interactive_cluster
        return self.release.enabled and (not self.production if configured is None else configured)

    @property
    def zones(self) -> list[str]:
        configured = self.reliability.zones
        return list(regions.zones_by_region()[self.location] if configured is None else configured)

    @property
    def zone_redundant(self) -> bool:
        """Whether stored data has copies in several zones."""
        default = "zone" if self.production and self.zones else "local"
        return (self.reliability.redundancy or default) == "zone"
