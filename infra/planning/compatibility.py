"""Compatible versions: one table (`compatibility.yaml`), checked before any resource exists.

Databricks runtime, Spark, Scala, SynapseML's artifact, Python, the scoring image's Java, AKS's version window, VM
series that retire. Every refusal names a value that is accepted. The end of a version's support is only a warning,
because deployed resources keep running. Does not query Azure: `personalization preflight` checks the region's offer.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

_FOLDER = Path(__file__).parent
_FILE = "infra/planning/compatibility.yaml"
_NOTICE = timedelta(days=60)
"""Time before the end of a version's support from which previews warn."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SynapseMLRelease(_Row):
    """A release of SynapseML, built for one minor version of Spark."""

    scala: str
    coordinate: str
    package: str
    java: tuple[int, ...]
    python_min: str


class Runtime(_Row):
    spark: str
    scala: str
    java: int
    python: str
    until: date


class ScoringImage(_Row):
    java: int
    python: str
    pyspark: str


class RetiredSize(_Row):
    series: str
    match: str
    instead: str
    retires: date
    vcpus: dict[int, int] = {}

    def replacement(self, size: str) -> str | None:
        """The size to use instead of `size`; None for a size of another series."""
        match = re.fullmatch(f"Standard_{self.match}", size, re.IGNORECASE)
        if match is None:
            return None
        number = int(match[1])
        return f"Standard_{self.instead.format(self.vcpus.get(number, number))}"


class CompatibilityMatrix(_Row):
    current: str
    """Minor version of Spark that this revision is built for."""
    synapseml: dict[str, SynapseMLRelease]
    tracking: str
    """MLflow's client without the server, as the training cluster installs it."""
    scoring: ScoringImage
    runtimes: dict[str, Runtime]
    kubernetes: dict[str, date]
    network_policies: dict[str, date | None]
    retired_sizes: tuple[RetiredSize, ...]

    @property
    def release(self) -> SynapseMLRelease:
        """The release that the workload's wheel and the scoring image of this revision are built for."""
        return self.synapseml[self.current]


class Machine(_Row):
    series: str
    """The size without its number of vCPUs, such as `Ds_v5`."""
    vcpus: int
    gib: int
    local_disk: bool = False


@lru_cache
def table() -> CompatibilityMatrix:
    rows = yaml.safe_load((_FOLDER / "compatibility.yaml").read_text())
    del rows["sources"]
    return CompatibilityMatrix.model_validate(rows)


@lru_cache
def machines() -> dict[str, Machine]:
    """Every VM size that a stack may use, by name."""
    families = yaml.safe_load((_FOLDER / "vm_sizes.yaml").read_text())["families"]
    return {
        pattern.format(vcpus): Machine(
            series=pattern.removeprefix("Standard_").replace("{}", ""),
            vcpus=vcpus,
            gib=vcpus * family["gib_per_vcpu"],
            local_disk=family.get("local_disk", False),
        )
        for pattern, family in families.items()
        for vcpus in family["vcpus"]
    }


@dataclass(frozen=True)
class SupportEnd:
    """A version whose support has ended, or ends soon."""

    setting: str
    version: str
    until: date
    """Last day of support."""
    replacement: str
    """The version to set instead; empty if the table has none that is supported."""
    ended: bool

    def __str__(self) -> str:
        state = f"has been out of support since {self.until}" if self.ended else f"is supported until {self.until}"
        remedy = f"Set it to {self.replacement}." if self.replacement else f"Add a newer version to {_FILE}."
        return f"{self.setting} {self.version} {state}. {remedy}"


def current_day() -> date:
    """Today in UTC, with which support windows are compared."""
    return datetime.now(UTC).date()


def runtime_support(version: str) -> SupportEnd | None:
    """The end of a runtime's support if it has come, or comes within `_NOTICE`.

    Not an error: Databricks still creates clusters of such a version through its API, until it removes the version
    (learn.microsoft.com/azure/databricks/release-notes/runtime/eos).
    """
    until = {name: row.until for name, row in table().runtimes.items() if _mismatch(row) is None}
    return _support_end("training:spark_version", version, until, max)


