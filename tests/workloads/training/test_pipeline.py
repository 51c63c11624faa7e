"""The pipeline as the workload holds it against Spark's own, and how little it asks of the JVM for that."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from testing.workloads.shop import Trained
from workloads.features.categories import BETWEEN, MISSING_LEVEL
from workloads.training import pipeline, spark_ml_io

# Imported, a session fixture would be made once for every module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark


def test_it_computes_what_sparks_own_computes(shop: Trained, spark: SparkSession) -> None:
    folder = shop.artefact / "pipeline"
    rows = spark.read.parquet(str(shop.features)).orderBy("time").limit(300)

    def probabilities(scored: DataFrame) -> list[float]:
        click = spark_ml_io.vector_to_array("probability")[1].alias("click")
        return [row.click for row in scored.select("time", click).orderBy("time", "click").collect()]

    ours = probabilities(pipeline.load(folder).transform(rows))
    assert len(set(ours)) > 100
    assert ours == probabilities(PipelineModel.load(str(folder)).transform(rows))


@pytest.mark.parametrize("words", [[MISSING_LEVEL], [MISSING_LEVEL, f"a{BETWEEN}b", 'line\n"break"\\', "über", "😀"]])
def test_a_lookup_is_read_as_spark_reads_it(words: list[str], spark: SparkSession, tmp_path: Path) -> None:
    """Made with constructors that are not Spark's public ones, of words that no way of writing them may change."""
    vectors = np.arange(2 * len(words), dtype=np.float32).reshape(-1, 2) / 3
    folder = tmp_path / "lookup"
    spark_ml_io.write_lookup(folder, "looked_up", ("words", "mean"), words, vectors, spark)
    ours = spark_ml_io.load(folder, spark)
    sparks = spark._jvm.org.apache.spark.ml.feature.Word2VecModel.load(str(folder))
    assert ours.uid() == sparks.uid() == "looked_up"
    assert ours.explainParams() == sparks.explainParams()
    rows = spark.createDataFrame([([word],) for word in words] + [(words,), (["never seen"],)], ["words"])

    def means(model: Any) -> list[Any]:
        return DataFrame(model.transform(rows._jdf), spark).collect()

    assert means(ours) == means(sparks)
    assert [row["mean"].tolist() for row in means(ours)[: len(words)]] == vectors.tolist()


def test_its_stages_are_in_the_order_in_which_they_were_saved(shop: Trained) -> None:
    folder = shop.artefact / "pipeline"
    saved = spark_ml_io.read_metadata(folder)["paramMap"]["stageUids"]
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
    spark.range(1).select(F.concat(F.lit("a"), F.col("id")), spark_ml_io.vector_to_array("id"))
    assert asked
    assert [command for command in asked if command.startswith("r\nu\n")] == []
