"""The table of versions: image and job use it, and the message of a wrong pair names the right one."""

import re
from datetime import date
from pathlib import Path

import pulumi
import pytest

from infra.config.loading import ConfigError, load
from infra.planning import compatibility
from infra.release.training_stage import job
from testing.stack.infra_graph import graph

ROOT = Path(__file__).parents[3]
TABLE = compatibility.table()
ENOUGH = {
    "azure-native:location": "westeurope",
    "personalization:environment": "dev",
    "personalization:production": "false",
    "release:enabled": "false",
}
RELEASE = {"release:enabled": "true", "training:snapshot": "2026-11-01", "access:deployers": '{"1": "User"}'}


def text(path: str) -> str:
    return (ROOT / path).read_text()


def test_image_job_and_package_use_the_current_synapseml_release() -> None:
    assert (TABLE.release.coordinate, TABLE.release.package) == (job.SYNAPSEML, job.SYNAPSEML_PYTHON)
    assert f'"{TABLE.release.coordinate}"' in text("scoring/engines/spark_jars.py")
    assert TABLE.release.package in text("scoring/requirements-spark.in").split()
    assert f'"{TABLE.release.package}"' in text("pyproject.toml")


def test_scoring_image_holds_the_java_and_spark_of_the_table() -> None:
    assert set(re.findall(r"openjdk-(\d+)-jre", text("scoring/Dockerfile"))) == {str(TABLE.scoring.java)}
    assert TABLE.scoring.java in TABLE.release.java
    assert f"pyspark=={TABLE.scoring.pyspark}" in text("scoring/requirements-spark.in").split()
    assert TABLE.scoring.pyspark.startswith(f"{TABLE.current}.")
    assert f"whose Python is {TABLE.scoring.python}" in text("scoring/Dockerfile")


def test_wheel_requires_the_python_of_the_table() -> None:
    assert f'requires-python = ">={TABLE.release.python_min}"' in text("workloads/pyproject.toml")


@pytest.mark.parametrize(
    ("runtime", "says"),
    [
        ("17.3.x-scala2.13", r"Spark 4.0.0 for Scala 2.13.*synapseml-lightgbm_2.13:1.1.3-spark4.0"),
        ("16.4.x-scala2.13", r"no artifact for that pair.*synapseml-lightgbm_2.12:1.1.3\)"),
        ("14.3.x-scala2.12", r"runs Python 3.10, and the workload's wheel needs 3.11"),
        ("16.4", r"is not a runtime of infra/planning/compatibility.yaml, which has .*15.4.x-scala2.12"),
    ],
)
def test_incompatible_runtime_is_refused_with_the_reason_and_a_remedy(runtime: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"{says}.*Set it to 16.4.x-scala2.12"):
        compatibility.require_runtime(runtime)


@pytest.mark.parametrize(
    ("day", "says"),
    [
        (date(2028, 3, 9), None),
        (date(2028, 3, 10), "16.4.x-scala2.12 is supported until 2028-05-09. Add a newer version"),
        (date(2028, 5, 9), "16.4.x-scala2.12 is supported until 2028-05-09"),
        (date(2028, 5, 10), "16.4.x-scala2.12 has been out of support since 2028-05-09"),
    ],
)
def test_default_runtime_is_warned_of_sixty_days_before_its_end(
    day: date, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compatibility, "current_day", lambda: day)
    ends = [str(end) for end in load({**ENOUGH, **RELEASE}, "personalization").support_ends]
    assert len(ends) == (says is not None)
    assert not ends or f"training:spark_version {says}" in ends[0]
    assert load(ENOUGH, "personalization").support_ends == [], "without a release nothing trains"


def test_older_runtime_is_warned_of_with_the_newest_compatible_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "current_day", lambda: date(2027, 8, 20))
    end = compatibility.runtime_support("15.4.x-scala2.12")
    assert end is not None
    assert (end.ended, end.replacement) == (True, "16.4.x-scala2.12")


def test_kubernetes_version_past_its_window_is_a_warning_with_the_next_minor(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = {**ENOUGH, "serving:kubernetes_version": "1.34.2"}
    for day, ended in ((date(2026, 11, 30), False), (date(2026, 12, 1), True)):
        monkeypatch.setattr(compatibility, "current_day", lambda day=day: day)
        (end,) = load(pinned, "personalization").support_ends
        assert (end.ended, end.replacement) == (ended, "1.35")


def test_program_warns_of_a_version_whose_support_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(pulumi, "warn", warnings.append)
    monkeypatch.setattr(compatibility, "current_day", lambda: date(2026, 12, 1))
    graph(serving__kubernetes_version="1.34")
    assert warnings == [
        "serving:kubernetes_version 1.34 has been out of support since 2026-11-30. Set it to 1.35.",
    ]


def test_kubernetes_version_is_one_of_the_table_or_its_patch() -> None:
    compatibility.require_kubernetes("1.35")
    compatibility.require_kubernetes("1.36.2")
    for version in ("1.33", "1.3", "1.37"):
        says = rf"{version} is not .*1.35 \(to 2027-03-31\).*Set it to 1.36, or leave it out"
        with pytest.raises(ValueError, match=says):
            compatibility.require_kubernetes(version)


@pytest.mark.parametrize(
    ("size", "retires", "instead"),
    [
        ("Standard_L8s", "2028-05-01", "Standard_L8s_v3"),
        ("Standard_D3_v2", "2028-05-01", "Standard_D4s_v5"),
        ("Standard_DS13_v2", "2028-05-01", "Standard_E8s_v5"),
        ("Standard_L16s_v2", "2028-11-15", "Standard_L16s_v3"),
        ("Standard_F72s_v2", "2028-11-15", "Standard_D96ls_v5"),
        ("Standard_B2ms", "2028-11-15", "Standard_D2s_v5"),
        ("Standard_NC6", "2023-09-06", "Standard_L8s_v3"),
        ("Standard_NC24rs_v3", "2025-09-30", "Standard_L8s_v3"),
    ],
)
def test_retiring_size_is_refused_with_a_usable_successor(size: str, retires: str, instead: str) -> None:
    with pytest.raises(ValueError, match=f"retirement {retires}.*Use {instead}"):
        compatibility.require_size(size)
    compatibility.require_size(instead)


def test_no_size_on_offer_is_of_a_series_that_retires() -> None:
    assert [size for size in compatibility.machines() if any(r.replacement(size) for r in TABLE.retired_sizes)] == []
    machine = compatibility.Machine(series="Ls_v3", vcpus=8, gib=64, local_disk=True)
    assert compatibility.require_size("Standard_L8s_v3") == machine


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training:spark_version", "17.3.x-scala2.13", "training:spark_version: 17.3.x-scala2.13 is Spark 4.0.0"),
        ("training:node_type", "Standard_L8s", "training:node_type: Standard_L8s .*Standard_L8s_v3"),
        ("serving:node_size", "Standard_D4sv5", "serving:node_size: .*Did you mean .*Standard_D4s_v5"),
        ("serving:kubernetes_version", "1.20", "serving:kubernetes_version: 1.20 is not a version"),
    ],
)
def test_stack_file_is_refused_before_any_resource(key: str, value: str, says: str) -> None:
    load(ENOUGH, "personalization")
    with pytest.raises(ConfigError, match=says):
        load({**ENOUGH, key: value}, "personalization")
