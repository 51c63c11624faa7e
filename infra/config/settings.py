"""All settings of a stack, validated and frozen before the first resource is declared.

Each config namespace is one pydantic model: `training:workers` is `Settings.training.workers`. Components do not read
`pulumi.Config`; they get values as arguments. `docs/reference/configuration.md` is generated from the fields: their
descriptions, bounds and examples, and `rule` where a pattern or a validator holds the rule.

Does not read Pulumi's configuration or accept former names (`loading.py`), does not build resource names
(`naming.py`), and does not know Azure's own defaults.
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
from pydantic.config import JsonDict

from infra.config import addresses, tag_rules, tls
from infra.planning import capacity, compatibility, regions

ENVIRONMENT = r"^[a-z][a-z0-9]{1,9}$"
OF_THE_PROJECT = ("environment", "production", "generation")
"""Settings in the project's namespace. All others belong to a group."""
REMOVED = {
    "budget:start": "The budget starts in the month of the first `up`.",
    "serving:tls_secret": "Set serving:tls_certificate and serving:tls_key: Azure ML creates the secret from them.",
}
"""Settings of earlier releases that no longer exist, each with its replacement."""


def _rule(words: str) -> JsonDict:
    """Return schema extras with a field's rule in words, for fields whose rule is a pattern or a validator."""
    return {"rule": words}


def _known_size(value: str) -> str:
    compatibility.require_size(value)
    return value


VmSize = Annotated[
    str,
    AfterValidator(_known_size),
    Field(json_schema_extra=_rule("a VM size of infra/planning/vm_sizes.yaml that Azure does not retire")),
]
"""A VM size that Azure has not announced to retire."""


def _known_dataset(value: str) -> str:
    known = sorted(file.stem for file in _DATASETS.glob("*.yaml"))
    if value not in known:
        raise ValueError(
            f"no spec {value!r} in workloads/datasets/, which has {', '.join(known)}; docs/own-dataset/ explains how "
            "to add one"
        )
    return value


_DATASETS = Path(__file__).parents[2] / "workloads" / "datasets"
Dataset = Annotated[
    str, AfterValidator(_known_dataset), Field(json_schema_extra=_rule("name of a spec in workloads/datasets/"))
]
"""Name of a dataset spec in the workload's wheel."""


def _true_or_false(value: Any) -> bool:
    """Convert `value`, and refuse pydantic's other spellings (yes, 1, on): the policy pack reads the same text.

    See `policy/stack.py`.
    """
    if value not in (True, False, "true", "false"):
        raise ValueError(f"must be true or false, not {value!r}")
    return value in (True, "true")


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def without_time(value: str | None) -> str | None:
    """Remove the time that Pulumi adds to a date without quotes in a stack file."""
    return value.removesuffix(" 00:00:00 +0000 UTC") if value else value


class NetworkSettings(_Group):
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
        json_schema_extra=_rule(
            f"a private IPv4 range from /24 to /16, outside {addresses.POD_RANGE} (pods) and "
            f"{addresses.SERVICE_RANGE} (services), with an address for each node and training machine"
        ),
    )
    authorized_ranges: list[str] = Field(
        default_factory=list,
        description="IPv4 ranges that may connect to the Kubernetes API server. Empty: in a private stack the API "
        "server has no public address; in a public stack every address may connect, and must log in.",
        examples=[["203.0.113.0/24"]],
        json_schema_extra=_rule("each an IPv4 range"),
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
        description="Entra object ids that run releases, each with its kind. They get the role to write to the lake, "
        "because the lake's account keys are disabled.",
        examples=[{"22222222-2222-2222-2222-222222222222": "ServicePrincipal"}],
    )
    cluster_admins: list[str] = Field(
        default_factory=list,
        description="Object ids of Entra groups that administer the Kubernetes cluster.",
        examples=[["11111111-1111-1111-1111-111111111111"]],
    )
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (`single_user_name`)
    team: str | None = Field(
        None,
        min_length=1,
        description="Databricks account group to which the interactive cluster is dedicated. Its members may also "
        "create clusters with the cluster's policy. Unset: the cluster is dedicated to the identity that runs `up`.",
        examples=["data-science"],
    )
    # Source: MicrosoftDocs/azure-docs articles/key-vault/general/soft-delete-overview.md ("Purge protection")
    purge_protection: bool = Field(
        True,
        description="Purge protection of the key vault. true: nobody can purge a deleted vault before its retention of "
        "30 days ends, and the protection cannot be switched off later. false: a deleted vault can be purged at once.",
        examples=["false"],
    )


