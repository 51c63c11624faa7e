"""Settings `serving:`: the scoring engine, its nodes and replicas, and how callers reach the endpoint."""

from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from infra.config import tls
from infra.config.settings.fields import Group, VmSize, rule
from infra.planning import capacity, compatibility


class ServingSettings(Group):
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
        json_schema_extra=rule("a number of cores (1, 1.5) or of millicores (500m)"),
    )
    memory: str = Field(
        "1Gi",
        pattern=r"^[0-9]+(Mi|Gi)$",
        description="Memory request and limit of a replica. Unset: 1Gi; for the engine spark 2000Mi, because it runs a "
        "JVM.",
        examples=["1500Mi"],
        json_schema_extra=rule("a whole number with the unit Mi or Gi"),
    )
    instance_type: str | None = Field(
        None,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        description="Azure ML instance type that an administrator created in the cluster. Required for replicas of 2 "
        "CPU or 2Gi and more. Unset: the default instance type, which every cluster has.",
        examples=["large"],
        json_schema_extra=rule("lower-case letters, digits and hyphens; no hyphen at the start or the end"),
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
        json_schema_extra=rule(
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
        json_schema_extra=rule("one of the names in serving:tls_certificate"),
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
