"""The encoding: no row sees its own label, and Spark's stages hold exactly what `encoder.npz` says."""

from pathlib import Path

import numpy as np
import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from workloads_shop import GENRES, Reader, Trained

from workloads import encode, spec, stages
from workloads.evaluate import auc

# Imported, a session fixture would be made once for every module.
pytest_plugins = ["workloads_fixtures"]
pytestmark = pytest.mark.spark

NOISE = spec.parse(
    """
name: noise
title: Levels that say nothing
terms: none
interactions: {files: [x]}
label: {column: label}
time: {chunks: 1}
features:
  noise: {type: string, side: context}
encoder: {folds: 5, smoothing: 20, min_count: 2}
model: {num_iterations: 1, num_leaves: 2, learning_rate: 0.1}
""",
    "noise.yaml",
)


def _noise(spark: SparkSession, rows: int) -> DataFrame:
    """Labels by chance, 0.4 clicks; levels by chance, a few rows each."""
    return spark.range(rows).select(
        F.col("id").alias("time"),
        (F.pmod(F.xxhash64("id", F.lit(1)), F.lit(10)) < 4).cast("double").alias("label"),
        F.pmod(F.xxhash64("id", F.lit(2)), F.lit(3_000)).cast("string").alias("noise"),
    )


def _encoded(train: DataFrame, folder: Path, base_rate: float) -> tuple[DataFrame, DataFrame]:
    """(training rows as LightGBM gets them, the table of levels)."""
    rows = encode.normaliser(NOISE).transform(train).withColumn("fold", encode.fold_of(NOISE))
    levels = encode.vectors(encode.count_levels(rows, NOISE), NOISE.encoder, base_rate)
    folders = {"noise": folder / "crossed" / "noise"}
    encode.write_lookups(levels, NOISE, "crossed", folders)
    return encode.encode_training_rows(rows.orderBy("time"), NOISE, folders), levels


def _numbers(frame: DataFrame, vector: str) -> tuple[np.ndarray, np.ndarray]:
    rows = frame.select("label", stages.vector_to_array(vector).alias("v")).collect()
    return np.array([row.label for row in rows]), np.array([row.v for row in rows])


def test_a_column_of_noise_tells_nothing(spark: SparkSession, tmp_path: Path) -> None:
    rows = _noise(spark, 40_000)
    encoded, levels = _encoded(rows.filter("time < 20000"), tmp_path, 0.4)
    labels, values = _numbers(encoded, "features")
    assert abs((auc(labels, values[:, 0]) or 0) - 0.5) < 0.02
    assert abs((auc(labels, values[:, 1]) or 0) - 0.5) < 0.02

    served = {"noise": tmp_path / "served" / "noise"}
    encode.write_lookups(levels, NOISE, "served", served)
    later = encode.normaliser(NOISE).transform(rows.filter("time >= 20000"))
    labels, held_out = _numbers(
        encode.Word2VecModel.load(str(served["noise"])).transform(later), encode.encoded_column("noise")
    )
    assert abs((auc(labels, held_out[:, 0]) or 0) - 0.5) < 0.02
    assert abs((auc(labels, held_out[:, 1]) or 0) - 0.5) < 0.02
    # What training shows the model is spread as what serving will.
    assert np.allclose(values.mean(axis=0), held_out.mean(axis=0), atol=0.05)
    assert np.allclose(values.std(axis=0), held_out.std(axis=0), rtol=0.3)


def test_no_row_sees_its_own_label(spark: SparkSession, tmp_path: Path) -> None:
    rows = _noise(spark, 20_000).withColumn("noise", F.pmod("time", F.lit(50)).cast("string"))
    flipped = rows.withColumn("label", F.when(F.col("time") == 77, 1 - F.col("label")).otherwise(F.col("label")))
    labels, before = _numbers(_encoded(rows, tmp_path / "before", 0.4)[0], "features")
    labels_after, after = _numbers(_encoded(flipped, tmp_path / "after", 0.4)[0], "features")
    assert list(np.flatnonzero(labels != labels_after)) == [77]
    assert (before[77] == after[77]).all()
    assert (before[27::50] != after[27::50]).any()  # others of its level do see it


def test_rare_and_unseen_levels_stand_at_the_base_rate(shop: Trained) -> None:
    reader = Reader(shop.artefact)
    assert reader.pair("occupation", "job3")[1] > 0
    assert (reader.pair("occupation", "job9") == 0).all()
    for levels in reader.levels.values():
        assert "\0" in levels
        counts = np.expm1([float(pair[1]) for pair in levels.values()])
        assert all(count == 0 or round(count) >= shop.dataset.encoder.min_count for count in counts)


def test_encoder_arrays_and_spark_stages_agree_exactly(shop: Trained, spark: SparkSession) -> None:
    reader = Reader(shop.artefact)
    random = np.random.default_rng(3)
    users, items = [*reader.levels["user_id"], "nobody", " u7 ", "  ", None], [*reader.levels["item_id"], ""]
    genres = [*GENRES, "Opera", " War ", "", None]
    rows = []
    for _ in range(300):
        several = random.choice(len(genres), random.integers(0, 5))
        rows.append(
            (
                users[random.integers(len(users))],
                items[random.integers(len(items))],
                [genres[i] for i in several] if random.random() < 0.9 else None,
            )
        )
    frame = spark.createDataFrame(rows, "user_id string, item_id string, genres array<string>")
    for name in shop.dataset.features:
        if name not in frame.columns:
            frame = frame.withColumn(name, F.lit(None).cast("string"))
    names = ["user_id", "item_id", "genres"]
    encoded = PipelineModel.load(str(shop.artefact / "pipeline")).transform(frame)
    vectors = encoded.select(*(stages.vector_to_array(encode.encoded_column(n)).alias(n) for n in names)).collect()
    for row, vector in zip(rows, vectors, strict=True):
        for name, value in zip(names, row, strict=True):
            assert reader.pair(name, value).tolist() == vector[name], f"{name}={value!r}"