class ReliabilitySettings(_Group):
    # Source: MicrosoftDocs/azure-docs articles/reliability/availability-zones-overview.md (three in a region)
    zones: list[Literal["1", "2", "3"]] | None = Field(
        None,
        description="Availability zones of public IP addresses and, in production, of the nodes. Unset: all zones of "
        "the region.",
        examples=[["1", "2"]],
        json_schema_extra=_rule("zones that the region has"),
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


class AlertSettings(_Group):
    emails: list[str] = Field(
        default_factory=list,
        description="E-mail addresses that receive the alerts. Empty: alerts appear only in the Azure portal.",
        examples=[["platform@example.com"]],
    )
    error_share: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="An alert fires if the share of requests answered with 5xx within five minutes is larger.",
        examples=[0.02],
    )
    p99_ms: int = Field(
        250,
        ge=1,
        description="An alert fires if the 99th percentile of the response time, in milliseconds, is higher.",
        examples=[300],
    )
    node_percent: int = Field(
        85,
        ge=1,
        le=100,
        description="An alert fires if the mean CPU or memory use of the nodes, in percent, is higher.",
        examples=[90],
    )
    model_age_days: int = Field(
        2, ge=1, description="An alert fires if the live model was trained more than this many days ago.", examples=[3]
    )
    featureless_share: float = Field(
        0.05,
        gt=0,
        le=1,
        description="An alert fires if the share of requests with a row in which every feature is missing is larger.",
        examples=[0.1],
    )


class BudgetSettings(_Group):
    monthly: int | None = Field(
        None,
        ge=1,
        description="Monthly budget in the subscription's currency. Unset: no budget is created.",
        examples=[3000],
    )
    # Source: azure-mgmt-consumption==11.0.0 azure/mgmt/consumption/models/_models.py (`Notification.threshold`: up to
    # 1000; "up to five notifications", of which the forecast's is one)
    thresholds_percent: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [50, 80, 100],
        min_length=1,
        max_length=4,
        description="Percentages of the budget at which Azure sends an e-mail to alerts:emails.",
        examples=[[80, 100]],
    )


