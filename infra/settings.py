"""Everything a stack can be told, validated once and frozen before any resource exists.

One pydantic model per config namespace (`training:workers` is `Settings.training.workers`). Components never read
`pulumi.Config`; they are handed what they need. Does not know names (`naming.py`) or defaults of Azure itself.
"""

import json
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from infra import addresses, capacity, compatibility, regions, tag_rules, tls

PRODUCTION = "prod"
ENVIRONMENT = r"^[a-z][a-z0-9]{1,9}$"
OF_THE_PROJECT = ("environment", "generation")
"""Settings in the project's own namespace; all others are in a group."""
REMOVED = {
    "budget:start": "The budget starts in the month of the first `up`.",
    "serving:tls_secret": "Set serving:tls_certificate and serving:tls_key: Azure ML creates the secret from them.",
}
"""Settings of earlier releases, each with what holds now."""


def _known_size(value: str) -> str:
    compatibility.require_size(value)
    return value


VmSize = Annotated[str, AfterValidator(_known_size)]
"""A VM size that stays on offer."""


def _known_dataset(value: str) -> str:
    known = sorted(file.stem for file in _DATASETS.glob("*.yaml"))
    if value not in known:
        raise ValueError(
            f"no spec {value!r} in workloads/datasets/, there are: {', '.join(known)}; "
            "docs/own-dataset/ says how to bring one"
        )
    return value


