"""MLflow receives every number exactly; if it cannot be reached, training continues and the log lists the omissions."""

import re
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient

from infra.planning import compatibility
from infra.release.training_stage import experiment
from sandbox.identity import entra
from testing.sandbox.databricks import connect
from testing.sandbox.tracking import TrackingServer, tracking_server
from workloads import tracking

ROOT = Path(__file__).parents[2]
EXPERIMENT = "/Shared/shop/training"
FIGURES: dict[str, Any] = {
    "auc": 0.1 + 0.2,
    "tiny": 5e-324,
    "rows": 2**53 - 1,
    "undefined": None,
    "synthetic": False,
    "calibration": [{"rate": 1 / 3}, {"rate": 2 / 3}],
    "slices": {"film": {"Children's «é»": {"auc": 0.7}, "a/../b": {"auc": 0.6}, "": {"auc": 0.5}, "..": {"auc": 0.4}}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with tracking_server(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
def client(server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """MLflow's own client, to read what the server received."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setattr(tracking, "WAIT_SECONDS", 60.0)  # the tests' machine may be busy
    return MlflowClient(server.address)


def run_named(client: MlflowClient, name: str) -> Any:
    experiment_id = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment_id], f"attributes.run_name = '{name}'")
    return run


def test_mlflow_receives_every_number_exactly_under_any_name(client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text("{}")
    curve = [1 / (step + 3) for step in range(1_234)]  # more than one request can hold
    with tracking.run(EXPERIMENT, "whole") as run:
        run.parameters({"model": {"num_leaves": 31, "rate": 0.1}, "code": "c0de", "long": "x" * 9_000})
        run.by_step({"validation/log_loss": curve})
        run.metrics(FIGURES)
        run.file(tmp_path / "lineage.json")
        run_id = run.id
    logged = run_named(client, "whole")
    assert logged.info.run_id == run_id
    assert logged.info.status == "FINISHED"
    assert logged.data.params | {"long": ""} == {
        **{"model/num_leaves": "31", "model/rate": "0.1", "code": "c0de", "long": ""}
    }
    assert {name: value for name, value in logged.data.metrics.items() if name != "validation/log_loss"} == {
        "auc": 0.1 + 0.2,
        "tiny": 5e-324,
        "rows": 2**53 - 1,
        "calibration/0/rate": 1 / 3,
        "calibration/1/rate": 2 / 3,
        "slices/film/Children_27_s _ab__e9__bb_/auc": 0.7,
        "slices/film/a_2f_.._2f_b/auc": 0.6,
        "slices/film/__/auc": 0.5,
        "slices/film/_.._/auc": 0.4,
    }
    history = sorted(client.get_metric_history(run_id, "validation/log_loss"), key=lambda metric: metric.step)
    assert [metric.value for metric in history] == curve
    assert [file.path for file in client.list_artifacts(run_id)] == ["lineage.json"]


def test_tuning_trials_are_nested_runs_with_their_status(client: MlflowClient) -> None:
    with tracking.run(EXPERIMENT, "tune") as parent:
        for number, succeeded in ((1, True), (2, False)):
            trial = parent.child(f"trial {number}")
            trial.metrics({"log_loss": 0.5 / number})
            trial.end(succeeded)
    for name, status in (("trial 1", "FINISHED"), ("trial 2", "FAILED")):
        trial_run = run_named(client, name)
        assert trial_run.data.tags["mlflow.parentRunId"] == run_named(client, "tune").info.run_id
        assert trial_run.info.status == status


def test_exception_marks_the_run_as_failed(client: MlflowClient) -> None:
    with pytest.raises(KeyError), tracking.run(EXPERIMENT, "broken"):
        raise KeyError
    assert run_named(client, "broken").info.status == "FAILED"


def test_unreachable_server_is_reported_in_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{gone.getsockname()[1]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking.run(EXPERIMENT, "down") as run:
        run.metrics(FIGURES)
        assert run.id == ""
    printed = capsys.readouterr().out
    assert printed.startswith("not logged to MLflow: creation of the run, metrics, end of the run (MlflowException: ")
    assert printed.count("\n") == 1
    assert "secret" not in printed


def test_silent_server_delays_the_run_by_at_most_the_wait_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "WAIT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        since = time.monotonic()
        with tracking.run(EXPERIMENT, "slow") as run:
            run.parameters({"seed": 1})
            run.metrics(FIGURES)
            run.file(Path("model_card.html"))
            assert time.monotonic() - since < 0.5
            assert run.id == ""
        assert time.monotonic() - since < 1.5
    wanted = "creation of the run, parameters, metrics, model_card.html, end of the run (no answer within 1 s)"
    assert f"not logged to MLflow: {wanted}" in capsys.readouterr().out


def test_without_an_experiment_nothing_is_logged_and_mlflow_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(tracking, "_Sender", None)
    with tracking.run("", "none") as run:
        run.metrics(FIGURES)
        run.child("trial 1").end(True)
        assert (run.id, run.on) == ("", False)


def test_workspace_requires_a_token_and_an_existing_folder(server: TrackingServer) -> None:
    from databricks.sdk.errors import InvalidParameterValue, ResourceDoesNotExist

    url = f"{server.cloud.sandbox.url}/api/2.0/mlflow/experiments/search"
    assert httpx.get(url, verify=server.cloud.tls).status_code == 401
    experiments = connect(server.cloud).experiments
    with pytest.raises(ResourceDoesNotExist, match="/Shared/nowhere does not exist"):
        experiments.create_experiment("/Shared/nowhere/training")
    with pytest.raises(InvalidParameterValue, match="must be an absolute path"):
        experiments.create_experiment("training")


def test_experiment_is_created_once_and_restored_with_its_runs(
    server: TrackingServer, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.cloud.login.items():
        monkeypatch.setenv(name, value)
    provider, host = experiment._ExperimentProvider(), server.cloud.sandbox.authority
    workspace_id = f"{server.cloud.group}/providers/Microsoft.Databricks/workspaces/ws"
    props = {"workspace_url": host, "workspace_id": workspace_id, "path": "/Shared/new/training"}
    created = provider.create(props)
    run_id = client.create_run(created.id).info.run_id
    replacement = provider.create(props)
    assert replacement.id == created.id
    assert created.outs["page"] == f"https://{host}/ml/experiments/{created.id}"
    provider.delete(created.id, created.outs)
    assert client.get_experiment(created.id).lifecycle_stage == "active"
    provider.delete(created.id, replacement.outs)
    assert client.get_experiment(created.id).lifecycle_stage == "deleted"
    assert provider.create(props).id == created.id
    assert [run.info.run_id for run in client.search_runs([created.id])] == [run_id]
    provider.delete("999", props)  # already deleted by another process


def test_killed_server_loses_only_the_listed_requests_and_restarts(
    server: TrackingServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(tracking, "WAIT_SECONDS", 60.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking.run(EXPERIMENT, "killed") as run:
        run.parameters({"seed": 1})
        assert run.id
        server.kill()
        run.metrics(FIGURES)
    assert re.match(
        r"not logged to MLflow: (parameters, )?metrics, end of the run \(MlflowException", capsys.readouterr().out
    )
    assert server.address == address  # the next connection starts a new server there


def test_cluster_mlflow_client_has_the_server_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [line for extra in project["project"].get("optional-dependencies", {}).values() for line in extra]
    (pinned,) = (line for line in [*project["project"]["dependencies"], *extras] if line.startswith("mlflow="))
    assert compatibility.table().tracking == pinned.replace("mlflow", "mlflow-skinny")


def test_artifacts_are_reachable_with_the_tracking_uri_databricks(
    server: TrackingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cloud = server.cloud
    monkeypatch.setenv("DATABRICKS_HOST", cloud.sandbox.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", cloud.token(entra.DATABRICKS))
    client = MlflowClient("databricks")
    run = client.create_run(client.create_experiment("/Shared/shop/artefacts"))
    assert run.info.artifact_uri.startswith("dbfs:/databricks/mlflow-tracking/")
    (tmp_path / "card.html").write_text("<p>card</p>")
    client.log_artifact(run.info.run_id, str(tmp_path / "card.html"), "model")
    assert [file.path for file in client.list_artifacts(run.info.run_id, "model")] == ["model/card.html"]
    back = client.download_artifacts(run.info.run_id, "model/card.html", str(tmp_path))
    assert Path(back).read_text() == "<p>card</p>"
    # The cluster's own client, which needs no token, sees the same file.
    assert [file.path for file in MlflowClient(server.address).list_artifacts(run.info.run_id)] == ["model"]