class TrainingSettings(_Group):
    dataset: Dataset = Field("movielens", description="Dataset spec to train with.", examples=["criteo"])
    snapshot: Annotated[str | None, BeforeValidator(without_time)] = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Folder in the lake, raw/<dataset>/<snapshot>/, that holds the training rows.",
        examples=["2026-11-26"],
        json_schema_extra=_rule("1 to 64 letters, digits, dots, hyphens and underscores"),
    )
    local_data: str | None = Field(
        None,
        description="Local folder or file that `up` uploads as the snapshot. The snapshot's name is the digest of its "
        "rows.",
        examples=["first-rows"],
    )
    spark_version: str = Field(
        "16.4.x-scala2.12",
        description="Databricks runtime of the training job.",
        examples=["16.4.x-scala2.12"],
        json_schema_extra=_rule("a runtime of infra/planning/compatibility.yaml on which SynapseML runs"),
    )
    node_type: VmSize = Field(
        "Standard_L8s_v3", description="VM size of the driver and of each worker.", examples=["Standard_D4s_v5"]
    )
    workers: int = Field(
        12, ge=0, le=200, description="Fixed number of workers. 0: a single node, the driver.", examples=[2]
    )
    spot: bool = Field(
        False,
        description="Whether workers are spot VMs, which cost less and can be evicted during a run.",
        examples=["true"],
        json_schema_extra=_rule("true only with training:workers 0 or 1"),
    )
    schedule: str = Field(
        "0 0 3 * * ?",
        description="Time of the daily run (UTC) as a Quartz cron expression.",
        examples=["0 30 4 * * ?"],
    )
    schedule_enabled: bool = Field(
        False,
        description="true: Databricks starts the daily run by training:schedule. false: the daily workflow or `up` "
        "starts it.",
        examples=["true"],
    )
    timeout_minutes: int = Field(
        240, ge=5, le=1440, description="Minutes after which Databricks cancels a run; it then fails.", examples=[120]
    )
    interactive_cluster: bool | None = Field(
        None,
        description="Whether a release also creates an interactive cluster for notebooks, with the job's cluster "
        "definition. Unset: false in production, otherwise true.",
        examples=["false"],
    )
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (`autotermination_minutes`)
    autotermination_minutes: int = Field(
        30,
        ge=10,
        le=10_000,
        description="Idle minutes after which Databricks terminates an interactive cluster.",
        examples=[60],
    )
    run_hours: float = Field(
        1.0, gt=0, le=24, description="Expected duration of a run in hours, for the cost estimate only.", examples=[0.5]
    )

    @field_validator("spark_version")
    @classmethod
    def _runs_synapseml(cls, value: str) -> str:
        compatibility.require_runtime(value)
        return value

    @model_validator(mode="after")
    def _a_ring_has_no_spot_workers(self) -> Self:
        if self.spot and self.workers > 1:
            raise ValueError(
                "training:spot is not allowed with more than one worker: LightGBM's network ring stops if one of them "
                "is evicted. Set training:spot to false, or training:workers to 1."
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.snapshot and self.local_data:
            raise ValueError(
                "training:snapshot and training:local_data both name the rows to train on. Set only one: "
                "training:local_data to upload local files, or training:snapshot for a folder already in the lake."
            )
        return self


class ServingSettings(_Group):
    engine: Literal["native", "spark"] = Field(
        "native",
        description="Scoring engine. native: LightGBM's C library. spark: Spark Serving with SynapseML. Both return "
        "the same probabilities.",
        examples=["spark"],
    )
    node_size: VmSize = Field(
        "Standard_D4s_v5", description="VM size of the scoring node pool.", examples=["Standard_D8s_v5"]
    )
    system_node_size: VmSize | None = Field(
        None,
        description="VM size of the system node pool. Unset: the value of serving:node_size.",
        examples=["Standard_D4s_v5"],
    )
    system_nodes: int = Field(2, ge=1, le=20, description="Number of nodes of the system node pool.", examples=[3])
    nodes_min: int = Field(
        1,
        ge=1,
        le=100,
        description="Smallest number of nodes of the scoring pool's autoscaler. Unset: 1; in production 3, because "
        "each of the inference router's three replicas needs its own node.",
        examples=[2],
    )
    nodes_max: int = Field(
        3,
        ge=1,
        le=100,
        description="Largest number of nodes of the scoring pool's autoscaler. Unset: 3; in production 4.",
        examples=[4],
    )
    replicas_min: int = Field(
        1,
        ge=1,
        le=100,
        description="Smallest number of replicas of a deployment, and the number it starts with.",
        examples=[2],
    )
    replicas_max: int = Field(
        4,
        ge=1,
        le=100,
        description="Largest number of replicas to which the inference router scales a deployment.",
        examples=[5],
    )
    # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md
    cpu: str = Field(
        "1",
        pattern=r"^[0-9]+(m|(\.[0-9]+)?)$",
        description="CPU cores that a replica requests.",
        examples=["500m"],
        json_schema_extra=_rule("a number of cores (1, 1.5) or of millicores (500m)"),
    )
    memory: str = Field(
        "1Gi",
        pattern=r"^[0-9]+(Mi|Gi)$",
        description="Memory request and limit of a replica. Unset: 1Gi; for the engine spark 2000Mi, because it runs a "
        "JVM.",
        examples=["1500Mi"],
        json_schema_extra=_rule("a whole number with the unit Mi or Gi"),
    )
    instance_type: str | None = Field(
        None,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        description="Azure ML instance type that an administrator created in the cluster. Required for replicas of 2 "
        "CPU or 2Gi and more. Unset: the default instance type, which every cluster has.",
        examples=["large"],
        json_schema_extra=_rule("lower-case letters, digits and hyphens; no hyphen at the start or the end"),
    )
    concurrency: int = Field(
        16, ge=1, le=512, description="Requests that a replica processes concurrently.", examples=[32]
    )
    target_rps: float | None = Field(
        None,
        gt=0,
        description="Requests per second at peak load, for the capacity plan. Unset: the plan uses the range from "
        "serving:replicas_min to serving:replicas_max.",
        examples=[500],
    )
    latency_ms: float | None = Field(
        None,
        gt=0,
        description="Upper limit in the capacity plan for the 99th percentile of a request's time in a replica, in "
        "milliseconds, including the time it waits. Unset: only serving:utilisation limits the plan.",
        examples=[50],
    )
    utilisation: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="Largest share of a replica's time that may be busy at peak load, for the capacity plan.",
        examples=[0.6],
    )
    service_ms: float | None = Field(
        None,
        gt=0,
        description="Measured CPU time of one request in milliseconds, for the capacity plan. Unset: the value for "
        "the engine in infra/planning/capacity.yaml.",
        examples=[2.5],
    )
    # Source: MicrosoftDocs/azure-aks-docs articles/aks/supported-kubernetes-versions.md
    kubernetes_version: str | None = Field(
        None,
        pattern=r"^1\.[0-9]+(\.[0-9]+)?$",
        description="Kubernetes version of the cluster. Unset: AKS's default.",
        examples=["1.36"],
        json_schema_extra=_rule(
            "1.<minor> or 1.<minor>.<patch>, supported according to infra/planning/compatibility.yaml"
        ),
    )
    # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-endpoints-online-auth.md
    auth: Literal["Key", "AMLToken"] = Field(
        "Key",
        description="How callers of the endpoint authenticate. Key: with a key. AMLToken: with a token that expires.",
        examples=["AMLToken"],
    )
    hostname: str | None = Field(
        None,
        description="Host name of the endpoint. Unset: callers use the inference router's IP address and plain HTTP.",
        examples=["scores.example.com"],
        json_schema_extra=_rule("one of the names in serving:tls_certificate"),
    )
    tls_certificate: str | None = Field(
        None,
        description="TLS certificate for serving:hostname as PEM text, followed by its chain of issuers.",
        examples=["< scores.pem"],
    )
    tls_key: SecretStr | None = Field(
        None, description="RSA private key of serving:tls_certificate as PEM text.", examples=["< scores.key"]
    )

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
    def _ranges_are_ordered(self) -> Self:
        for low, high in (("nodes_min", "nodes_max"), ("replicas_min", "replicas_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"serving:{low} is {getattr(self, low)}, above serving:{high} {getattr(self, high)}. "
                    f"Raise serving:{high} or lower serving:{low}."
                )
        return self

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Self:
        given = (self.hostname, self.tls_certificate, self.tls_key)
        if any(given) and not all(given):
            # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-secure-kubernetes-online-endpoint.md
            raise ValueError(
                "serving:hostname, serving:tls_certificate and serving:tls_key must be set together. Set all three, or "
                "none of them for plain HTTP inside a trusted network."
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
        description="GitHub repository whose workflows run on a runner that the stack creates inside the private "
        "network. Unset: no runner is created.",
        examples=["octo-org/personalization"],
        json_schema_extra=_rule("<owner>/<name>"),
    )
    app: int | None = Field(
        None,
        ge=1,
        description="Id of the GitHub App that registers the runner. The App needs the repository permission "
        "Administration (read and write).",
        examples=[1234],
    )
    installation: int | None = Field(
        None, ge=1, description="Id of the App's installation in the owner's account.", examples=[5678]
    )
    # Source: hashicorp/terraform-provider-azurerm internal/services/compute/validate/ssh_key.go
    ssh_key: str | None = Field(
        None,
        pattern=r"^(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+( .*)?$",
        description="SSH public key for logins to the machine from inside the network. Azure requires one.",
        examples=["$(cat operator.pub)"],
        json_schema_extra=_rule("one line: ssh-rsa or ssh-ed25519, the key, and optionally a comment"),
    )
    api: str = Field(
        "https://api.github.com",
        pattern=r"^https://[^/]+[^ ]*[^/ ]$",
        description="Address of GitHub's REST API.",
        examples=["https://github.example.com/api/v3"],
        json_schema_extra=_rule("an https:// address without spaces and without a slash at the end"),
    )
    size: VmSize = Field("Standard_D2s_v5", description="VM size of a runner.", examples=["Standard_D4s_v5"])
    count: int = Field(1, ge=1, le=20, description="Number of machines. Each runs one job at a time.", examples=[2])

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = {name: getattr(self, name) for name in ("repository", "app", "installation", "ssh_key")}
        missing = [f"runner:{name}" for name, value in given.items() if value is None]
        if 0 < len(missing) < len(given):
            raise ValueError(
                f"a runner also needs {', '.join(missing)}: set all of them (docs/operations.md, 'A private stack')."
            )
        return self


class QualitySettings(_Group):
    auc_min: float = Field(
        0.65, ge=0.5, lt=1, description="Smallest area under the ROC curve on the test set.", examples=[0.7]
    )
    log_loss_gain_min: float = Field(
        0.0,
        ge=0,
        description="The log loss must be lower by more than this than the log loss of a constant prediction, the "
        "click rate.",
        examples=[0.005],
    )
    calibration_gap_max: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Largest difference between the mean probability and the click rate.",
        examples=[0.02],
    )
    calibration_error_max: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Largest expected calibration error over ten groups of the test set.",
        examples=[0.05],
    )
    test_clicks_min: int = Field(
        100,
        ge=1,
        description="Smallest number of clicks in the test set. With fewer clicks the other figures are too uncertain.",
        examples=[500],
    )
    probability_spread_min: float = Field(
        0.05,
        ge=0,
        description="Smallest standard deviation of the probabilities, divided by their mean.",
        examples=[0.1],
    )
    mode_share_max: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Largest share of rows that may get the most frequent probability.",
        examples=[0.3],
    )
    feature_auc_max: float = Field(
        0.98,
        gt=0.5,
        le=1,
        description="Largest area under the ROC curve of a single feature. A feature above it probably contains the "
        "label.",
        examples=[0.95],
    )
    auc_drop_max: float = Field(
        0.005,
        ge=0,
        le=1,
        description="Largest drop of the AUC from the live model to the candidate, at the optimistic bound of the 95 % "
        "interval of the change.",
        examples=[0.01],
    )
    log_loss_rise_max: float = Field(
        0.005,
        ge=0,
        description="Largest rise of the log loss from the live model to the candidate, at the optimistic bound of the "
        "95 % interval of the change.",
        examples=[0.01],
    )
    psi_max: float = Field(
        0.25,
        gt=0,
        description="Largest feature drift: population stability index of a feature, compared with the live model's "
        "training rows.",
        examples=[0.4],
    )
    unseen_rise_max: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Largest rise of a feature's share of values that the live model does not know, compared with the "
        "live model's training rows.",
        examples=[0.3],
    )

    @property
    def limits(self) -> dict[str, float]:
        """Limits of the gate by rule, as `infra/release/checks/gate.py` takes them.

        They are stored in the state under these names; another name would update every registered model version.
        """
        limits = self.model_dump()
        limits["commonest_probability_max"] = limits.pop("mode_share_max")
        return limits


