"""Target encoding: cross-fitting uses no own or later label, and Spark's stages equal `encoder.npz`."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from testing.workloads.shop import GENRES, Reader, Trained, in_few_parts
from workloads import spec
from workloads.data import split
from workloads.data.split import Split
from workloads.evaluation.metrics import auc
from workloads.features import categories, encode, encode_split, target_statistics
from workloads.features.encode_split import EncodedSplit
from workloads.spec import Spec
from workloads.training import spark_ml_io

# A session fixture that is imported would be set up once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark

ROWS, PARTS = 20_000, 5
TOYS = spec.parse(
    f"""
name: toys
title: Random levels
terms: none
interactions: {{files: [x]}}
label: {{column: label}}
time: {{chunks: 1}}
features:
  at: {{type: integer, side: context}}
  noise: {{type: string, side: context}}
  user: {{type: string, side: user}}
  age: {{type: integer, side: user, bands: [20, 40.5]}}
  item: {{type: string, side: item}}
  tags: {{type: strings, side: item, separator: " "}}
user_id: user
item_id: item
crosses: [[user, tags], [age, item]]
encoder: {{parts: {PARTS}, smoothing: 20, min_count: 2}}
model: {{num_iterations: 1, num_leaves: 2, learning_rate: 0.1}}
""",
    "toys.yaml",
)
COLUMNS = {column: i for i, column in enumerate(TOYS.model_columns)}


def _toys(**encoder: Any) -> Spec:
    return dataclasses.replace(TOYS, encoder=dataclasses.replace(TOYS.encoder, **encoder))


def _rows(spark: SparkSession, rows: int = ROWS) -> DataFrame:
    """Return rows with random labels, 40 % clicks, and random levels; all but those of `noise` have many rows each."""

    def random(stream: int, below: int) -> Any:
        return F.pmod(F.xxhash64("id", F.lit(stream)), F.lit(below))

    return spark.range(rows).select(
        F.col("id").alias("time"),
        (random(1, 10) < 4).cast("double").alias("label"),
        F.col("id").alias("at"),
        random(2, 3_000).cast("string").alias("noise"),
        random(3, 100).cast("string").alias("user"),
        random(3, 100).alias("age"),
        random(4, 50).cast("string").alias("item"),
        F.array(random(4, 3).cast("string"), random(4, 4).cast("string")).alias("tags"),
    )


@contextmanager
def _encoded(
    rows: DataFrame, dataset: Spec, training: int = ROWS, before_test: int | None = None
) -> Iterator[EncodedSplit]:
    """Encode rows; those with a time of `training` or later are the validation set.

    before_test: time from which rows are test rows that the served model learns from; None: there are none.
    """
    edges = [training * part / PARTS for part in range(1, PARTS)]
    part = target_statistics.training_part(dataset, edges)
    part = F.when(F.col("time") >= training, F.lit(PARTS)).otherwise(part)
    if before_test is not None:
        part = F.when(F.col("time") >= before_test, F.lit(PARTS + 1)).otherwise(part)
    learning = categories.level_transformer(dataset).transform(rows).withColumn("part", part)
    rows_split = Split(learning, learning.limit(0), learns_from_test=before_test is not None)
    with encode_split.encode_learning_rows(rows_split, dataset) as encoded:
        yield encoded


def _vectors(rows: DataFrame, dataset: Spec, training: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and features of the encoded rows, ordered by time."""
    with _encoded(rows, dataset, training) as encoded:
        collected = encoded.rows.select("label", spark_ml_io.vector_to_array("features").alias("v")).collect()
    collected.sort(key=lambda row: row.v[COLUMNS["at", "number"]])
    return np.array([row.label for row in collected]), np.array([row.v for row in collected])


def _plan(frame: DataFrame) -> str:
    return str(frame._jdf.queryExecution().executedPlan().toString())


