"""Every setting of a stack, validated once and frozen before any resource exists.

One pydantic model per config namespace (`training:workers` is `Settings.training.workers`). Components never read
`pulumi.Config`; they get the values they need as arguments. Does not know names (`naming.py`) or defaults of Azure
itself. `docs/reference/configuration.md` is generated from the fields: their descriptions, bounds, examples, and the
rules in words where a pattern or a validator has the rule.
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

PRODUCTION = "prod"
ENVIRONMENT = r"^[a-z][a-z0-9]{1,9}$"
OF_THE_PROJECT = ("environment", "generation")
"""Settings in the project's own namespace; all others are in a group."""
REMOVED = {
    "budget:start": "The budget starts in the month of the first `up`.",
    "serving:tls_secret": "Set serving:tls_certificate and serving:tls_key: Azure ML creates the secret from them.",
}
"""Settings of earlier releases, each with what holds now."""


def _rule(words: str) -> JsonDict:
    """A field's rule in words, for the reference page, where a pattern or a validator has it."""
    return {"rule": words}


def _known_size(value: str) -> str:
    compatibility.require_size(value)
    return value


VmSize = Annotated[
    str,
    AfterValidator(_known_size),
    Field(json_schema_extra=_rule("a VM size of infra/planning/vm_sizes.yaml that Azure does not retire")),
]
"""A VM size that stays on offer."""


def _known_dataset(value: str) -> str:
    known = sorted(file.stem for file in _DATASETS.glob("*.yaml"))
    if value not in known:
        raise ValueError(
            f"no spec {value!r} in workloads/datasets/, there are: {', '.join(known)}; "
            "docs/own-dataset/ says how to bring one"
        )
    return value


