"""Raw files become one typed table, and every line that was not understood is counted, named or refused."""

import json
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from workloads_shop import Trained, write_shop

from workloads import spec, synthesize
from workloads.errors import WorkloadError
from workloads.prepare import PREPARED, prepare

# Imported, a session fixture would be made once for every module.
pytest_plugins = ["workloads_fixtures"]
pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def criteo_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize.synthesize(tmp_path_factory.mktemp("rows"), 2_000).parent


def test_users_and_items_are_joined_to_every_interaction(shop: Trained, spark: SparkSession) -> None:
    rows = spark.read.parquet(str(shop.features))
    prepared = json.loads((shop.features / PREPARED).read_text("utf-8"))
    assert rows.count() == prepared["rows"] == 6_000
    assert prepared["tables"]["users"]["rows"] == 200
    first = rows.orderBy("time").first()
    assert first is not None
    given = (shop.raw / "ml-100k.inter").read_text("utf-8").splitlines()[1].split("\t")
    assert [first.user_id, first.item_id, first.label] == [given[0], given[1], float(float(given[2]) >= 4)]
    film = next(
        line.split("\t")
        for line in (shop.raw / "ml-100k.item").read_text("utf-8").splitlines()
        if line.startswith(f"{first.item_id}\t")
    )
    assert (first.year, first.genres) == (int(film[2]), film[3].split())


def test_an_interaction_of_an_unknown_item_is_kept_and_counted(shop: Trained, spark: SparkSession) -> None:
    orphans = spark.read.parquet(str(shop.features)).filter(F.col("item_id") == "i119")
    count = json.loads((shop.features / PREPARED).read_text("utf-8"))["orphans"]
    assert 0 < count == orphans.count()
    assert orphans.filter("year IS NOT NULL OR genres IS NOT NULL").isEmpty()


def test_too_many_interactions_of_unknown_items_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    raw = write_shop(tmp_path / "raw", 500)
    items = (raw / "ml-100k.item").read_text("utf-8").splitlines()
    (raw / "ml-100k.item").write_text("\n".join(items[:60]) + "\n", "utf-8")
    with pytest.raises(WorkloadError, match=r"in no table, more than limits.orphan_share"):
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_a_repeated_user_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    raw = write_shop(tmp_path / "raw", 500)
    with (raw / "ml-100k.user").open("a") as users:
        users.write("u5\t30\tF\tjob1\t10005\n")
    with pytest.raises(WorkloadError, match=r"ml-100k.user: 1 lines repeat a user_id"):
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")


