"""One Spark session with the released SynapseML, and models trained in it, each once per test session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from cli import local_spark
from sandbox import java
from testing.workloads.shop import Trained, in_few_parts, write_shop
from workloads import session, spec
from workloads.data import synthesize
from workloads.tasks import prepare, train


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    others = os.environ.keys() - local_spark.without_others(os.environ).keys()
    for name in others:
        del os.environ[name]
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    settings = {
        **local_spark.settings(tmp_path_factory.mktemp("spark"), cores=2),
        "spark.sql.shuffle.partitions": "2",
        # Tests are short: generating and compiling code for a plan takes longer than it saves.
        "spark.driver.extraJavaOptions": java.QUICK,
        "spark.sql.codegen.wholeStage": "false",
        # Spark allocates memory for this number of rows per cached column, also if there are fewer.
        "spark.sql.inMemoryColumnarStorage.batchSize": "1000",
    }
    with SparkSession.builder.config(map=settings).getOrCreate():
        yield session.start()


def run(
    spark: SparkSession, dataset: spec.Spec, raw: Path, folder: Path, live: Path | None = None, tasks: int = 0
) -> Trained:
    """Prepare a snapshot and train on it."""
    trained = Trained(raw, folder / "features", folder / "models" / "run-1", dataset)
    prepare.prepare(spark, dataset, raw, trained.features)
    request = train.TrainRequest(
        dataset=dataset,
        features=trained.features,
        artefact=trained.artefact,
        run_id="run-1",
        lineage={"snapshot": raw.name},
        tasks=tasks,
        live=live,
    )
    train.train(spark, request)
    return trained


@pytest.fixture(scope="session")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("shop")
    return run(spark, in_few_parts("movielens"), write_shop(folder / "raw"), folder, tasks=1)


@pytest.fixture(scope="session")
def synthetic(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, shop: Trained) -> Trained:
    """A model trained on synthetic rows, while the shop's model is live."""
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize.synthesize(folder / "raw", 20_000)
    return run(spark, in_few_parts("criteo"), folder / "raw", folder, shop.artefact)
