"""Settings `alerts:`: recipients and limits of the alert rules."""

from pydantic import Field

from infra.config.settings.fields import Group


class AlertSettings(Group):
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