def test_rows_without_a_time_keep_the_order_of_the_file(
    spark: SparkSession,
    criteo_raw: Path,
    tmp_path: Path,
) -> None:
    prepared = prepare(spark, spec.load("criteo"), criteo_raw, tmp_path / "features")
    rows = spark.read.parquet(str(tmp_path / "features")).orderBy("time").select("time", "label", "C3", "day").collect()
    lines = [line.split("\t") for line in (criteo_raw / synthesize.FILE).read_text("utf-8").splitlines()]
    assert [(row.time, row.label, row.C3 or "") for row in rows] == [
        (i, float(line[0]), line[16]) for i, line in enumerate(lines)
    ]
    assert [row.day for row in rows] == [i * 7 // 2_000 for i in range(2_000)]
    assert prepared["synthetic"]["rows"] == 2_000


def test_the_digest_is_of_the_rows_not_of_their_order(spark: SparkSession, tmp_path: Path) -> None:
    dataset = spec.load("movielens")
    raw, features = write_shop(tmp_path / "raw", 500), tmp_path / "features"
    digest = prepare(spark, dataset, raw, features)["digest"]
    header, *lines = (raw / "ml-100k.inter").read_text("utf-8").splitlines(keepends=True)
    (raw / "ml-100k.inter").write_text("".join([header, *reversed(lines)]), "utf-8")
    assert prepare(spark, dataset, raw, features)["digest"] == digest
    (raw / "ml-100k.inter").write_text("".join([header, *lines[1:]]), "utf-8")
    assert prepare(spark, dataset, raw, features)["digest"] != digest


def _with_lines(raw: Path, folder: Path, *more: str) -> Path:
    folder.mkdir()
    text = (raw / synthesize.FILE).read_text("utf-8")
    (folder / "train.txt").write_text(text + "".join(f"{line}\n" for line in more), "utf-8")
    return folder


def test_few_malformed_lines_are_counted_and_named(
    spark: SparkSession,
    criteo_raw: Path,
    tmp_path: Path,
) -> None:
    raw = _with_lines(criteo_raw, tmp_path / "raw", "1\tthis line is short")
    table = prepare(spark, spec.load("criteo"), raw, tmp_path / "features")["tables"]["interactions"]
    assert (table["rows"], table["rejected"]) == (2_000, 1)
    assert table["rejected_examples"] == ["1\tthis line is short"]


def test_every_kind_of_malformed_line_is_seen_and_too_many_are_refused(
    spark: SparkSession,
    criteo_raw: Path,
    tmp_path: Path,
) -> None:
    good = (criteo_raw / synthesize.FILE).read_text("utf-8").splitlines()[0].split("\t")
    faults = {
        "one column too few": good[:-1],
        "one too many": [*good, "x"],
        "label 2": ["2", *good[1:]],
        "no label": ["", *good[1:]],
        "no number": ["0", "many", *good[2:]],
        "a fraction": ["0", "1.5", *good[2:]],
        "beyond 64 bits": ["0", "9" * 20, *good[2:]],
    }
    raw = _with_lines(criteo_raw, tmp_path / "raw", *("\t".join(fields) for fields in faults.values()))
    with pytest.raises(WorkloadError) as fault:
        prepare(spark, spec.load("criteo"), raw, tmp_path / "features")
    said = str(fault.value)
    assert f"train.txt: {len(faults)} of {2_000 + len(faults)} lines were not understood" in said
    assert "limits.malformed_share 0.10%" in said
    assert repr("\t".join(good[:-1]))[:60] in said
    assert not (tmp_path / "features").exists()


def test_a_missing_file_is_named_with_its_path(spark: SparkSession, tmp_path: Path) -> None:
    raw = write_shop(tmp_path / "raw", 10)
    (raw / "ml-100k.item").unlink()
    with pytest.raises(WorkloadError, match=f"items: no file {raw}/ml-100k.item"):
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")
    with pytest.raises(WorkloadError, match=f"no folder {tmp_path}/nowhere"):
        prepare(spark, spec.load("movielens"), tmp_path / "nowhere", tmp_path / "features")


def test_a_missing_column_is_named_with_those_there_are(spark: SparkSession, tmp_path: Path) -> None:
    raw = write_shop(tmp_path / "raw", 10)
    items = (raw / "ml-100k.item").read_text("utf-8")
    (raw / "ml-100k.item").write_text(items.replace("release_year", "year"), "utf-8")
    with pytest.raises(WorkloadError, match="no column 'release_year'; there are: item_id, movie_title, year, class"):
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")


def test_two_files_that_could_both_be_the_table_are_refused(
    spark: SparkSession,
    criteo_raw: Path,
    tmp_path: Path,
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("a.tsv", "b.tsv"):
        shutil.copy(criteo_raw / synthesize.FILE, raw / name)
    with pytest.raises(WorkloadError, match=r"holds a.tsv, b.tsv: leave one"):
        prepare(spark, spec.load("criteo"), raw, tmp_path / "features")


def test_the_shop_of_the_docs_is_prepared_as_its_spec_says(spark: SparkSession, tmp_path: Path) -> None:
    raw = Path(__file__).parent.parent / "docs" / "own-dataset"
    dataset = spec.parse((raw / "bookshop.yaml").read_text("utf-8"), "bookshop.yaml")
    prepared = prepare(spark, dataset, raw, tmp_path / "features")
    assert (prepared["rows"], prepared["clicks"], prepared["orphans"]) == (12, 6, 0)
    assert all(table["rejected"] == 0 for table in prepared["tables"].values())
    first = spark.read.parquet(str(tmp_path / "features")).orderBy("time").first()
    assert first is not None
    assert (first.country, first.price, first.kinds, first.device) == ("NO", 9.5, ["books", "children"], "phone")
