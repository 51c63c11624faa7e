"""Which versions run together: one table (`compatibility.yaml`), asked before any resource exists.

Databricks runtime, Spark, Scala, SynapseML's artifact, Python, the scoring image's Java, AKS's version window, VM
series that retire. Every refusal names what would do. Does not ask Azure: what a region offers is asked by
`personalization preflight`.
"""

import difflib
import re
from datetime import date
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

_FOLDER = Path(__file__).parent
_FILE = "infra/compatibility.yaml"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(_Row):
    """A line of SynapseML, built for one minor version of Spark."""

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
        """The size to take for `size` of this series; None for a size of another."""
        found = re.fullmatch(f"Standard_{self.match}", size, re.IGNORECASE)
        if found is None:
            return None
        number = int(found[1])
        return f"Standard_{self.instead.format(self.vcpus.get(number, number))}"


class Table(_Row):
    shipped: str
    synapseml: dict[str, Line]
    tracking: str
    """MLflow's client without the server, as the training cluster installs it."""
    scoring: ScoringImage
    runtimes: dict[str, Runtime]
    kubernetes: dict[str, date]
    retired_sizes: tuple[RetiredSize, ...]

    @property
    def line(self) -> Line:
        """What the workload wheel and the scoring image of this revision are built for."""
        return self.synapseml[self.shipped]


class Machine(_Row):
    vcpus: int
    gib: int
    local_disk: bool = False


@lru_cache
def table() -> Table:
    return Table.model_validate(yaml.safe_load((_FOLDER / "compatibility.yaml").read_text()))


@lru_cache
def machines() -> dict[str, Machine]:
    """Every VM size a stack may name."""
    families = yaml.safe_load((_FOLDER / "vm_sizes.yaml").read_text())["families"]
    return {
        pattern.format(vcpus): Machine(
            vcpus=vcpus, gib=vcpus * family["gib_per_vcpu"], local_disk=family.get("local_disk", False)
        )
        for pattern, family in families.items()
        for vcpus in family["vcpus"]
    }


def require_runtime(version: str, today: date | None = None) -> None:
    """Raise `ValueError` for a Databricks runtime that this bundle's workload does not run on, naming one that it does.

    `today` (the day a support window is judged by) is the machine's date if None.
    """
    known, today = table(), today or date.today()
    found = known.runtimes.get(version)
    good = _runtimes_that_do(today)
    do = f"Set it to {good[-1]}." if good else f"No runtime of {_FILE} is supported on {today} any more: extend it."
    if found is None:
        raise ValueError(f"{version} is not a runtime of {_FILE}, which has {', '.join(known.runtimes)}. {do}")
    if wrong := _mismatch(found):
        raise ValueError(f"{version} {wrong}. {do}")
    if today > found.until:
        raise ValueError(f"{version} is out of Databricks' support since {found.until}. {do}")


def _runtimes_that_do(today: date) -> list[str]:
    rows = table().runtimes.items()
    fit = [(row.until, version) for version, row in rows if _mismatch(row) is None and today <= row.until]
    return [version for _, version in sorted(fit)]


def _mismatch(runtime: Runtime) -> str | None:
    """Why the shipped line of SynapseML does not run there; None if it does."""
    known, line = table(), table().line
    has = f"is Spark {runtime.spark} for Scala {runtime.scala}"
    built = f"this bundle is built for Spark {known.shipped}, Scala {line.scala} ({line.coordinate})"
    spark = runtime.spark.rpartition(".")[0]
    if spark != known.shipped:
        needs = known.synapseml.get(spark)
        other = needs.coordinate if needs else "an artifact that is not released"
        return f"{has}, where SynapseML is {other}; {built}"
    if runtime.scala != line.scala:
        return f"{has}, and SynapseML has no artifact for that pair; {built}"
    if _version(runtime.python) < _version(line.python_min):
        return f"runs Python {runtime.python}, and the workload's wheel needs {line.python_min} or later"
    if runtime.java not in line.java:
        return f"runs Java {runtime.java}, and {line.coordinate} runs on Java {', '.join(map(str, line.java))}"
    return None


def require_kubernetes(version: str, today: date | None = None) -> None:
    """Raise `ValueError` for a Kubernetes version outside AKS's window of today; patches of a minor are not judged."""
    today = today or date.today()
    window = {minor: until for minor, until in table().kubernetes.items() if today <= until}
    if ".".join(version.split(".")[:2]) in window:
        return
    has = ", ".join(f"{minor} (to {until})" for minor, until in window.items())
    newest = f"Set it to {list(window)[-1]}, or leave it out" if window else "Leave it out"
    raise ValueError(
        f"{version} is not a version that AKS and Azure ML's extension support on {today}: {has or 'none is known'}. "
        f"{newest} for AKS's own default. A version newer than {_FILE} is added there."
    )


def require_size(size: str) -> Machine:
    """vCPUs and memory of a VM size. Raises `ValueError` for one that retires, with its successor, or is unknown."""
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
            f"'{size}' is not a size of infra/vm_sizes.yaml. Did you mean {', '.join(near)}? "
            "A size that is newer than the table is added there in one line."
        )
    return known[size]


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