_DATASETS = Path(__file__).parents[2] / "workloads" / "datasets"
Dataset = Annotated[
    str, AfterValidator(_known_dataset), Field(json_schema_extra=_rule("name of a spec in workloads/datasets/"))
]
"""Name of a dataset spec that the workload's wheel contains."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def without_time(value: str | None) -> str | None:
    """The name as it was meant: Pulumi takes a day without quotes in a stack file for a moment in time."""
    return value.removesuffix(" 00:00:00 +0000 UTC") if value else value


class NetworkSettings(_Group):
    mode: Literal["public", "private"] = Field(
        "public",
        description="Whether the resources have public endpoints, or are reachable only from the stack's own virtual "
        "network.",
        examples=["private"],
    )
    address_space: str = Field(
        "10.40.0.0/20",
        description="IPv4 range of the virtual network of a private stack. It is split into four equal subnets.",
        examples=["10.40.0.0/20"],
        json_schema_extra=_rule(
            f"a private IPv4 range from /24 to /16, outside {addresses.POD_RANGE} (pods) and "
            f"{addresses.SERVICE_RANGE} (services), with an address for each node and training machine"
        ),
    )
    authorized_ranges: list[str] = Field(
        default_factory=list,
        description="IPv4 ranges that may reach the Kubernetes API server. Empty: the API server of a private stack "
        "has no public address; that of a public stack accepts connections from everywhere, and needs a login.",
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
        description="Entra object ids that run releases, each with its kind. They may write to the lake, "
        "whose account keys are disabled.",
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
        description="Group of the Databricks account that the interactive cluster is dedicated to. Its members may "
        "also create clusters under the cluster's policy. Unset: only the identity that runs `up` has the cluster.",
        examples=["data-science"],
    )
    # Source: MicrosoftDocs/azure-docs articles/key-vault/general/soft-delete-overview.md ("Purge protection")
    purge_protection: bool = Field(
        True,
        description="Purge protection of the key vault. true: nobody can purge a deleted vault before its retention of "
        "30 days ends, and the protection cannot be switched off again. false: a deleted vault can be purged at once.",
        examples=["false"],
    )


class ReliabilitySettings(_Group):
    # Source: MicrosoftDocs/azure-docs articles/reliability/availability-zones-overview.md (three in a region)
    zones: list[Literal["1", "2", "3"]] | None = Field(
        None,
        description="Availability zones of a production stack's nodes, and of public addresses. Unset: all zones of "
        "the region.",
        examples=[["1", "2"]],
        json_schema_extra=_rule("zones that the region has"),
    )
    redundancy: Literal["zone", "local"] | None = Field(
        None,
        description="Where the copies of stored data are: in several zones, or in one. Unset: zone for prod if the "
        "region has zones, else local.",
        examples=["zone"],
    )
    # Source: MicrosoftDocs/azure-aks-docs articles/aks/planned-maintenance.md
    maintenance_day: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"] = Field(
        "Sunday",
        description="Day of the week on which AKS may upgrade the cluster and its nodes.",
        examples=["Saturday"],
    )
    maintenance_hour: int = Field(
        1, ge=0, le=23, description="Hour (UTC) at which the four hours for upgrades begin.", examples=[3]
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
        description="An alert fires if a larger share of requests is answered with 5xx within five minutes.",
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
        2, ge=1, description="An alert fires if the live model was trained more days ago than this.", examples=[3]
    )
    missing_share: float = Field(
        0.05,
        gt=0,
        le=1,
        description="An alert fires if a larger share of requests contains a row in which no feature has a value.",
        examples=[0.1],
    )


class BudgetSettings(_Group):
    monthly: int | None = Field(
        None,
        ge=1,
        description="Budget per month in the subscription's currency. Unset: no budget is created.",
        examples=[3000],
    )
    # Source: azure-mgmt-consumption==11.0.0 azure/mgmt/consumption/models/_models.py (`Notification.threshold`: up to
    # 1000; "up to five notifications", of which the forecast's is one)
    steps: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [50, 80, 100],
        min_length=1,
        max_length=4,
        description="Percentages of the budget at which an e-mail goes to alerts:emails.",
        examples=[[80, 100]],
    )


class TrainingSettings(_Group):
    dataset: Dataset = Field("movielens", description="Dataset spec to train with.", examples=["criteo"])
    snapshot: Annotated[str | None, BeforeValidator(without_time)] = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Folder in the lake, raw/<dataset>/<snapshot>/, with the rows to train on.",
        examples=["2026-11-26"],
        json_schema_extra=_rule("1 to 64 letters, digits, dots, hyphens and underscores"),
    )
    data: str | None = Field(
        None,
        description="Local folder or file to upload as the snapshot. The snapshot is named by the digest of its rows.",
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
        description="Whether workers are spot machines, which cost less and which Azure may take away during a run.",
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
        description="Whether Databricks starts the daily run by training:schedule. false: the daily workflow or `up` "
        "starts it.",
        examples=["true"],
    )
    timeout_minutes: int = Field(
        240, ge=5, le=1440, description="Minutes after which a run is stopped and fails.", examples=[120]
    )
    interactive_cluster: bool | None = Field(
        None,
        description="Whether a release also creates an interactive cluster, for notebooks, with the job's definition. "
        "Unset: true, but false for prod.",
        examples=["false"],
    )
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (`autotermination_minutes`)
    interactive_minutes: int = Field(
        30,
        ge=10,
        le=10_000,
        description="Minutes without use after which Databricks terminates an interactive cluster.",
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
    engine: Literal["native", "spark"] = Field(
        "native",
        description="Scoring engine: LightGBM's C library, or Spark Serving with SynapseML. Both give equal answers.",
        examples=["spark"],
    )
    node_size: VmSize = Field(
        "Standard_D4s_v5", description="VM size of the scoring node pool.", examples=["Standard_D8s_v5"]
    )
    system_node_size: VmSize | None = Field(
        None,
        description="VM size of the system node pool. Unset: the same as serving:node_size.",
        examples=["Standard_D4s_v5"],
    )
    system_nodes: int = Field(2, ge=1, le=20, description="Number of nodes of the system node pool.", examples=[3])
    nodes_min: int = Field(
        1,
        ge=1,
        le=100,
        description="Fewest nodes of the scoring pool's autoscaler. Unset: 1, or 3 for prod, where each of the "
        "router's three replicas needs its own node.",
        examples=[2],
    )
    nodes_max: int = Field(
        3,
        ge=1,
        le=100,
        description="Most nodes of the scoring pool's autoscaler. Unset: 3, or 4 for prod.",
        examples=[4],
    )
    replicas_min: int = Field(
        1,
        ge=1,
        le=100,
        description="Fewest replicas of a deployment, which it also starts with.",
        examples=[2],
    )
    replicas_max: int = Field(
        4, ge=1, le=100, description="Most replicas to which the inference router scales a deployment.", examples=[5]
    )
    # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md
    cpu: str = Field(
        "1",
        pattern=r"^[0-9]+(m|(\.[0-9]+)?)$",
        description="CPU cores that a replica requests.",
        examples=["500m"],
        json_schema_extra=_rule("a number of cores (1, 1.5) or of thousandths of a core (500m)"),
    )
    memory: str = Field(
        "1Gi",
        pattern=r"^[0-9]+(Mi|Gi)$",
        description="Memory that a replica requests, and its limit. Unset: 1Gi, or 2000Mi for the engine spark, which "
        "has a JVM.",
        examples=["1500Mi"],
        json_schema_extra=_rule("a whole number with the unit Mi or Gi"),
    )
    instance_type: str | None = Field(
        None,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        description="Azure ML instance type that an administrator created in the cluster. Replicas of 2 CPU or 2Gi and "
        "more need one. Unset: the default instance type, which every cluster has.",
        examples=["large"],
        json_schema_extra=_rule("lower-case letters, digits and hyphens; neither first nor last a hyphen"),
    )
    concurrency: int = Field(16, ge=1, le=512, description="Requests that a replica works on at once.", examples=[32])
    target_rps: float | None = Field(
        None,
        gt=0,
        description="Requests per second at the peak, for the capacity plan. Unset: the plan uses the replica range.",
        examples=[500],
    )
    latency_ms: float | None = Field(
        None,
        gt=0,
        description="99th percentile of the time of a request in a replica, in milliseconds and with its wait, that "
        "the capacity plan must keep. Unset: the plan keeps serving:utilisation only.",
        examples=[50],
    )
    utilisation: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="Largest share of a replica's time that is busy at the peak, for the capacity plan.",
        examples=[0.6],
    )
    service_ms: float | None = Field(
        None,
        gt=0,
        description="Measured CPU time of one request in milliseconds, for the capacity plan. Unset: the engine's "
        "figure in infra/planning/capacity.yaml.",
        examples=[2.5],
    )
    # Source: MicrosoftDocs/azure-aks-docs articles/aks/supported-kubernetes-versions.md
    kubernetes_version: str | None = Field(
        None,
        pattern=r"^1\.[0-9]+(\.[0-9]+)?$",
        description="Kubernetes version of the cluster. Unset: AKS's default.",
        examples=["1.36"],
        json_schema_extra=_rule("1.<minor> or 1.<minor>.<patch>, in support by infra/planning/compatibility.yaml"),
    )
    # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-endpoints-online-auth.md
    auth: Literal["Key", "AMLToken"] = Field(
        "Key",
        description="How callers of the endpoint authenticate: with a key, or with a token that expires.",
        examples=["AMLToken"],
    )
    hostname: str | None = Field(
        None,
        description="Host name of the endpoint. Unset: the endpoint has the router's address, over plain HTTP.",
        examples=["scores.example.com"],
        json_schema_extra=_rule("one of the names in serving:tls_certificate"),
    )
    tls_certificate: str | None = Field(
        None,
        description="TLS certificate for serving:hostname as PEM text, followed by the certificates that signed it.",
        examples=["< scores.pem"],
    )
    tls_key: SecretStr | None = Field(
        None, description="Private key of serving:tls_certificate, RSA, as PEM text.", examples=["< scores.key"]
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
        description="GitHub repository for whose workflows the stack creates a runner inside the private network. "
        "Unset: no runner is created.",
        examples=["octo-org/personalization"],
        json_schema_extra=_rule("<owner>/<name>"),
    )
    app: int | None = Field(
        None,
        ge=1,
        description="Id of the GitHub App that registers the runner. It needs the repository permission "
        "Administration (read and write).",
        examples=[1234],
    )
    installation: int | None = Field(
        None, ge=1, description="Id of the App's installation on the repository's owner.", examples=[5678]
    )
    # Source: hashicorp/terraform-provider-azurerm internal/services/compute/validate/ssh_key.go
    ssh_key: str | None = Field(
        None,
        pattern=r"^(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+( .*)?$",
        description="SSH public key for a login to the machine from inside the network. Azure requires one.",
        examples=["$(cat operator.pub)"],
        json_schema_extra=_rule("one line: ssh-rsa or ssh-ed25519, the key, and a comment if you like"),
    )
    api: str = Field(
        "https://api.github.com",
        pattern=r"^https://[^/]+[^ ]*[^/ ]$",
        description="Address of GitHub's REST API.",
        examples=["https://github.example.com/api/v3"],
        json_schema_extra=_rule("an https:// address without spaces and without a slash at its end"),
    )
    size: VmSize = Field("Standard_D2s_v5", description="VM size of a runner.", examples=["Standard_D4s_v5"])
    count: int = Field(1, ge=1, le=20, description="Number of machines. Each runs one job at a time.", examples=[2])

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
    auc_min: float = Field(
        0.65, ge=0.5, lt=1, description="Smallest area under the ROC curve on the test set.", examples=[0.7]
    )
    log_loss_gain_min: float = Field(
        0.0,
        ge=0,
        description="The log loss must be lower than that of the constant click rate by more than this.",
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
        description="Largest expected calibration error, computed over ten groups of the test set.",
        examples=[0.05],
    )
    test_clicks_min: int = Field(
        100, ge=1, description="Fewest clicks in the test set. With fewer, a model cannot be judged.", examples=[500]
    )
    probability_spread_min: float = Field(
        0.05,
        ge=0,
        description="Smallest standard deviation of the probabilities, as a share of their mean.",
        examples=[0.1],
    )
    commonest_probability_max: float = Field(
        0.5, gt=0, le=1, description="Largest share of rows that get the same probability.", examples=[0.3]
    )
    feature_auc_max: float = Field(
        0.98,
        gt=0.5,
        le=1,
        description="Largest area under the ROC curve of a single feature. Above it, the feature contains the label.",
        examples=[0.95],
    )
    auc_drop_max: float = Field(
        0.005,
        ge=0,
        le=1,
        description="Largest drop of the AUC below the live model's, by the optimistic bound of the change's 95 % "
        "interval.",
        examples=[0.01],
    )
    log_loss_rise_max: float = Field(
        0.005,
        ge=0,
        description="Largest rise of the log loss above the live model's, by the optimistic bound of the change's 95 % "
        "interval.",
        examples=[0.01],
    )
    psi_max: float = Field(
        0.25,
        gt=0,
        description="Largest population stability index of a feature against the live model's training rows.",
        examples=[0.4],
    )
    unseen_rise_max: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Largest rise of the share of a feature's values that the live model does not know, compared with "
        "the rows it was trained on.",
        examples=[0.3],
    )


class ReleaseSettings(_Group):
    enabled: bool = Field(
        True,
        description="Whether the stack trains and serves a model. false: only the infrastructure exists.",
        examples=["false"],
    )
    model: Literal["trained", "latest"] | Annotated[int, Field(ge=1)] = Field(
        "trained",
        description="Model version to serve. trained: the model that this stack trains now. latest: the newest model "
        "of the job's scheduled runs that passes the gate. A number: that version, as for a rollback. Only trained "
        "starts a training run.",
        examples=[3],
    )
    # Source: opencontainers/image-spec descriptor.md ("Digests")
    image: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Digest of an existing image of serving:engine in the stack's own registry, repository "
        "personalization-scoring: an earlier live image, or one that you pushed. Unset: the image is built from "
        "scoring/.",
        examples=[f"sha256:{'1' * 64}"],
        json_schema_extra=_rule("sha256: and 64 hexadecimal digits in lower case"),
    )
    rollout: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [10, 50, 100],
        min_length=1,
        description="Traffic steps of a new deployment in percent.",
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
        description="Largest 99th percentile of the probe's response time in milliseconds, measured where `up` runs. A "
        "new deployment also passes if it takes at most 1.5 times as long as the live deployment.",
        examples=[300],
    )
    drift_max: float = Field(
        0.5,
        gt=0,
        description="Largest prediction shift: mean difference from the live deployment's probabilities on the same "
        "rows, as a share of their mean. Not checked if release:model is a number or release:image is set.",
        examples=[0.3],
    )
    probe_rps: float = Field(
        50, gt=0, le=1000, description="Probe requests per second at each traffic step.", examples=[100]
    )
    probe_seconds: float = Field(
        4, gt=0, le=3600, description="Seconds that the probe runs at each traffic step.", examples=[30]
    )

    @model_validator(mode="after")
    def _steps_rise_to_all(self) -> Self:
        if self.rollout != sorted(set(self.rollout)) or self.rollout[-1] != 100:
            raise ValueError(f"release:rollout {self.rollout} must rise and end with 100, such as [10, 50, 100].")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Limits of a deployment at each step, as arguments of `infra/release/checks/probe.py`."""
        names = {"error_share_max", "p99_ms_max", "probe_rps", "probe_seconds"}
        pinned = isinstance(self.model, int) or self.image is not None
        return self.model_dump(include=names if pinned else {*names, "drift_max"})


class Settings(_Group):
    environment: str = Field(
        pattern=ENVIRONMENT,
        description="Short name of the environment, part of every resource name. A name that begins with prod is "
        "production: its resources are protected, and some defaults differ.",
        examples=["dev"],
        json_schema_extra=_rule("2 to 10 lower-case letters and digits, the first a letter"),
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
        description="Part of every resource name. Raise it before the first deployment if the names are still taken by "
        "soft-deleted resources. On a deployed stack it renames, and so replaces, everything.",
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
        description="Tags for every resource. A DNS zone gets at most 15 of them, those with plain names. An endpoint "
        "keeps the tags of its creation, because a write takes its traffic away for a while.",
        examples=[{"owner": "team-a"}],
        json_schema_extra=_rule(
            "Azure's rules for tags: at most 48 tags, names of at most 128 and values of at most 256 characters, no "
            "control characters or <>%&\\?/ in a name"
        ),
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