_DATASETS = Path(__file__).parents[1] / "workloads" / "datasets"
Dataset = Annotated[str, AfterValidator(_known_dataset)]
"""What the workload's wheel will hold."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def without_time(value: str | None) -> str | None:
    """The name as it was meant: Pulumi takes a day without quotes in a stack file for a moment in time."""
    return value.removesuffix(" 00:00:00 +0000 UTC") if value else value


class NetworkSettings(_Group):
    mode: Literal["public", "private"] = Field(
        "public", description="How the resources are reached: over public endpoints, or from one virtual network alone."
    )
    address_space: str = Field(
        "10.40.0.0/20", description="IPv4 range of the virtual network, cut into four equal subnets."
    )
    authorized_ranges: list[str] = Field(
        default_factory=list,
        description="IPv4 ranges that may reach the cluster's API server. Without any, the server of a private network "
        "has no public address, and that of a public one is open to all who can log in.",
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


class AccessSettings(_Group):
    # Source: azure-mgmt-authorization==4.0.0
    # azure/mgmt/authorization/v2022_04_01/models/_authorization_management_client_enums.py (`PrincipalType`)
    deployers: dict[str, Literal["ServicePrincipal", "User", "Group"]] = Field(
        default_factory=dict,
        description="Entra object ids that run releases, each with its kind. They may write to the lake, "
        "whose account keys are off.",
    )
    cluster_admins: list[str] = Field(
        default_factory=list, description="Entra group ids that administer the Kubernetes cluster."
    )
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (`single_user_name`)
    team: str | None = Field(
        None,
        min_length=1,
        description="Databricks group, of the account, that the interactive cluster is dedicated to and that may make "
        "clusters by its policy. Unset: whoever runs `up`, alone.",
    )
    purge_protection: bool = Field(
        True, description="Whether a deleted key vault can be purged before its retention ends. It cannot be undone."
    )


class ReliabilitySettings(_Group):
    # Source: MicrosoftDocs/azure-docs articles/reliability/availability-zones-overview.md (three in a region)
    zones: list[Literal["1", "2", "3"]] | None = Field(
        None, description="Availability zones of nodes and addresses. Unset: all that the region has."
    )
    redundancy: Literal["zone", "local"] | None = Field(
        None,
        description="Copies of what is stored: in several zones or in one. Unset: zone for prod where the region has "
        "zones, else local.",
    )
    # Source: MicrosoftDocs/azure-aks-docs articles/aks/planned-maintenance.md
    maintenance_day: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"] = Field(
        "Sunday", description="Day of the week on which the cluster and its nodes may upgrade themselves."
    )
    maintenance_hour: int = Field(1, ge=0, le=23, description="Hour, UTC, at which the four hours for upgrades begin.")


class AlertSettings(_Group):
    emails: list[str] = Field(default_factory=list, description="Who is told. Without any, alerts show in Azure alone.")
    error_share: float = Field(0.01, gt=0, lt=1, description="Share of requests answered 5xx within five minutes.")
    p99_ms: int = Field(250, ge=1, description="99th percentile of the time to answer, in milliseconds.")
    node_percent: int = Field(85, ge=1, le=100, description="Mean use of the nodes' CPU and memory, in percent.")
    model_age_days: int = Field(2, ge=1, description="Days since the model that serves was trained.")
    missing_share: float = Field(
        0.05, gt=0, le=1, description="Share of requests that hold a row in which no feature has a value."
    )


class BudgetSettings(_Group):
    monthly: int | None = Field(None, ge=1, description="Amount a month in the subscription's currency; unset: none.")
    # Source: azure-mgmt-consumption==11.0.0 azure/mgmt/consumption/models/_models.py (`Notification.threshold`: up to
    # 1000; "up to five notifications", of which the forecast's is one)
    steps: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [50, 80, 100], min_length=1, max_length=4, description="Percentages of the budget at which people are told."
    )


class TrainingSettings(_Group):
    dataset: Dataset = Field("movielens", description="Dataset spec of the workload package.")
    snapshot: Annotated[str | None, BeforeValidator(without_time)] = Field(
        None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Folder below raw/<dataset>/ that a run reads."
    )
    data: str | None = Field(None, description="Local folder or file to upload as the snapshot; its digest names it.")
    spark_version: str = Field("16.4.x-scala2.12", description="Databricks runtime; see infra/compatibility.yaml.")
    node_type: VmSize = Field("Standard_L8s_v3", description="VM size of driver and workers.")
    workers: int = Field(12, ge=0, le=200, description="Fixed number of workers; 0 is a single node.")
    spot: bool = Field(False, description="Whether workers may be evicted.")
    schedule: str = Field("0 0 3 * * ?", description="Quartz cron expression, UTC, of the daily run.")
    schedule_enabled: bool = Field(False, description="Whether Databricks itself starts the daily run.")
    timeout_minutes: int = Field(240, ge=5, le=1440, description="After this a run is stopped and fails.")
    interactive_cluster: bool | None = Field(
        None,
        description="Whether a release brings a cluster for people, of the job's definition. Unset: true, except for "
        "prod.",
    )
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (`autotermination_minutes`)
    interactive_minutes: int = Field(
        30, ge=10, le=10_000, description="Minutes without use after which a cluster of people ends itself."
    )
    run_hours: float = Field(1.0, gt=0, le=24, description="How long a run is expected to take, for the cost estimate.")

    @field_validator("spark_version")
    @classmethod
    def _runs_synapseml(cls, value: str) -> str:
        compatibility.require_runtime(value)
        return value

    @model_validator(mode="after")
    def _workers_must_stay(self) -> Self:
        if self.spot and self.workers > 1:
            raise ValueError(
                "training:spot breaks distributed LightGBM: one evicted worker stops the whole ring. "
                "Set training:spot to false, or training:workers to 1."
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.snapshot and self.data:
            raise ValueError(
                "training:snapshot and training:data both name the rows to train on. "
                "Set training:data to upload local files, or training:snapshot for a folder already in the lake."
            )
        return self


class ServingSettings(_Group):
    engine: Literal["native", "spark"] = Field("native", description="Scoring engine behind the one contract.")
    node_size: VmSize = Field("Standard_D4s_v5", description="VM size of the scoring pool.")
    system_node_size: VmSize | None = Field(
        None, description="VM size of the system pool. Unset: that of the scoring pool."
    )
    system_nodes: int = Field(2, ge=1, le=20, description="Nodes of the system pool.")
    nodes_min: int = Field(
        1,
        ge=1,
        le=100,
        description="Lower bound of the scoring pool's autoscaler. Unset: 1, or 3 for prod, where the router's three "
        "replicas run on as many nodes.",
    )
    nodes_max: int = Field(
        3, ge=1, le=100, description="Upper bound of the scoring pool's autoscaler. Unset: 3, or 4 for prod."
    )
    replicas_min: int = Field(1, ge=1, le=100, description="Replicas a deployment starts with and never goes below.")
    replicas_max: int = Field(4, ge=1, le=100, description="Replicas the inference router may scale to.")
    # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md
    cpu: str = Field("1", pattern=r"^[0-9]+(m|(\.[0-9]+)?)$", description="CPU a replica requests.")
    memory: str = Field(
        "1Gi",
        pattern=r"^[0-9]+(Mi|Gi)$",
        description="Memory a replica requests and may use. Unset: 1Gi, or 2000Mi for the engine spark with its JVM.",
    )
    instance_type: str | None = Field(
        None,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        description="Instance type that somebody created in the cluster, for replicas of 2 CPU or 2Gi and more. Unset: "
        "the default that every cluster has.",
    )
    concurrency: int = Field(16, ge=1, le=512, description="Requests a replica works on at once.")
    target_rps: float | None = Field(
        None, gt=0, description="Peak requests a second to plan for. Unset: the plan follows from the replica range."
    )
    latency_ms: float | None = Field(
        None, gt=0, description="99th percentile of a request's time in a replica, its wait included, to plan for."
    )
    utilisation: float = Field(0.7, gt=0, lt=1, description="Share of a replica's time that is busy at the peak.")
    service_ms: float | None = Field(
        None, gt=0, description="Measured time of one core a request takes. Unset: the engine's in infra/capacity.yaml."
    )
    # Source: MicrosoftDocs/azure-aks-docs articles/aks/supported-kubernetes-versions.md
    kubernetes_version: str | None = Field(
        None, pattern=r"^1\.[0-9]+(\.[0-9]+)?$", description="Kubernetes version of the cluster. Unset: AKS's default."
    )
    # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-endpoints-online-auth.md
    auth: Literal["Key", "AMLToken"] = Field("Key", description="How callers authenticate.")
    hostname: str | None = Field(None, description="Host name of the endpoint, one of those in its TLS certificate.")
    tls_certificate: str | None = Field(
        None, description="PEM text of the certificate for serving:hostname, then of the certificates that signed it."
    )
    tls_key: SecretStr | None = Field(None, description="PEM text of the certificate's RSA key. Set it with --secret.")

    @property
    def system_size(self) -> str:
        """VM size of the system pool."""
        return self.system_node_size or self.node_size

    @model_validator(mode="before")
    @classmethod
    def _memory_by_engine(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("engine") == "spark":
            return {"memory": "2000Mi", **values}
        return values

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for low, high in (("nodes_min", "nodes_max"), ("replicas_min", "replicas_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"serving:{low} is {getattr(self, low)}, above serving:{high} {getattr(self, high)}. "
                    f"Raise serving:{high} or lower serving:{low}."
                )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = (self.hostname, self.tls_certificate, self.tls_key)
        if any(given) and not all(given):
            # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-secure-kubernetes-online-endpoint.md
            raise ValueError(
                "serving:hostname, serving:tls_certificate and serving:tls_key go together. Set all three, or none for "
                "plain HTTP inside a trusted network."
            )
        if self.hostname and self.tls_certificate and self.tls_key:
            tls.require(self.tls_certificate, self.tls_key.get_secret_value(), self.hostname)
        return self

    @field_validator("kubernetes_version")
    @classmethod
    def _is_supported(cls, value: str | None) -> str | None:
        if value:
            compatibility.require_kubernetes(value)
        return value

    @model_validator(mode="after")
    def _can_be_scheduled(self) -> Self:
        capacity.plan(self)
        return self


class RunnerSettings(_Group):
    repository: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$",
        description="GitHub repository, <owner>/<name>, whose workflows get a runner inside the private network. "
        "Unset: none is created.",
    )
    app: int | None = Field(
        None, ge=1, description="Id of the GitHub App that registers the runner, with the permission Administration."
    )
    installation: int | None = Field(None, ge=1, description="Id of the App's installation on the repository's owner.")
    # Source: hashicorp/terraform-provider-azurerm internal/services/compute/validate/ssh_key.go
    ssh_key: str | None = Field(
        None,
        pattern=r"^(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+( .*)?$",
        description="SSH public key for a login to the machine from inside the network. Azure requires one.",
    )
    api: str = Field("https://api.github.com", pattern=r"^https://[^/]+[^ ]*[^/ ]$", description="GitHub's REST API.")
    size: VmSize = Field("Standard_D2s_v5", description="VM size of a runner.")
    count: int = Field(1, ge=1, le=20, description="Machines; each runs one job at a time.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = {name: getattr(self, name) for name in ("repository", "app", "installation", "ssh_key")}
        missing = [f"runner:{name}" for name, value in given.items() if value is None]
        if 0 < len(missing) < len(given):
            raise ValueError(
                f"a runner also needs {', '.join(missing)}: set all of them (docs/operations.md, A private stack)."
            )
        return self


class QualitySettings(_Group):
    auc_min: float = Field(0.65, ge=0.5, lt=1, description="Least area under the ROC curve, on probabilities.")
    log_loss_gain_min: float = Field(0.0, ge=0, description="Log loss must be below the base rate's by more than this.")
    calibration_gap_max: float = Field(
        0.05, gt=0, le=1, description="Greatest distance of mean probability from the click rate."
    )
    calibration_error_max: float = Field(
        0.1, gt=0, le=1, description="Greatest expected calibration error, over tenths of the held-out rows."
    )
    test_clicks_min: int = Field(100, ge=1, description="Fewer clicks in the held-out part cannot judge a model.")
    probability_spread_min: float = Field(
        0.05, ge=0, description="Least standard deviation of the probabilities, as a share of their mean."
    )
    commonest_probability_max: float = Field(
        0.5, gt=0, le=1, description="Greatest share of rows that are given one and the same probability."
    )
    feature_auc_max: float = Field(
        0.98,
        gt=0.5,
        le=1,
        description="Greatest area under the ROC curve of a single feature: above it, the feature holds the label.",
    )
    auc_drop_max: float = Field(
        0.005,
        ge=0,
        le=1,
        description="How far AUC may fall below that of what serves, at the kinder end of the change's 95 % interval.",
    )
    log_loss_rise_max: float = Field(
        0.005,
        ge=0,
        description="How far log loss may rise above that of what serves, at the kinder end of the 95 % interval.",
    )
    psi_max: float = Field(
        0.25,
        gt=0,
        description="Greatest population stability index of a feature against the training rows of what serves.",
    )
    unseen_rise_max: float = Field(
        0.2,
        ge=0,
        le=1,
        description="How much more of a feature's values the model which serves may not know than when it was trained.",
    )


class ReleaseSettings(_Group):
    enabled: bool = Field(True, description="Whether this stack trains and serves; false leaves the infrastructure.")
    model: Literal["trained", "latest"] | Annotated[int, Field(ge=1)] = Field(
        "trained",
        description="Model version to serve: what this stack trains; the latest of the job's own scheduled runs that "
        "passes the gate; or a number. Only the first trains.",
    )
    # Source: opencontainers/image-spec descriptor.md ("Digests")
    image: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Digest of an existing image for serving:engine in the stack's own registry, repository "
        "personalization-scoring: an earlier live one, or one that was pushed there. Unset: the image is built "
        "from scoring/.",
    )
    rollout: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [10, 50, 100], min_length=1, description="Traffic steps of a new deployment in percent, ending with 100."
    )

    error_share_max: float = Field(
        0.01, ge=0, lt=1, description="Share of probe requests that a new deployment may fail, at each step."
    )
    p99_ms_max: float = Field(
        500,
        gt=0,
        description="Greatest 99th percentile of a probe request's time, seen from where `up` runs. Within 1.5 times "
        "what serves it passes as well.",
    )
    drift_max: float = Field(
        0.5,
        gt=0,
        description="Largest mean difference from the live deployment's probabilities on the same rows, as a share of "
        "their mean. Not judged where release:model is a number or release:image is set.",
    )
    probe_rps: float = Field(50, gt=0, le=1000, description="Requests a second of the probe at each step.")
    probe_seconds: float = Field(4, gt=0, le=3600, description="How long the probe goes on at each step.")

    @model_validator(mode="after")
    def _steps_rise_to_all(self) -> Self:
        if self.rollout != sorted(set(self.rollout)) or self.rollout[-1] != 100:
            raise ValueError(f"release:rollout {self.rollout} must rise and end with 100, such as [10, 50, 100].")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Limits of a deployment at each step, as arguments of `infra/release/probe.py`."""
        names = {"error_share_max", "p99_ms_max", "probe_rps", "probe_seconds"}
        pinned = isinstance(self.model, int) or self.image is not None
        return self.model_dump(include=names if pinned else {*names, "drift_max"})


