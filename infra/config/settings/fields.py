"""Base class of all settings, and types of their fields."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from infra.planning import compatibility


class Group(BaseModel):
    """Frozen settings; an unknown name is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def rule(words: str) -> JsonDict:
    """Return schema extras with a field's rule in words, for fields whose rule is a pattern or a validator."""
    return {"rule": words}


def _known_size(value: str) -> str:
    compatibility.require_size(value)
    return value


VmSize = Annotated[
    str,
    AfterValidator(_known_size),
    Field(json_schema_extra=rule("a VM size of infra/planning/vm_sizes.yaml that Azure does not retire")),
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


_DATASETS = Path(__file__).parents[3] / "workloads" / "datasets"
Dataset = Annotated[
    str, AfterValidator(_known_dataset), Field(json_schema_extra=rule("name of a spec in workloads/datasets/"))
]
"""Name of a dataset spec in the workload's wheel."""


def without_time(value: str | None) -> str | None:
    """Remove the time that Pulumi adds to a date without quotes in a stack file."""
    return value.removesuffix(" 00:00:00 +0000 UTC") if value else value