@pytest.mark.parametrize("history", spec.HISTORIES)
def test_encoding_a_noise_column_does_not_leak_labels(history: str, spark: SparkSession) -> None:
    labels, vectors = _vectors(_rows(spark, 2 * ROWS), _toys(history=history), training=ROWS)
    for value in spec.PAIR:
        training, held_out = np.split(vectors[:, COLUMNS["noise", value]], 2)
        assert abs((auc(labels[:ROWS], training) or 0) - 0.5) < 0.02
        assert abs((auc(labels[ROWS:], held_out) or 0) - 0.5) < 0.02


def test_label_with_a_scale_is_encoded_by_its_value_and_clicks_stay_the_label(spark: SparkSession) -> None:
    """Every click has five stars if the item's number is even, and four if it is odd."""
    even = F.col("item").cast("int") % 2 == 0
    stars = F.when(F.col("label") == 0, 0.0).when(even, 1.0).otherwise(0.75)
    rows = _rows(spark).withColumn("outcome", stars)
    scaled = dataclasses.replace(TOYS, label=spec.Label("stars", at_least=4.0, scale=(1.0, 5.0)))
    is_even = np.array([row[0] for row in rows.orderBy("time").select(even).collect()])

    def difference(dataset: Spec) -> float:
        labels, vectors = _vectors(rows, dataset)
        assert set(labels) == {0.0, 1.0}
        known = vectors[ROWS // PARTS :, COLUMNS["item", "rate"]]
        return float(known[is_even[ROWS // PARTS :]].mean() - known[~is_even[ROWS // PARTS :]].mean())

    assert difference(scaled) - difference(TOYS) == pytest.approx(0.4 * 0.25, abs=0.015)


def test_encodings_have_the_same_distribution_in_training_and_serving(spark: SparkSession) -> None:
    """Counts are scaled up, so the model cannot recognise a part with few known rows by them."""
    _, vectors = _vectors(_rows(spark, 2 * ROWS), _toys(history="others"), training=ROWS)
    for column in (("noise", "rate"), ("noise", "count"), ("user__tags", "count"), ("age__item", "rate")):
        training, held_out = np.split(vectors[:, COLUMNS[column]], 2)
        assert abs(training.mean() - held_out.mean()) < 0.06, column
        assert np.allclose(training.std(), held_out.std(), rtol=0.3, atol=0.02), column


@pytest.mark.parametrize(("history", "passes"), [("earlier", 0), ("earlier", 2), ("others", 0), ("others", 2)])
def test_no_encoding_depends_on_the_rows_own_or_a_later_label(history: str, passes: int, spark: SparkSession) -> None:
    dataset, count, changed = _toys(history=history, passes=passes), 4_000, 1_540
    rows = _rows(spark, count)
    label = F.when(F.col("time") == changed, 1 - F.col("label")).otherwise(F.col("label"))
    labels, before = _vectors(rows, dataset, training=count)
    labels_after, after = _vectors(rows.withColumn("label", label), dataset, training=count)
    assert list(np.flatnonzero(labels != labels_after)) == [changed]
    differs = (before != after).any(axis=1)
    assert not differs[changed]
    if history == "earlier":
        next_part = 1_600
        assert not differs[:next_part].any()
        assert differs[next_part:].all()  # all of them depend at least on the click rate
    else:
        assert differs.mean() > 0.7


def test_rows_after_training_are_encoded_from_the_rows_before_them(spark: SparkSession) -> None:
    """Validation rows from the training rows, test rows from both, as serving does after a model of these rows."""
    dataset = _toys(passes=1)
    at, user = (COLUMNS[column] for column in (("at", "number"), ("user", "rate")))
    users = {int(row.at): row.user for row in _rows(spark).select("at", "user").collect()}
    with _encoded(_rows(spark), dataset, training=12_000, before_test=15_000) as encoded:
        features = encoded.rows.filter("test").select(spark_ml_io.vector_to_array("features").alias("v")).collect()
        table = encoded.judged["user"]
        assert (encoded.rows_train, encoded.rows_validation, encoded.rows_test) == (12_000, 3_000, 5_000)
        assert not np.array_equal(encoded.served["user"].values, table.values)
    pairs = dict(zip(table.levels, table.values.tolist(), strict=True))
    assert len(features) == 5_000
    assert [row.v[user : user + 2] for row in features] == [pairs[users[int(row.v[at])]] for row in features]


@pytest.mark.parametrize("history", spec.HISTORIES)
def test_judged_model_knows_nothing_of_test_rows_that_the_served_model_learns_from(
    history: str, spark: SparkSession
) -> None:
    """Turning the labels of the test rows changes the served tables only."""
    dataset = _toys(history=history, passes=1)
    rates = []
    for label in (F.col("label"), 1 - F.col("label")):
        rows = _rows(spark).withColumn("label", F.when(F.col("time") >= 15_000, label).otherwise(F.col("label")))
        with _encoded(rows, dataset, training=12_000, before_test=15_000) as encoded:
            vectors = encoded.rows.filter("not test").select(spark_ml_io.vector_to_array("features").alias("v"))
            rates.append(
                (
                    sorted(row.v for row in vectors.collect()),
                    [table.values.tolist() for table in encoded.judged.values()],
                    [table.values.tolist() for table in encoded.served.values()],
                )
            )
    (rows_before, judged_before, served_before), (rows_after, judged_after, served_after) = rates
    assert rows_before == rows_after
    assert judged_before == judged_after
    assert served_before != served_after


def test_levels_are_trimmed_banded_and_combined(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [(" u ", 20, "", ["a", " b "]), (None, None, "i", []), ("u", 41, "i", None), ("u", 19, "i", [""])],
        "user string, age int, item string, tags array<string>",
    ).select("*", F.lit(1).alias("at"), F.lit("n").alias("noise"))
    columns = map(categories.levels_column, TOYS.encodings)
    collected = categories.level_transformer(TOYS).transform(rows).select(*columns).collect()
    missing, between = categories.MISSING_LEVEL, categories.BETWEEN

    def levels(name: str) -> list[list[str]]:
        return [row[categories.levels_column(name)] for row in collected]

    assert levels("user") == [["u"], [missing], ["u"], ["u"]]
    assert levels("tags") == [["a", "b"], [missing], [missing], [missing]]
    assert levels("user__tags")[0] == [f"u{between}a", f"u{between}b"]
    assert levels("age__item") == [
        [f"1{between}{missing}"],
        [f"{missing}{between}i"],
        [f"2{between}i"],
        [f"0{between}i"],
    ]


def _shuffles_and_joins(dataset: Spec, spark: SparkSession) -> tuple[int, str]:
    label = (F.col("id") % 2).cast("double")
    rows = spark.range(1_000).select(F.col("id").alias("time"), label.alias("label"), label.alias("outcome"), "id")
    for name, feature in dataset.features.items():
        value = F.col("id") % 10
        strings = F.array(value.cast("string"), F.lit("x"))
        rows = rows.withColumn(name, strings if feature.type == "strings" else value.cast(_SQL_TYPES[feature.type]))
    whole = split.by_time(rows, {"time_percentiles": [10.0 * p for p in range(101)]}, dataset)
    with encode_split.encode_learning_rows(whole, dataset) as encoded:
        return _plan(encoded.counts).count("Exchange hashpartitioning"), _plan(encoded.rows)


def test_counting_takes_one_shuffle_for_any_number_of_columns(spark: SparkSession) -> None:
    dataset = in_few_parts("criteo")
    shuffles, joins = _shuffles_and_joins(dataset, spark)
    assert shuffles == 1
    # One lookup table, broadcast once and joined once for every encoding.
    joins = joins.partition("InMemoryTableScan")[0]
    assert joins.count("BroadcastHashJoin") == len(dataset.encodings) == 26
    assert "SortMergeJoin" not in joins
    assert "Exchange hashpartitioning" not in joins
    # Separates the levels from the joins: in one generated method both are too long for Java's compilers.
    assert "Coalesce" in joins


def test_crosses_take_no_further_shuffle(spark: SparkSession) -> None:
    dataset = in_few_parts("movielens")
    without = dataclasses.replace(dataset, crosses=())
    assert _shuffles_and_joins(dataset, spark)[0] == _shuffles_and_joins(without, spark)[0]


def test_counts_do_not_depend_on_whether_another_column_holds_lists(spark: SparkSession) -> None:
    with_lists, crosses = _toys(), (("age", "item"),)
    features = {name: feature for name, feature in with_lists.features.items() if name != "tags"}
    single = dataclasses.replace(with_lists, features=features, crosses=crosses)
    counts: list[set[Any]] = []
    for dataset in (with_lists, single):
        names = list(dataset.encodings)
        with _encoded(_rows(spark), dataset) as encoded:
            counted = [(names[row.encoding], row.level, *row.rows, *row.residuals) for row in encoded.counts.collect()]
        counts.append({row for row in counted if row[0] in single.encodings})
    assert counts[0] == counts[1]
    assert len(counts[1]) > 3_000


_SQL_TYPES = {"integer": "bigint", "number": "double", "string": "string"}


def test_above_max_levels_only_the_most_frequent_levels_are_kept(spark: SparkSession) -> None:
    rows, bound = _rows(spark), 400
    with _encoded(rows, _toys(max_levels=bound)) as encoded:
        kept = {(i, level) for i, table in enumerate(encoded.judged.values()) for level in table.levels}
        present = [level for _, level in kept if level != categories.MISSING_LEVEL]
        counts = {(row.encoding, row.level): row.rows[-1] for row in encoded.counts.collect()}
    assert bound / 2 < len(present) <= bound < len(counts)
    least_kept = min(counts[level] for level in kept if level in counts)
    assert least_kept >= max(count for level, count in counts.items() if level not in kept)


def test_rare_and_unseen_levels_have_the_base_rate(shop: Trained) -> None:
    reader = Reader(shop.artefact)
    assert reader.pair("occupation", "job3")[1] > 0
    assert (reader.pair("occupation", "job9") == 0).all()
    assert (reader.pair("user_id__genres", "nobody", ["War"]) == 0).all()
    for levels in reader.levels.values():
        assert "\0" in levels
        counts = np.expm1([float(pair[1]) for pair in levels.values()])
        assert all(count == 0 or round(count) >= shop.dataset.encoder.min_count for count in counts)


def test_encoder_arrays_and_spark_stages_agree_exactly(shop: Trained, spark: SparkSession) -> None:
    reader = Reader(shop.artefact)
    random = np.random.default_rng(3)
    users, items = [*reader.levels["user_id"], "nobody", " u7 ", "  ", None], [*reader.levels["item_id"], ""]
    genres = [*GENRES, "Opera", " War ", "", None]
    rows: list[dict[str, Any]] = []
    for _ in range(300):
        chosen = random.choice(len(genres), random.integers(0, 5))
        rows.append(
            {
                "user_id": users[random.integers(len(users))],
                "item_id": items[random.integers(len(items))],
                "genres": [genres[i] for i in chosen] if random.random() < 0.9 else None,
                "age": int(random.integers(5, 80)) if random.random() < 0.9 else None,
                "year": int(random.integers(1920, 2001)) if random.random() < 0.9 else None,
                "gender": ["F", "M", None][random.integers(3)],
                "occupation": None,
                "hour": None,
                "weekday": None,
            }
        )
    frame = spark.createDataFrame(
        [tuple(row.values()) for row in rows],
        "user_id string, item_id string, genres array<string>, age bigint, year bigint, gender string, "
        "occupation string, hour bigint, weekday bigint",
    )
    names = list(reader.parts)
    encoded = PipelineModel.load(str(shop.artefact / "pipeline")).transform(frame)
    vectors = encoded.select(*(spark_ml_io.vector_to_array(encode.encoded_column(n)).alias(n) for n in names)).collect()
    for row, vector in zip(rows, vectors, strict=True):
        for name in names:
            values = [row[feature] for feature in reader.parts[name]]
            assert reader.pair(name, *values).tolist() == vector[name], f"{name}={values!r}"
