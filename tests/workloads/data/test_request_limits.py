"""Rows that the scoring service would refuse are left out of the training data."""

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest
from pyspark.sql import Row, SparkSession

from cli import catalogue
from scoring.contract import read_contract
from scoring.http.parsing import RequestParser
from scoring.settings import Limits
from testing.workloads.shop import write_shop
from workloads import artefact, spec
from workloads.data.rejected_lines import REJECTED
from workloads.errors import WorkloadError
from workloads.evaluation import golden
from workloads.tasks.prepare import prepare

pytest_plugins = ["testing.workloads.spark"]

WORDS = '  words: {type: strings, side: item, column: movie_title, separator: " "}\n'


def with_words(cross: str = "") -> spec.Spec:
    text = spec.text("movielens").replace("  genres:", f"{WORDS}  genres:")
    return spec.parse(text.replace("  - [genres, gender]", f"  - [genres, gender]{cross}"), "movielens.yaml")


def with_item(raw: Path, index: int, title: str, genres: str) -> Path:
    file = raw / "ml-100k.item"
    lines = file.read_text("utf-8").splitlines()
    lines[index] = "\t".join([lines[index].split("\t")[0], title, "1990", genres])
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return raw


def test_limits_equal_those_of_the_scoring_service() -> None:
    assert (Limits.string, Limits.strings) == (spec.MAX_STRING, spec.MAX_STRINGS)


@pytest.mark.spark
@pytest.mark.parametrize(
    ("title", "genres", "reason"),
    [
        ("t", " ".join(f"g{i}" for i in range(101)), "genres has 101 values, a request may send at most 100"),
        ("t", "g" * 1_001, "genres has more than 1000 characters, the most that a request may send"),
    ],
)
def test_line_beyond_the_limits_of_a_request_is_left_out(
    spark: SparkSession, tmp_path: Path, title: str, genres: str, reason: str
) -> None:
    dataset = dataclasses.replace(spec.load("movielens"), limits=spec.Limits(orphan_share=0.1))
    raw = with_item(write_shop(tmp_path / "raw", 500), 7, title, genres)
    prepared = prepare(spark, dataset, raw, tmp_path / "features")
    assert prepared["tables"]["items"]["rejected"] == 1
    line = json.loads((tmp_path / "features" / REJECTED / "lines.jsonl").read_text())
    assert (line["file"], line["reason"], line["line"][:3]) == ("ml-100k.item", reason, "i6\t")
    # The catalogue that rankings send does not contain the item either.
    assert "i6" not in catalogue.side(dataset, "item", raw)
    assert "i7" in catalogue.side(dataset, "item", raw)


@pytest.mark.spark
def test_values_at_the_limits_are_kept(spark: SparkSession, tmp_path: Path) -> None:
    genres = " ".join(["g" * 1_000, *(f"g{i}" for i in range(99))])
    raw = with_item(write_shop(tmp_path / "raw", 500), 7, "t", genres)
    assert prepare(spark, spec.load("movielens"), raw, tmp_path / "features")["tables"]["items"]["rejected"] == 0


@pytest.mark.spark
def test_rows_with_too_many_combinations_in_a_cross_are_left_out_or_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    eleven = " ".join(f"g{i}" for i in range(11))
    raw = with_item(write_shop(tmp_path / "raw", 500), 7, eleven, eleven)
    affected = sum(line.split("\t")[1] == "i6" for line in (raw / "ml-100k.inter").read_text().splitlines())
    crossed = with_words("\n  - [genres, words]")
    with pytest.raises(WorkloadError, match=f"{affected} of 500 interactions join lists .* more than 100 combin"):
        prepare(spark, dataclasses.replace(crossed, limits=spec.Limits(0.0, 0.1)), raw, tmp_path / "features")
    lenient = dataclasses.replace(crossed, limits=spec.Limits(0.1, 0.1))
    prepared = prepare(spark, lenient, raw, tmp_path / "features")
    assert prepared["rows"] == 500 - affected == prepared["tables"]["interactions"]["rows"]
    assert prepared["tables"]["interactions"]["rejected"] == affected > 0
    assert prepare(spark, with_words(), raw, tmp_path / "features")["rows"] == 500


@pytest.mark.spark
def test_service_accepts_every_golden_row(spark: SparkSession) -> None:
    """Includes lists of maximal length, rows without values, and rows that lose their only value when altered."""
    features = {
        "words": spec.Feature("strings", "item", separator=" "),
        "shelf": spec.Feature("string", "item"),
    }
    dataset = dataclasses.replace(spec.load("criteo"), features=features, crosses=(), slices=())
    values = [Row(time=i, words=[f"w{i}_{j}" for j in range(100)], shelf=None) for i in range(150)]
    test = spark.createDataFrame(
        [*values, *(Row(time=200 + i, words=None, shelf=None) for i in range(20))],
        "time long, words array<string>, shelf string",
    )
    parser = RequestParser(read_contract(json.dumps(artefact.contract(dataset)).encode()), Limits())
    accepted = [parser.parse(msgspec.json.encode({"rows": [row]})).rows for row in golden.rows(test, dataset)]
    assert len(accepted) == golden.ROWS
    assert any("never seen" in str(row) for row in accepted)
