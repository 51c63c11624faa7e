"""Settings `training:`: rows, cluster and schedule of the training job."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from infra.config.settings.fields import Dataset, Group, VmSize, rule, without_time
from infra.planning import compatibility


class TrainingSettings(Group):
    dataset: Dataset = Field("movielens", description="Dataset spec to train with.", examples=["criteo"])
    snapshot: Annotated[str | None, BeforeValidator(without_time)] = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Folder in the lake, raw/<dataset>/<snapshot>/, that holds the training rows.",
        examples=["2026-11-26"],
        json_schema_extra=rule("1 to 64 letters, digits, dots, hyphens and underscores"),
    )
    local_data: str | None = Field(
        None,
        description="Local folder or file that `up` uploads as the snapshot. The snapshot's name is the digest of its "
        "rows.",
        examples=["first-rows"],
    )
    refit: Literal["judged", "all"] = Field(
        "all",
        description="Model to serve. judged: the model that the test set judges; it never learned from the newest "
        "tenth of the rows. all: a model with its hyperparameters that learned from all rows. The gate's figures are "
        "of the judged model in both cases.",
        examples=["judged"],
    )
    spark_version: str = Field(
        "16.4.x-scala2.12",
        description="Databricks runtime of the training job.",
        examples=["16.4.x-scala2.12"],
        json_schema_extra=rule("a runtime of infra/planning/compatibility.yaml on which SynapseML runs"),
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
        json_schema_extra=rule("true only with training:workers 0 or 1"),
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
