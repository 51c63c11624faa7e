"""The pipeline as the workload holds it against Spark's own, and how little it asks of the JVM for that."""

import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from workloads_shop import Trained

from workloads import pipeline, stages

# Imported, a session fixture would be made once for every module.
pytest_plugins = ["workloads_fixtures"]
pytestmark = pytest.mark.spark


def test_it_computes_what_sparks_own_computes(shop: Trained, spark: SparkSession) -> None:
    folder = shop.artefact / "pipeline"
    rows = spark.read.parquet(str(shop.features)).orderBy("time").limit(300)

    def probabilities(scored: DataFrame) -> list[float]:
        click = stages.vector_to_array("probability")[1].alias("click")
        return [row.click for row in scored.select("time", click).orderBy("time", "click").collect()]

    ours = probabilities(pipeline.load(folder).transform(rows))
    assert len(set(ours)) > 100
    assert ours == probabilities(PipelineModel.load(str(folder)).transform(rows))


def test_its_stages_are_in_the_order_in_which_they_were_saved(shop: Trained) -> None:
    folder = shop.artefact / "pipeline"
    saved = stages.read_metadata(folder)["paramMap"]["stageUids"]
    assert len(saved) > 10
    assert list(pipeline.load(folder).stages) == saved


def test_the_jvm_is_asked_once_what_a_name_is(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    client = spark._jvm._gateway_client
    real = client.send_command

    def send(command: str, *options: object, **more: object) -> object:
        asked.append(command)
        return real(command, *options, **more)

    monkeypatch.setattr(client, "send_command", send)
    spark.range(1).select(F.concat(F.lit("a"), F.col("id")), stages.vector_to_array("id"))
    assert asked
    assert [command for command in asked if command.startswith("r\nu\n")] == []
