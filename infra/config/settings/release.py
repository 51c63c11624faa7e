"""Settings `release:`: the model to serve, its traffic steps, and the limits of the probe."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from infra.config.settings.fields import Group, rule


class ReleaseSettings(Group):
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
        json_schema_extra=rule("sha256: followed by 64 lower-case hexadecimal digits"),
    )
    traffic_steps: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [10, 50, 100],
        min_length=1,
        description="Percentages of the traffic that the candidate gets, step by step.",
        examples=[[5, 25, 100]],
        json_schema_extra=rule("ascending, the last is 100"),
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