class ReleaseSettings(_Group):
    enabled: bool = Field(
        True,
        description="Whether the stack trains and serves a model. false: it has only the infrastructure.",
        examples=["false"],
    )
    model: Literal["trained", "latest"] | Annotated[int, Field(ge=1)] = Field(
        "trained",
        description="Model version to serve. trained: the model that this `up` trains. latest: the newest model from "
        "the job's scheduled runs that passes the gate. A number: that version, for a rollback. Only trained starts a "
        "training run.",
        examples=[3],
    )
    # Source: opencontainers/image-spec descriptor.md ("Digests")
    image: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Digest of an existing image for serving:engine in the repository personalization-scoring of the "
        "stack's registry: an earlier live image, or an image that you pushed. Unset: the image is built from "
        "scoring/.",
        examples=[f"sha256:{'1' * 64}"],
        json_schema_extra=_rule("sha256: followed by 64 lower-case hexadecimal digits"),
    )
    traffic_steps: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [10, 50, 100],
        min_length=1,
        description="Percentages of the traffic that the candidate gets, step by step.",
        examples=[[5, 25, 100]],
        json_schema_extra=_rule("ascending, the last is 100"),
    )
    error_share_max: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="Largest share of probe requests that may fail at each traffic step.",
        examples=[0.005],
    )
    p99_ms_max: float = Field(
        500,
        gt=0,
        description="Largest 99th percentile of the probe's response time in milliseconds, measured on the machine "
        "that runs `up`. A candidate also passes if it takes at most 1.5 times as long as the live deployment.",
        examples=[300],
    )
    prediction_shift_max: float = Field(
        0.5,
        gt=0,
        description="Largest prediction shift: mean difference from the live deployment's probabilities on the same "
        "rows, divided by their mean. Not checked if release:model is a number or release:image is set.",
        examples=[0.3],
    )
    probe_rps: float = Field(
        50, gt=0, le=1000, description="Probe requests per second at each traffic step.", examples=[100]
    )
    probe_seconds: float = Field(
        4, gt=0, le=3600, description="Seconds for which the probe runs at each traffic step.", examples=[30]
    )

    @model_validator(mode="after")
    def _steps_rise_to_all(self) -> Self:
        steps = self.traffic_steps
        if steps != sorted(set(steps)) or steps[-1] != 100:
            raise ValueError(f"release:traffic_steps {steps} must rise and end with 100, such as [10, 50, 100].")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Limits of a deployment at each step, as `infra/release/checks/probe.py` takes them.

        They are stored in the state under these names; another name would update every existing rollout.
        """
        limits = self.model_dump(include={"error_share_max", "p99_ms_max", "probe_rps", "probe_seconds"})
        pinned = isinstance(self.model, int) or self.image is not None
        return limits if pinned else {**limits, "drift_max": self.prediction_shift_max}


class Settings(_Group):
    environment: str = Field(
        pattern=ENVIRONMENT,
        description="Short name of the environment, part of every resource name.",
        examples=["dev"],
        json_schema_extra=_rule("2 to 10 lower-case letters and digits, the first a letter"),
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
        json_schema_extra=_rule("a region of infra/planning/regions.yaml"),
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
        json_schema_extra=_rule(
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
