"""Training: an artefact that every reader understands alike."""

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
from testing.sandbox.tracking import tracking_server
from testing.workloads.shop import Reader, Trained
from tests.infra.release.checks.test_gate import FLOORS
from workloads import artefact, spec
from workloads.errors import WorkloadError
from workloads.live_model import Live
from workloads.tasks import train
from workloads.training import fit, warm_start
from workloads.training import pipeline as serving

# Imported, a session fixture would be made once for every module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark
_MISSING_IS_NAN = 2
"""In the bits of LightGBM's `decision_type` that say what a missing value is; 0: there is none, it counts as 0."""


def test_every_file_is_in_the_manifest_with_its_digest(shop: Trained) -> None:
    listed = shop.read("MANIFEST.json")["files"]
    found = {p.relative_to(shop.artefact).as_posix() for p in shop.artefact.rglob("*") if p.is_file()}
    assert found == {*listed, "MANIFEST.json"}
    assert {"model.txt", "encoder.npz", "contract.json", "golden.jsonl", "metrics.json", "lineage.json"} < set(listed)
    assert "profile.json" in listed
    for name, digest in listed.items():
        assert hashlib.sha256((shop.artefact / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["shop", "synthetic"])
def test_native_lightgbm_gives_the_golden_probabilities(name: str, request: pytest.FixtureRequest) -> None:
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


def test_the_model_is_the_trees_up_to_the_best_on_validation(shop: Trained, pipeline: PipelineModel) -> None:
    trees = shop.read("metrics.json")["trees"]
    assert 10 < trees <= shop.dataset.model.num_iterations - shop.dataset.model.early_stopping_round
    assert trees == Reader(shop.artefact).booster.num_trees()
    assert pipeline.stages[-1].getBoosterNumTotalIterations() == trees
    assert pipeline.stages[-1].getNumIterations() == -1


def test_the_pipeline_has_stages_of_the_jvm_only(pipeline: PipelineModel) -> None:
    assert {type(stage).__module__.split(".")[0] for stage in pipeline.stages} == {"pyspark", "synapse"}
    assert "Word2VecModel" in {type(stage).__name__ for stage in pipeline.stages}


def test_judged_on_the_last_part_by_time_only(shop: Trained, spark: SparkSession) -> None:
    metrics = shop.read("metrics.json")
    rows = spark.read.parquet(str(shop.features)).orderBy(F.desc("time")).limit(metrics["rows_test"])
    assert metrics["rows_train"] + metrics["rows_validation"] + metrics["rows_test"] == 6_000
    assert abs(metrics["rows_test"] - 600) <= 1
    assert abs(metrics["rows_validation"] - 600) <= 1
    assert rows.filter("label = 1").count() == metrics["clicks_test"]


def test_the_shop_is_learned_and_calibrated(shop: Trained) -> None:
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


def test_synthetic_criteo_is_learned_and_says_what_it_is(synthetic: Trained) -> None:
    metrics = synthetic.read("metrics.json")
    best = json.loads((synthetic.raw / "SYNTHETIC.json").read_text("utf-8"))
    assert 0.70 <= metrics["auc"] <= best["best_auc"] + 0.02
    assert metrics["log_loss"] < metrics["base_log_loss"]
    assert metrics["synthetic"] is True
    assert synthetic.read("lineage.json")["synthetic"] is True
    assert "SYNTHETIC" in (synthetic.artefact / "model_card.html").read_text("utf-8")


def test_a_live_model_of_another_dataset_is_skipped_by_a_training_run(synthetic: Trained) -> None:
    metrics = synthetic.read("metrics.json")
    assert metrics["live"] == {"run_id": "run-1", "skipped": "it was trained on dataset 'movielens', not 'criteo'"}
    assert metrics["drift"] == {}
    assert "Not compared with run run-1" in (synthetic.artefact / "model_card.html").read_text("utf-8")


def test_the_model_card_stands_alone_and_names_the_terms(shop: Trained) -> None:
    card = (shop.artefact / "model_card.html").read_text("utf-8")
    assert "no redistribution" in card
    assert "SYNTHETIC" not in card
    assert 'src="data:image/png;base64,' in card
    assert not re.search(r"(src|href)=(?!.data:)|<script|@import|url\(", card)


def test_the_gain_of_the_context_is_measured_by_asking_without_it(shop: Trained) -> None:
    metrics, card = shop.read("metrics.json"), (shop.artefact / "model_card.html").read_text("utf-8")
    without = metrics["context"]
    assert without["auc_change"] == pytest.approx(metrics["auc"] - without["auc"])
    assert without["auc_change_interval"][0] > 0 > without["log_loss_change"]
    shown = re.search(r"What changes by the request: hour, weekday, with (\d+\.\d\d)% of the trees' gain", card)
    assert shown
    booster = Reader(shop.artefact).booster
    gain = dict(zip(booster.feature_name(), booster.feature_importance("gain"), strict=True))
    of_context = gain["hour_number"] + gain["weekday_number"]
    assert float(shown[1]) == pytest.approx(100 * of_context / sum(gain.values()), abs=0.01)
    assert f"{without['auc']:.4f}" in card


def test_a_row_that_is_not_told_the_hour_is_not_one_of_midnight(shop: Trained) -> None:
    """LightGBM reads a missing number as 0 wherever training had none that was missing."""
    hour = Reader(shop.artefact).booster.feature_name().index("hour_number")
    lines = (line.partition("=") for line in (shop.artefact / "model.txt").read_text("utf-8").splitlines())
    kept: dict[str, list[int]] = {"split_feature": [], "decision_type": []}
    for name, _, values in lines:
        if name in kept:
            kept[name] += map(int, values.split())
    decisions = [kind for feature, kind in zip(*kept.values(), strict=True) if feature == hour]
    assert {kind >> 2 & 3 for kind in decisions} == {_MISSING_IS_NAN}


def test_another_hour_is_another_ranking_and_no_hour_is_guessed(shop: Trained) -> None:
    with scoring.serving(scoring.scoring_environment(shop.artefact)) as service:
        endpoint = Endpoint(service.client, "/score")

        def best(*given: str) -> list[tuple[str, float]]:
            context = ranking.parse_context(shop.dataset, given)
            ranked = ranking.rank(endpoint, shop.dataset, shop.raw, "u5", 20, context)
            return [(item["id"], item["probability"]) for item in ranked]

        morning, evening, untold = best("hour=4", "weekday=6"), best("hour=20", "weekday=6"), best()
        with pytest.raises(UserError, match=r'400: .*"field":"hour"'):
            best("hour=24")
    assert [id_ for id_, _ in morning] != [id_ for id_, _ in evening]
    user, items = (side(shop.dataset, which, shop.raw) for which in ("user", "item"))
    reader = Reader(shop.artefact)
    for context, found in (({"hour": 20, "weekday": 6}, evening), ({"hour": None, "weekday": None}, untold)):
        for id_, probability in found:
            assert abs(reader.probability({**user["u5"], **items[id_], **context}) - probability) <= 1e-12


def test_contract_and_lineage_say_what_was_trained(shop: Trained) -> None:
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
            train.train(spark, shop.dataset, shop.features, tmp_path / "model", "r", {})
    finally:
        spark.conf.set("spark.sql.adaptive.enabled", "false")
    assert not (tmp_path / "model").exists()


@dataclasses.dataclass(frozen=True)
class Again:
    artefact: Path
    printed: str


@pytest.fixture(scope="module")
def again(shop: Trained, tmp_path_factory: pytest.TempPathFactory) -> Again:
    """The shop's rows trained on anew, on one core, by a task whose tracking server was killed mid-run."""
    folder, real = tmp_path_factory.mktemp("again"), fit.fit
    arguments = ["--features", str(shop.features), "--artefact", str(folder / "model"), "--run-id", "run-2"]
    arguments += ["--dataset", "movielens", "--tasks", "1", "--experiment", "/Shared/shop/training"]
    printed = io.StringIO()
    with tracking_server(folder / "sandbox") as server, pytest.MonkeyPatch.context() as patch:

        def killed_then_fit(*given: Any) -> Any:
            server.end()
            return real(*given)

        patch.setattr(spec, "load", lambda name: shop.dataset)
        patch.setattr("sys.argv", ["train", *arguments])
        patch.setenv("MLFLOW_TRACKING_URI", server.address)
        patch.setattr(fit, "fit", killed_then_fit)
        with contextlib.redirect_stdout(printed):
            train.main()
    return Again(folder / "model", printed.getvalue())


def test_the_same_snapshot_and_seed_are_the_same_model_on_one_core(shop: Trained, again: Again) -> None:
    for name in ("model.txt", "encoder.npz"):
        assert (again.artefact / name).read_bytes() == (shop.artefact / name).read_bytes()


def test_training_goes_on_from_what_serves_where_the_spec_says_so(
    shop: Trained, spark: SparkSession, tmp_path: Path
) -> None:
    model = dataclasses.replace(shop.dataset.model, warm_start=7, early_stopping_round=0)
    # With the same parts as before: without early stopping, its rows would be trained on too.
    dataset = dataclasses.replace(shop.dataset, model=model)
    metrics = train.train(spark, dataset, shop.features, tmp_path / "warm", "warm", {}, 1, shop.artefact)
    before = shop.read("metrics.json")["trees"]
    lineage = json.loads((tmp_path / "warm" / "lineage.json").read_text())
    assert lineage["warm_start"] == {"run_id": "run-1", "trees": before}
    assert metrics["trees"] == before + 7
    earlier = (shop.artefact / "model.txt").read_text().split("Tree=0")[1].split("Tree=1\n")[0]
    assert earlier in (tmp_path / "warm" / "model.txt").read_text()


def test_what_cannot_be_gone_on_from_is_trained_anew_and_says_why(shop: Trained) -> None:
    text, trees = (shop.artefact / "model.txt").read_text(), shop.read("metrics.json")["trees"]
    live = Live("run-1", model=text)

    def asked(**model: int) -> warm_start.Start:
        return warm_start.start(
            live, dataclasses.replace(shop.dataset, model=dataclasses.replace(shop.dataset.model, **model))
        )

    assert asked() == warm_start.Start(shop.dataset)
    going_on = asked(warm_start=10)
    assert going_on.model == text
    assert going_on.dataset.model.num_iterations == 10
    full = asked(warm_start=10, num_iterations=trees + 9)
    assert (full.model, full.dataset.model.num_iterations) == ("", trees + 9)
    assert full.lineage == {
        "run_id": "run-1",
        "trees": 0,
        "anew": f"{trees} trees and 10 further ones are more than num_iterations {trees + 9}",
    }
    asks = dataclasses.replace(shop.dataset, model=dataclasses.replace(shop.dataset.model, warm_start=10))
    assert warm_start.start(None, asks) == warm_start.Start(asks)
    gone = warm_start.start(Live("run-0", skipped="its artefact is no longer in the lake"), asks)
    assert gone.lineage == {"run_id": "run-0", "trees": 0, "anew": "its artefact is no longer in the lake"}
    other = warm_start.start(live, dataclasses.replace(asks, crosses=asks.crosses[1:]))
    assert other.lineage is not None
    assert "it has 'user_id__genres_rate' where" in other.lineage["anew"]


def test_an_artefact_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "run"

    def fill_half() -> None:
        with artefact.new(folder):
            (folder / "model.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill_half()
    assert not folder.exists()

    folder.mkdir()  # as a killed run leaves it
    (folder / "model.txt").write_text("half")
    with artefact.new(folder):
        assert not any(folder.iterdir())
        (folder / "model.txt").write_text("whole")
    with pytest.raises(WorkloadError, match="never written over"), artefact.new(folder):
        pass
    assert (folder / "model.txt").read_text() == "whole"


def test_a_run_that_fails_half_way_leaves_nothing(
    shop: Trained,
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        assert (tmp_path / "model" / "model.txt").exists()
        raise OSError("No space left on device")

    monkeypatch.setattr(serving, "save", full)
    quick = dataclasses.replace(shop.dataset, crosses=(), encoder=dataclasses.replace(shop.dataset.encoder, passes=0))
    with pytest.raises(OSError, match="No space left"):
        train.train(spark, quick, shop.features, tmp_path / "model", "r", {})
    assert not (tmp_path / "model").exists()


def test_a_run_started_again_finds_its_artefact(shop: Trained) -> None:
    assert train.already_trained(shop.artefact, shop.dataset, shop.features, {"snapshot": "raw"})
    assert not train.already_trained(shop.artefact, shop.dataset, shop.features, {"snapshot": "other"})
    other = dataclasses.replace(shop.dataset, digest="another spec")
    assert not train.already_trained(shop.artefact, other, shop.features, {"snapshot": "raw"})


def test_training_needs_a_prepared_table(shop: Trained, spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="run prepare first"):
        train.train(spark, shop.dataset, tmp_path, tmp_path / "model", "r", {})
    with pytest.raises(WorkloadError, match="no column 'I1'"):
        train.train(spark, spec.load("criteo"), shop.features, tmp_path / "model", "r", {})


def test_a_tracking_server_killed_mid_run_changes_nothing_of_the_model_and_is_told_of(
    shop: Trained, again: Again
) -> None:
    assert re.search(r"^not logged to MLflow: .*metrics, model_card.html, lineage.json", again.printed, re.M)
    found = json.loads((again.artefact / "metrics.json").read_text())
    assert all(rule["passed"] for rule in verdict(found, FLOORS | {"test_clicks_min": 100}))
    assert found | {"seconds": {}} == shop.read("metrics.json") | {"seconds": {}}
