"""The lightweight pipeline: the same results as Spark's, with few calls to the JVM."""

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

# A session fixture that is imported would be set up once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark


def test_pipeline_computes_the_same_as_pipeline_model_of_spark(shop: Trained, spark: SparkSession) -> None:
    folder = shop.artefact / "pipeline"
    rows = spark.read.parquet(str(shop.features)).orderBy("time").limit(300)

    def probabilities(scored: DataFrame) -> list[float]:
        click = spark_ml_io.vector_to_array("probability")[1].alias("click")
        return [row.click for row in scored.select("time", click).orderBy("time", "click").collect()]

    ours = probabilities(pipeline.load(folder).transform(rows))
    assert len(set(ours)) > 100
    assert ours == probabilities(PipelineModel.load(str(folder)).transform(rows))


@pytest.mark.parametrize("words", [[MISSING_LEVEL], [MISSING_LEVEL, f"a{BETWEEN}b", 'line\n"break"\\', "über", "😀"]])
def test_lookup_is_loaded_as_spark_loads_it(words: list[str], spark: SparkSession, tmp_path: Path) -> None:
    """`load` uses Spark's private constructors; the words contain characters that serialisation could change."""
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


def test_pipeline_stages_are_loaded_in_the_saved_order(shop: Trained) -> None:
    folder = shop.artefact / "pipeline"
    saved = spark_ml_io.read_metadata(folder)["paramMap"]["stageUids"]
    assert len(saved) > 10
    assert list(pipeline.load(folder).stages) == saved


def test_jvm_names_are_resolved_once(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []
    client = spark._jvm._gateway_client
    real = client.send_command

    def send(command: str, *options: object, **more: object) -> object:
        commands.append(command)
        return real(command, *options, **more)

    monkeypatch.setattr(client, "send_command", send)
    spark.range(1).select(F.concat(F.lit("a"), F.col("id")), spark_ml_io.vector_to_array("id"))
    assert commands
    assert [command for command in commands if command.startswith("r\nu\n")] == []