def kubernetes_support(version: str) -> SupportEnd | None:
    """The end of a Kubernetes version's support if it has come, or comes within `_NOTICE`.

    AKS keeps a cluster of such a version and scales it, but creates no new one and does not upgrade to it
    (MicrosoftDocs/azure-docs articles/aks/supported-kubernetes-versions.md, FAQ). A preview does not know whether the
    cluster exists, so it warns, and `personalization preflight`, which asks Azure, refuses.
    """
    # The next minor: AKS skips none in an upgrade (azure-rest-api-specs, ManagedClusterProperties.kubernetesVersion).
    return _support_end("serving:kubernetes_version", _minor(version), table().kubernetes, min)


def _support_end(
    setting: str, version: str, until: Mapping[str, date], choose: Callable[[list[tuple[date, str]]], tuple[date, str]]
) -> SupportEnd | None:
    today = current_day()
    if version not in until or today + _NOTICE < until[version]:
        return None
    longer = [(day, name) for name, day in until.items() if day > max(today, until[version])]
    return SupportEnd(
        setting, version, until[version], choose(longer)[1] if longer else "", ended=until[version] < today
    )


def require_runtime(version: str) -> None:
    """Raise `ValueError` for a Databricks runtime on which this workload does not run, with one that works.

    Does not check support windows: `runtime_support` does.
    """
    runtimes = table().runtimes
    _, good = max((row.until, name) for name, row in runtimes.items() if _mismatch(row) is None)
    if version not in runtimes:
        raise ValueError(f"{version} is not a runtime of {_FILE}, which has {', '.join(runtimes)}. Set it to {good}.")
    if reason := _mismatch(runtimes[version]):
        raise ValueError(f"{version} {reason}. Set it to {good}.")


def _mismatch(runtime: Runtime) -> str | None:
    """Reason why the current release of SynapseML does not run on this runtime; None if it does."""
    matrix, release = table(), table().release
    has = f"is Spark {runtime.spark} for Scala {runtime.scala}"
    built = f"this bundle is built for Spark {matrix.current}, Scala {release.scala} ({release.coordinate})"
    spark = runtime.spark.rpartition(".")[0]
    if spark != matrix.current:
        needed = matrix.synapseml.get(spark)
        other = needed.coordinate if needed else "an artifact that is not released"
        return f"{has}, where SynapseML is {other}; {built}"
    if runtime.scala != release.scala:
        return f"{has}, and SynapseML has no artifact for that pair; {built}"
    if _version(runtime.python) < _version(release.python_min):
        return f"runs Python {runtime.python}, and the workload's wheel needs {release.python_min} or later"
    if runtime.java not in release.java:
        return f"runs Java {runtime.java}, and {release.coordinate} runs on Java {', '.join(map(str, release.java))}"
    return None


def require_kubernetes(version: str) -> None:
    """Raise `ValueError` for a Kubernetes version whose minor version is not in the table.

    Does not check support windows: `kubernetes_support` does.
    """
    window = table().kubernetes
    if _minor(version) not in window:
        supported = ", ".join(f"{minor} (to {until})" for minor, until in window.items())
        raise ValueError(
            f"{version} is not a version that AKS and Azure ML's extension support: {supported}. Set it to "
            f"{list(window)[-1]}, or leave it out for AKS's own default. A newer version is added in {_FILE}."
        )


def require_size(size: str) -> Machine:
    """Return the machine of a VM size. Raises `ValueError` for a retiring or unknown size, with a replacement."""
    for row in table().retired_sizes:
        if instead := row.replacement(size):
            raise ValueError(
                f"{size} is of the {row.series} series (retirement {row.retires}), which new subscriptions get only in "
                f"part or not at all. Use {instead}."
            )
    known = machines()
    if size not in known:
        near = difflib.get_close_matches(size, known, n=3) or ["Standard_D4s_v5", "Standard_L8s_v3"]
        raise ValueError(
            f"'{size}' is not a size of infra/planning/vm_sizes.yaml. Did you mean {', '.join(near)}? "
            "A size that is newer than the table is added there in one line."
        )
    return known[size]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
