"""Training: the artefact, its readers, and runs that fail or are repeated."""

import contextlib
import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from cli import ranking
from cli.catalogue import side
from cli.endpoint import Endpoint
from cli.errors import UserError
from infra.release.checks.gate import verdict
from testing import scoring
from testing.gate_metrics import THRESHOLDS
from testing.sandbox.tracking import tracking_server
from testing.workloads.shop import Reader, Trained
from workloads import artefact, spec
from workloads.errors import WorkloadError
from workloads.live_model import Live
from workloads.tasks import train
from workloads.tasks.train import TrainRequest
from workloads.training import fit, warm_start
from workloads.training import pipeline as serving

# A session fixture that is imported would be set up once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark
_MISSING_IS_NAN = 2
"""Value of the bits of LightGBM's `decision_type` for the missing type; 0: a missing value is read as 0."""


def test_every_file_is_in_the_manifest_with_its_digest(shop: Trained) -> None:
    listed = shop.read("MANIFEST.json")["files"]
    files = {p.relative_to(shop.artefact).as_posix() for p in shop.artefact.rglob("*") if p.is_file()}
    assert files == {*listed, "MANIFEST.json"}
    assert {"model.txt", "encoder.npz", "contract.json", "golden.jsonl", "metrics.json", "lineage.json"} < set(listed)
    assert "profile.json" in listed
    for name, digest in listed.items():
        assert hashlib.sha256((shop.artefact / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["shop", "synthetic"])
def test_native_lightgbm_reproduces_the_golden_probabilities(name: str, request: pytest.FixtureRequest) -> None:
    trained: Trained = request.getfixturevalue(name)
    reader, golden = Reader(trained.artefact), trained.golden()
    assert len(golden) == 100
    assert any(value is None for line in golden for value in line["row"].values())
    assert any("never seen" in str(line["row"]) for line in golden)
    assert len({line["probability"] for line in golden}) > 50
    for line in golden:
        assert abs(reader.probability(line["row"]) - line["probability"]) <= 1e-12


@pytest.fixture(scope="module")
def pipeline(shop: Trained) -> PipelineModel:
    return PipelineModel.load(str(shop.artefact / "pipeline"))


def test_early_stopping_keeps_the_trees_up_to_the_best_one(shop: Trained, pipeline: PipelineModel) -> None:
    trees = shop.read("metrics.json")["trees"]
    assert 10 < trees <= shop.dataset.model.num_iterations - shop.dataset.model.early_stopping_round
    assert trees == Reader(shop.artefact).booster.num_trees()
    assert pipeline.stages[-1].getBoosterNumTotalIterations() == trees
    assert pipeline.stages[-1].getNumIterations() == -1


def test_pipeline_has_jvm_stages_only(pipeline: PipelineModel) -> None:
    assert {type(stage).__module__.split(".")[0] for stage in pipeline.stages} == {"pyspark", "synapse"}
    assert "Word2VecModel" in {type(stage).__name__ for stage in pipeline.stages}


def test_test_set_is_the_last_rows_by_time(shop: Trained, spark: SparkSession) -> None:
    metrics = shop.read("metrics.json")
    rows = spark.read.parquet(str(shop.features)).orderBy(F.desc("time")).limit(metrics["rows_test"])
    assert metrics["rows_train"] + metrics["rows_validation"] + metrics["rows_test"] == 6_000
    assert abs(metrics["rows_test"] - 600) <= 1
    assert abs(metrics["rows_validation"] - 600) <= 1
    assert rows.filter("label = 1").count() == metrics["clicks_test"]


def test_shop_model_is_calibrated_and_better_than_the_base_rate(shop: Trained) -> None:
    metrics = shop.read("metrics.json")
    assert metrics["auc"] > 0.7
    assert metrics["log_loss"] < metrics["base_log_loss"] - 0.03
    assert metrics["calibration_gap"] < 0.05
    assert metrics["expected_calibration_error"] < 0.1
    assert metrics["average_precision"] > metrics["base_rate"] + 0.1
    assert metrics["lift"] > 1.2
    assert sum(part["rows"] for part in metrics["calibration"]) == metrics["rows_test"]
    for values in metrics["slices"].values():
        assert sum(value["rows"] for value in values.values()) == metrics["rows_test"]
    assert set(metrics["slices"]) == {"gender", "age", "day", "user_id in training", "item_id in training"}


def test_model_of_synthetic_rows_is_good_and_marked_as_synthetic(synthetic: Trained) -> None:
    metrics = synthetic.read("metrics.json")
    best = json.loads((synthetic.raw / "SYNTHETIC.json").read_text("utf-8"))
    assert 0.70 <= metrics["auc"] <= best["best_auc"] + 0.02
    assert metrics["log_loss"] < metrics["base_log_loss"]
    assert metrics["synthetic"] is True
    assert synthetic.read("lineage.json")["synthetic"] is True
    assert "SYNTHETIC" in (synthetic.artefact / "model_card.html").read_text("utf-8")


def test_training_skips_a_live_model_of_another_dataset(synthetic: Trained) -> None:
    metrics = synthetic.read("metrics.json")
    assert metrics["live"] == {"run_id": "run-1", "skipped": "it was trained on dataset 'movielens', not 'criteo'"}
    assert metrics["drift"] == {}
    assert "Not compared with run run-1" in (synthetic.artefact / "model_card.html").read_text("utf-8")


def test_model_card_is_self_contained_and_names_the_terms_of_use(shop: Trained) -> None:
    card = (shop.artefact / "model_card.html").read_text("utf-8")
    assert "no redistribution" in card
    assert "SYNTHETIC" not in card
    assert 'src="data:image/png;base64,' in card
    assert not re.search(r"(src|href)=(?!.data:)|<script|@import|url\(", card)


def test_value_of_context_is_measured_by_scoring_without_it(shop: Trained) -> None:
    metrics, card = shop.read("metrics.json"), (shop.artefact / "model_card.html").read_text("utf-8")
    without = metrics["context"]
    assert without["auc_change"] == pytest.approx(metrics["auc"] - without["auc"])
    assert without["auc_change_interval"][0] > 0 > without["log_loss_change"]
    shown = re.search(r"Context features: hour, weekday, with (\d+\.\d\d)% of the trees' gain", card)
    assert shown
    booster = Reader(shop.artefact).booster
    gain = dict(zip(booster.feature_name(), booster.feature_importance("gain"), strict=True))
    context_gain = gain["hour_number"] + gain["weekday_number"]
    assert float(shown[1]) == pytest.approx(100 * context_gain / sum(gain.values()), abs=0.01)
    assert f"{without['auc']:.4f}" in card


def test_missing_hour_is_not_scored_as_midnight(shop: Trained) -> None:
    """LightGBM reads a missing number as 0 if the training set had no missing values."""
    hour = Reader(shop.artefact).booster.feature_name().index("hour_number")
    lines = (line.partition("=") for line in (shop.artefact / "model.txt").read_text("utf-8").splitlines())
    nodes: dict[str, list[int]] = {"split_feature": [], "decision_type": []}
    for name, _, values in lines:
        if name in nodes:
            nodes[name] += map(int, values.split())
    decisions = [kind for feature, kind in zip(*nodes.values(), strict=True) if feature == hour]
    assert {kind >> 2 & 3 for kind in decisions} == {_MISSING_IS_NAN}


def test_ranking_depends_on_the_hour_and_a_missing_hour_stays_missing(shop: Trained) -> None:
    with scoring.serving(scoring.scoring_environment(shop.artefact)) as service:
        endpoint = Endpoint(service.client, "/score")

        def best(*arguments: str) -> list[tuple[str, float]]:
            context = ranking.parse_context(shop.dataset, arguments)
            ranked = ranking.rank(endpoint, shop.dataset, shop.raw, "u5", 20, context)
            return [(item["id"], item["probability"]) for item in ranked]

        morning, evening, no_context = best("hour=4", "weekday=6"), best("hour=20", "weekday=6"), best()
        with pytest.raises(UserError, match=r'400: .*"field":"hour"'):
            best("hour=24")
    assert [id_ for id_, _ in morning] != [id_ for id_, _ in evening]
    user, items = (side(shop.dataset, which, shop.raw) for which in ("user", "item"))
    reader = Reader(shop.artefact)
    for context, ranked in (({"hour": 20, "weekday": 6}, evening), ({"hour": None, "weekday": None}, no_context)):
        for id_, probability in ranked:
            assert abs(reader.probability({**user["u5"], **items[id_], **context}) - probability) <= 1e-12


def test_contract_and_lineage_describe_the_training(shop: Trained) -> None:
    contract, lineage = shop.read("contract.json"), shop.read("lineage.json")
    assert [f["name"] for f in contract["features"]] == list(shop.dataset.features)
    assert contract["item_id"] == "item_id"
    names = Reader(shop.artefact).booster.feature_name()
    assert names == [f"{c['feature']}_{c['value']}" for c in contract["model_columns"]]
    assert (lineage["run_id"], lineage["snapshot"]) == ("run-1", "raw")
    assert lineage["versions"]["lightgbmlib"] == "3.3.510"


def test_adaptive_execution_is_refused(shop: Trained, spark: SparkSession, tmp_path: Path) -> None:
    spark.conf.set("spark.sql.adaptive.enabled", "true")
    try:
        with pytest.raises(WorkloadError, match=r"spark.sql.adaptive.enabled is on: .* Set .* to false"):
            train.train(spark, request(shop, tmp_path / "model"))
    finally:
        spark.conf.set("spark.sql.adaptive.enabled", "false")
    assert not (tmp_path / "model").exists()


def request(shop: Trained, folder: Path, **changes: Any) -> TrainRequest:
    """Return a request to train on the shop's rows."""
    arguments: dict[str, Any] = {"dataset": shop.dataset, "features": shop.features, "artefact": folder, "run_id": "r"}
    return TrainRequest(**(arguments | changes))


@dataclasses.dataclass(frozen=True)
class RepeatedRun:
    artefact: Path
    printed: str


@pytest.fixture(scope="module")
def repeated(shop: Trained, tmp_path_factory: pytest.TempPathFactory) -> RepeatedRun:
    """A second training on the shop's rows, on one core, whose tracking server is killed during the run."""
    folder, real_fit = tmp_path_factory.mktemp("repeated"), fit.fit_twice
    arguments = ["--features", str(shop.features), "--artefact", str(folder / "model"), "--run-id", "run-2"]
    arguments += ["--dataset", "movielens", "--tasks", "1", "--experiment", "/Shared/shop/training"]
    printed = io.StringIO()
    with tracking_server(folder / "sandbox") as server, pytest.MonkeyPatch.context() as patch:

        def kill_server_and_fit(*arguments: Any, **more: Any) -> Any:
            server.end()
            return real_fit(*arguments, **more)

        patch.setattr(spec, "load", lambda name: shop.dataset)
        patch.setattr("sys.argv", ["train", *arguments])
        patch.setenv("MLFLOW_TRACKING_URI", server.address)
        patch.setattr(fit, "fit_twice", kill_server_and_fit)
        with contextlib.redirect_stdout(printed):
            train.main()
    return RepeatedRun(folder / "model", printed.getvalue())


def test_same_snapshot_and_seed_give_the_same_model_on_one_core(shop: Trained, repeated: RepeatedRun) -> None:
    for name in ("model.txt", "encoder.npz"):
        assert (repeated.artefact / name).read_bytes() == (shop.artefact / name).read_bytes()


def test_warm_start_continues_from_the_live_model(shop: Trained, spark: SparkSession, tmp_path: Path) -> None:
    model = dataclasses.replace(shop.dataset.model, warm_start=7, early_stopping_round=0)
    # Without early stopping, the live model's validation rows are training rows here.
    dataset = dataclasses.replace(shop.dataset, model=model)
    warm = request(shop, tmp_path / "warm", dataset=dataset, tasks=1, live=shop.artefact)
    metrics = train.train(spark, warm)
    before = shop.read("metrics.json")["trees"]
    lineage = json.loads((tmp_path / "warm" / "lineage.json").read_text())
    assert lineage["warm_start"] == {"run_id": "run-1", "trees": before}
    assert metrics["trees"] == before + 7
    # From the judged model: the served one knows today's test rows.
    earlier = (shop.artefact / "judged" / "model.txt").read_text().split("Tree=0")[1].split("Tree=1\n")[0]
    assert earlier in (tmp_path / "warm" / "judged" / "model.txt").read_text()
    assert earlier in (tmp_path / "warm" / "model.txt").read_text()


def test_impossible_warm_start_fits_from_scratch_and_records_the_reason(shop: Trained) -> None:
    text, trees = (shop.artefact / "model.txt").read_text(), shop.read("metrics.json")["trees"]
    live = Live("run-1", model=text)

    def start(**model: int) -> warm_start.Start:
        return warm_start.start(live, shop.dataset.with_model(**model))

    assert start() == warm_start.Start(shop.dataset)
    warm = start(warm_start=10)
    assert warm.model == text
    assert warm.dataset.model.num_iterations == 10
    full = start(warm_start=10, num_iterations=trees + 9)
    assert (full.model, full.dataset.model.num_iterations) == ("", trees + 9)
    assert full.lineage == {
        "run_id": "run-1",
        "trees": 0,
        "anew": f"{trees} trees and 10 further ones are more than num_iterations {trees + 9}",
    }
    dataset = shop.dataset.with_model(warm_start=10)
    assert warm_start.start(None, dataset) == warm_start.Start(dataset)
    gone = warm_start.start(Live("run-0", skipped="its artefact is no longer in the lake"), dataset)
    assert gone.lineage == {"run_id": "run-0", "trees": 0, "anew": "its artefact is no longer in the lake"}
    other = warm_start.start(live, dataclasses.replace(dataset, crosses=dataset.crosses[1:]))
    assert other.lineage is not None
    assert "it has 'user_id__genres_rate' where" in other.lineage["anew"]


def test_artefact_is_complete_or_missing(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "run"

    def fill_half() -> None:
        with artefact.new(folder):
            (folder / "model.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill_half()
    assert not folder.exists()

    folder.mkdir()  # the state that a killed run leaves
    (folder / "model.txt").write_text("half")
    with artefact.new(folder):
        assert not any(folder.iterdir())
        (folder / "model.txt").write_text("whole")
    with pytest.raises(WorkloadError, match="never overwritten"), artefact.new(folder):
        pass
    assert (folder / "model.txt").read_text() == "whole"


def test_run_that_fails_midway_leaves_no_files(
    shop: Trained,
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        assert (tmp_path / "model" / "judged" / "model.txt").exists()
        raise OSError("No space left on device")

    monkeypatch.setattr(serving, "save", full)
    quick = dataclasses.replace(shop.dataset, crosses=(), encoder=dataclasses.replace(shop.dataset.encoder, passes=0))
    with pytest.raises(OSError, match="No space left"):
        train.train(spark, request(shop, tmp_path / "model", dataset=quick))
    assert not (tmp_path / "model").exists()


def test_restarted_run_finds_its_artefact(shop: Trained) -> None:
    same = request(shop, shop.artefact, lineage={"snapshot": "raw"})
    assert train.already_trained(same)
    assert not train.already_trained(dataclasses.replace(same, lineage={"snapshot": "other"}))
    other = dataclasses.replace(shop.dataset, digest="another spec")
    assert not train.already_trained(dataclasses.replace(same, dataset=other))


def test_training_needs_a_prepared_table(shop: Trained, spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="run prepare first"):
        train.train(spark, request(shop, tmp_path / "model", features=tmp_path))
    with pytest.raises(WorkloadError, match="no column 'I1'"):
        train.train(spark, request(shop, tmp_path / "model", dataset=spec.load("criteo")))


def test_killed_tracking_server_is_reported_and_does_not_change_the_model(shop: Trained, repeated: RepeatedRun) -> None:
    assert re.search(r"^not logged to MLflow: .*metrics, model_card.html, lineage.json", repeated.printed, re.M)
    metrics = json.loads((repeated.artefact / "metrics.json").read_text())
    assert all(rule["passed"] for rule in verdict(metrics, THRESHOLDS | {"test_clicks_min": 100}))
    assert metrics | {"seconds": {}} == shop.read("metrics.json") | {"seconds": {}}