class Settings(_Group):
    environment: str = Field(pattern=ENVIRONMENT, description="Short name, part of every resource name.")
    location: str = Field(pattern=r"^[a-z0-9]+$", description="Azure region, such as westeurope.")
    generation: int = Field(
        1,
        ge=1,
        le=99,
        description="Raised before the first deployment, it renames everything: a way around soft-deleted names.",
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
        description="Tags for every resource, by Azure's rules. DNS zones get those with plain names, 15 at most. An "
        "endpoint keeps the tags of its creation, because a write removes its traffic for a while.",
    )

    @model_validator(mode="before")
    @classmethod
    def _nodes_by_environment(cls, values: Any) -> Any:
        if not str(values.get("environment")).startswith(PRODUCTION):
            return values
        return {**values, "serving": {"nodes_min": capacity.ROUTERS, "nodes_max": 4, **values.get("serving", {})}}

    @field_validator("location")
    @classmethod
    def _known(cls, value: str) -> str:
        regions.require(value)
        return value

    @field_validator("tags")
    @classmethod
    def _azure_takes_them(cls, value: dict[str, str]) -> dict[str, str]:
        tag_rules.require(value)
        return value

    @model_validator(mode="after")
    def _zones_are_where_they_are_wanted(self) -> Self:
        has = regions.zones_by_region()[self.location]
        if unknown := sorted(set(self.reliability.zones or ()) - set(has)):
            raise ValueError(
                f"reliability:zones names {', '.join(unknown)}; {self.location} has {', '.join(has) or 'no zones'}. "
                f"Set reliability:zones to {json.dumps(list(has))}, or leave it out."
            )
        if self.reliability.redundancy == "zone" and not has:
            raise ValueError(
                f"reliability:redundancy is zone, and {self.location} has no zones. Set it to local, or choose a "
                "region with zones."
            )
        return self

    @model_validator(mode="after")
    def _production_has_nodes_for_the_router(self) -> Self:
        if self.is_production:
            capacity.require_three_nodes(self.serving)
        return self

    @model_validator(mode="after")
    def _the_network_has_room(self) -> Self:
        machines = {
            # While a pool of another size or zone replaces one, both run.
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
    def _a_runner_is_inside(self) -> Self:
        if self.runners and not self.network.is_private:
            raise ValueError(
                "runner:repository is set and network:mode is public: GitHub's own runners reach a public stack. Set "
                "network:mode to private, or remove runner:repository."
            )
        return self

    @model_validator(mode="after")
    def _a_budget_tells_someone(self) -> Self:
        if self.budget.monthly and not self.alerts.emails:
            raise ValueError(
                "budget:monthly is set and alerts:emails is empty, so nobody would be told. Set "
                "pulumi config set --path 'alerts:emails[0]' <address>, or leave the budget out."
            )
        return self

    @model_validator(mode="after")
    def _a_release_needs_rows_and_someone_to_run_it(self) -> Self:
        if not self.release.enabled:
            return self
        if not (self.training.data or self.training.snapshot):
            raise ValueError(
                "training has no rows: set training:data to local files to upload, training:snapshot to a folder "
                "already in the lake, or release:enabled to false for a stack without a model."
            )
        if not self.access.deployers:
            raise ValueError(
                "access:deployers is empty, so nobody may write to the lake. Set it with "
                "pulumi config set --path 'access:deployers.<object id>' ServicePrincipal (or User)."
            )
        return self

    @property
    def support_ends(self) -> list[compatibility.SupportEnd]:
        """Versions in use, set or by default, whose support has ended or ends soon."""
        runtime = compatibility.runtime_support(self.training.spark_version) if self.release.enabled else None
        version = self.serving.kubernetes_version
        return [end for end in (runtime, version and compatibility.kubernetes_support(version)) if end]

    @property
    def is_production(self) -> bool:
        return self.environment.startswith(PRODUCTION)

    @property
    def runners(self) -> int:
        """Machines that run GitHub's workflows inside the network."""
        return self.runner.count if self.runner.repository else 0

    @property
    def has_interactive_cluster(self) -> bool:
        wanted = self.training.interactive_cluster
        return self.release.enabled and (not self.is_production if wanted is None else wanted)

    @property
    def zones(self) -> list[str]:
        wanted = self.reliability.zones
        return list(regions.zones_by_region()[self.location] if wanted is None else wanted)

    @property
    def zone_redundant(self) -> bool:
        """Whether what is stored has copies in several zones."""
        default = "zone" if self.is_production and self.zones else "local"
        return (self.reliability.redundancy or default) == "zone"
