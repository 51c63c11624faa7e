"""The Databricks job, as a pure function."""

from typing import Any

import pytest
from databricks.sdk.service.jobs import JobSettings
from hypothesis import given
from hypothesis import strategies as st

from infra.release.training_stage.job import JobSpec, job_settings


def settings(**changed: Any) -> dict[str, Any]:
    spec = {
        "name": "train",
        "dataset": "movielens",
        "snapshot": "s1",
        "volumes": "/Volumes/c/s",
        "wheel": "/Workspace/Shared/w.whl",
        "code": "c0de",
        "experiment": "/Shared/c/training",
        "spark_version": "16.4.x-scala2.12",
        "node_type": "Standard_L8s_v3",
        "workers": 12,
        "spot": False,
        "schedule": "0 0 3 * * ?",
        "schedule_enabled": False,
        "timeout_minutes": 60,
        "refit": "all",
        "tags": {"environment": "test"},
    }
    return job_settings(JobSpec(**{**spec, **changed}))


@given(st.integers(0, 200), st.booleans())
def test_training_cluster_never_autoscales(workers: int, spot: bool) -> None:
    (cluster,) = settings(workers=workers, spot=spot)["job_clusters"]
    shape = cluster["new_cluster"]
    assert "autoscale" not in shape
    assert shape["num_workers"] == workers
    for never in ("spark.sql.adaptive.enabled", "spark.speculation", "spark.dynamicAllocation.enabled"):
        assert shape["spark_conf"][never] == "false"
    assert shape["spark_conf"]["spark.task.reaper.enabled"] == "true"
    assert shape["spark_conf"]["spark.task.reaper.killTimeout"] == "20s"
    for process in ("driver", "executor"):
        assert shape["spark_conf"][f"spark.{process}.extraJavaOptions"].split() == [
            "-XX:-DontCompileHugeMethods",
            "-XX:FreqInlineSize=120",
            "-XX:InlineSmallCode=800",
            "-XX:MaxNodeLimit=20000",
            "-XX:LiveNodeCountInliningCutoff=10000",
        ]


def test_job_is_parsed_by_the_sdk_without_loss() -> None:
    raw = settings()
    assert JobSettings.from_dict(raw).as_dict() == raw


@pytest.mark.parametrize("refit", ["judged", "all"])
def test_training_task_learns_from_the_rows_that_the_setting_names(refit: str) -> None:
    (train,) = (task for task in settings(refit=refit)["tasks"] if task["task_key"] == "train")
    parameters = train["python_wheel_task"]["parameters"]
    assert parameters[parameters.index("--refit") + 1] == refit


def test_daily_schedule_is_paused_unless_enabled() -> None:
    assert settings()["schedule"]["pause_status"] == "PAUSED"
    assert settings(schedule_enabled=True)["schedule"]["pause_status"] == "UNPAUSED"


def test_scheduled_run_trains_on_the_rows_of_its_day_and_a_release_on_those_it_names() -> None:
    (first, *_) = settings(schedule_enabled=True)["parameters"]
    assert first == {"name": "snapshot", "default": "{{job.start_time.iso_date}}"}
    (first, *_) = settings()["parameters"]
    assert first == {"name": "snapshot", "default": "s1"}


def test_two_runs_never_train_at_once() -> None:
    assert settings()["max_concurrent_runs"] == 1


def test_both_tasks_use_the_same_cluster_and_libraries() -> None:
    prepare, train = settings()["tasks"]
    assert prepare["job_cluster_key"] == train["job_cluster_key"]
    assert prepare["libraries"] == train["libraries"]
    assert train["depends_on"] == [{"task_key": "prepare"}]


def test_run_without_a_named_live_model_finds_it_in_the_lake() -> None:
    job = settings()
    (default,) = (parameter["default"] for parameter in job["parameters"] if parameter["name"] == "live")
    assert default.startswith("/Volumes/")
    assert default.endswith("/models/live.json")
    prepare, train = (task["python_wheel_task"]["parameters"] for task in job["tasks"])
    assert "--live={{job.parameters.live}}" in train
    assert not any("live" in parameter for parameter in prepare)
    assert "live" not in train[train.index("--lineage") + 1]  # or a run started again would not know its artefact
