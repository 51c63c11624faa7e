"""One Spark session with the released SynapseML, and models trained on it, each once for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from workloads_shop import Trained, in_few_parts, write_shop

from workloads import prepare, spec, synthesize, train

_EXCLUDED = (
    "org.scala-lang:scala-reflect",
    "org.apache.spark:spark-tags_2.12",
    "org.scalactic:scalactic_2.12",
    "org.scalatest:scalatest_2.12",
    "com.fasterxml.jackson.core:jackson-databind",
)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.jars.packages", "com.microsoft.azure:synapseml-lightgbm_2.12:1.1.3")
        .config("spark.jars.excludes", ",".join(_EXCLUDED))
        .config("spark.jars.ivy", str(cache / "personalization-azure" / "ivy"))
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        # Short tests end before the second compiler has paid for itself.
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC")
        .config("spark.sql.codegen.wholeStage", "false")
        .getOrCreate()
    )
    yield session
    session.stop()


def run(
    spark: SparkSession, dataset: spec.Spec, raw: Path, folder: Path, live: Path | None = None, tasks: int = 0
) -> Trained:
    trained = Trained(raw, folder / "features", folder / "models" / "run-1", dataset)
    prepare.prepare(spark, dataset, raw, trained.features)
    lineage = {"snapshot": raw.name}
    train.train(spark, dataset, trained.features, trained.artefact, "run-1", lineage, tasks, live)
    return trained


@pytest.fixture(scope="session")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("shop")
    return run(spark, in_few_parts("movielens"), write_shop(folder / "raw"), folder, tasks=1)


@pytest.fixture(scope="session")
def synthetic(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, shop: Trained) -> Trained:
    """Trained while the shop's model serves."""
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize.synthesize(folder / "raw", 20_000)
    return run(spark, in_few_parts("criteo"), folder / "raw", folder, shop.artefact)
