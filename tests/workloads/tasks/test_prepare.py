"""Preparation: raw files become one typed table; malformed lines are counted and sampled, too many are refused."""

import dataclasses
import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from testing.workloads.shop import Trained, write_shop
from workloads import spec
from workloads.data import synthesize
from workloads.data.rejected_lines import REJECTED
from workloads.errors import WorkloadError
from workloads.spec import Time
from workloads.tasks.prepare import PREPARED, prepare

# A session fixture that is imported would be set up once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark


def _column(file: Path, index: int) -> list[str]:
    return [line.split("\t")[index] for line in file.read_text("utf-8").splitlines()[1:]]


def _rejected(features: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (features / REJECTED / "lines.jsonl").read_text("utf-8").splitlines()]


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
    line = (shop.raw / "ml-100k.inter").read_text("utf-8").splitlines()[1].split("\t")
    assert [first.user_id, first.item_id, first.label] == [line[0], line[1], float(float(line[2]) >= 4)]
    film = next(
        line.split("\t")
        for line in (shop.raw / "ml-100k.item").read_text("utf-8").splitlines()
        if line.startswith(f"{first.item_id}\t")
    )
    assert (first.year, first.genres) == (int(film[2]), film[3].split())


def test_hour_and_weekday_are_computed_from_the_time_in_utc(shop: Trained, spark: SparkSession) -> None:
    rows = spark.read.parquet(str(shop.features)).select("time", "hour", "weekday").collect()
    moments = [datetime.fromtimestamp(row.time, UTC) for row in rows]
    assert [(row.hour, row.weekday) for row in rows] == [(moment.hour, moment.isoweekday()) for moment in moments]
    assert {row.weekday for row in rows} == set(range(1, 8))


def test_interaction_with_an_unknown_item_is_kept_and_counted(shop: Trained, spark: SparkSession) -> None:
    orphans = spark.read.parquet(str(shop.features)).filter(F.col("item_id") == "i119")
    count = json.loads((shop.features / PREPARED).read_text("utf-8"))["orphans"]
    assert 0 < count == orphans.count()
    assert orphans.filter("year IS NOT NULL OR genres IS NOT NULL").isEmpty()


def test_too_many_interactions_with_unknown_items_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    raw = write_shop(tmp_path / "raw", 500)
    items = (raw / "ml-100k.item").read_text("utf-8").splitlines()
    (raw / "ml-100k.item").write_text("\n".join(items[:60]) + "\n", "utf-8")
    with pytest.raises(WorkloadError) as fault:
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")
    unknown = sum(int(item[1:]) >= 59 for item in _column(raw / "ml-100k.inter", 1))
    assert f"{unknown} of 500 interactions ({unknown / 500:.2%}) refer to a user or item" in str(fault.value)
    assert "limits.orphan_share 1.00%" in str(fault.value)
    assert f"0 to users by user_id, {unknown} to items by item_id" in str(fault.value)
    assert not (tmp_path / "features").exists()


def test_duplicate_user_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    raw = write_shop(tmp_path / "raw", 500)
    with (raw / "ml-100k.user").open("a") as users:
        users.write("u5\t30\tF\tjob1\t10005\n")
    with pytest.raises(WorkloadError, match=r"ml-100k.user: 1 lines repeat a user_id .* such as 'u5'"):
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")


def test_rows_without_a_time_column_keep_the_order_of_the_file(
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


def test_digest_depends_on_the_rows_and_not_on_their_order(spark: SparkSession, tmp_path: Path) -> None:
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


def test_few_malformed_lines_are_counted_and_kept_in_a_separate_table(
    spark: SparkSession,
    criteo_raw: Path,
    tmp_path: Path,
) -> None:
    raw, features = _with_lines(criteo_raw, tmp_path / "raw", "1\tthis line is short"), tmp_path / "features"
    table = prepare(spark, spec.load("criteo"), raw, features)["tables"]["interactions"]
    assert (table["rows"], table["rejected"]) == (2_000, 1)
    assert [row.asDict() for row in spark.read.json(str(features / REJECTED)).collect()] == [
        {"file": "train.txt", "number": 2_001, "reason": "2 columns, not 40", "line": "1\tthis line is short"}
    ]
    assert spark.read.parquet(str(features)).count() == 2_000


def test_malformed_lines_are_kept_with_their_reason_and_too_many_are_refused(
    spark: SparkSession,
    criteo_raw: Path,
    tmp_path: Path,
) -> None:
    good = (criteo_raw / synthesize.FILE).read_text("utf-8").splitlines()[0].split("\t")
    faults = [
        ("39 columns, not 40", good[:-1]),
        ("41 columns, not 40", [*good, "x"]),
        ("label is neither 0 nor 1", ["2", *good[1:]]),
        ("label is missing", ["", *good[1:]]),
        ("I1 is not an integer", ["0", "many", *good[2:]]),
        ("I2 is not an integer", ["0", "1", "1.5", *good[3:]]),
        ("I1 is not an integer", ["0", "9" * 20, *good[2:]]),
    ]
    raw = _with_lines(criteo_raw, tmp_path / "raw", *("\t".join(fields) for _, fields in faults))
    with pytest.raises(WorkloadError) as fault:
        prepare(spark, spec.load("criteo"), raw, tmp_path / "features")
    message = str(fault.value)
    assert f"train.txt: {len(faults)} of {2_000 + len(faults)} lines (0.35%) are malformed" in message
    assert f"limits.malformed_share 0.10%. The first 7 are in {tmp_path / 'features' / REJECTED}" in message
    assert "2 x I1 is not an integer, first in line 2005: '0\\tmany" in message
    assert _rejected(tmp_path / "features") == [
        {"file": "train.txt", "number": number, "reason": reason, "line": "\t".join(fields)}
        for number, (reason, fields) in enumerate(faults, 2_001)
    ]


def test_sample_of_malformed_lines_is_bounded(spark: SparkSession, criteo_raw: Path, tmp_path: Path) -> None:
    raw = _with_lines(criteo_raw, tmp_path / "raw", *(f"{'x' * 3_000}{i}" for i in range(1_100)))
    with pytest.raises(WorkloadError, match=r"1100 of 3100 lines .* The first 1000 are in"):
        prepare(spark, spec.load("criteo"), raw, tmp_path / "features")
    assert [len(row["line"]) for row in _rejected(tmp_path / "features")] == [2_000] * 1_000


def test_time_out_of_range_makes_the_line_malformed(spark: SparkSession, tmp_path: Path) -> None:
    raw, features = write_shop(tmp_path / "raw", 1_000), tmp_path / "features"
    faults = {
        "880000000000": "timestamp looks like milliseconds; expected Unix seconds",
        "880000000000000": "timestamp looks like microseconds; expected Unix seconds",
        "880000000000000000": "timestamp looks like nanoseconds; expected Unix seconds",
        "-1": "timestamp is not between 1990-01-01 and 2099-12-31",
        "NaN": "timestamp is not a finite number",
        "": "timestamp is missing",
        "1997-11-20": "timestamp is not a number",
    }
    with (raw / "ml-100k.inter").open("a") as lines:
        lines.writelines(f"u1\ti1\t5\t{moment}\n" for moment in faults)
    prepared = prepare(spark, spec.load("movielens"), raw, features)
    assert (prepared["rows"], prepared["tables"]["interactions"]["rejected"]) == (1_000, 7)
    reasons = {row["line"].split("\t")[3]: row["reason"] for row in _rejected(features)}
    assert reasons == faults


def test_label_outside_its_scale_makes_the_line_malformed(spark: SparkSession, tmp_path: Path) -> None:
    raw, features = write_shop(tmp_path / "raw", 1_000), tmp_path / "features"
    with (raw / "ml-100k.inter").open("a") as lines:
        lines.writelines(f"u1\ti1\t{stars}\t880000000\n" for stars in ("0.5", "1", "5", "6"))
    prepared = prepare(spark, spec.load("movielens"), raw, features)
    assert (prepared["rows"], prepared["tables"]["interactions"]["rejected"]) == (1_002, 2)
    assert {row["reason"] for row in _rejected(features)} == {"rating is not between 1 and 5"}
    outcomes = spark.read.parquet(str(features)).select("label", "outcome").distinct().collect()
    assert {(row.label, row.outcome) for row in outcomes} <= {(0, 0), (0, 0.25), (0, 0.5), (1, 0.75), (1, 1)}


def test_file_with_times_in_milliseconds_is_refused_and_the_unit_named(spark: SparkSession, tmp_path: Path) -> None:
    raw = write_shop(tmp_path / "raw", 500)
    header, *lines = (raw / "ml-100k.inter").read_text("utf-8").splitlines()
    (raw / "ml-100k.inter").write_text("\n".join([header, *(f"{line}000" for line in lines)]) + "\n", "utf-8")
    with pytest.raises(WorkloadError, match="500 x timestamp looks like milliseconds; expected Unix seconds, first in"):
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")


def test_spec_sets_the_allowed_days_of_a_time(spark: SparkSession, tmp_path: Path) -> None:
    raw, features = write_shop(tmp_path / "raw", 600), tmp_path / "features"
    days = Time("timestamp", earliest=date(1997, 11, 21), latest=date(1997, 11, 21))
    dataset = dataclasses.replace(spec.load("movielens"), time=days, limits=spec.Limits(malformed_share=1.0))
    assert prepare(spark, dataset, raw, features)["rows"] == 24 * 60 // 5  # one every five minutes
    assert [path.name for path in features.glob("day=*")] == ["day=1997-11-21"]


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_refused_snapshot_leaves_only_rejected_lines_and_no_other_table_changes(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw, features, dataset = write_shop(tmp_path / "raw", 500), tmp_path / "features", spec.load("movielens")
    prepare(spark, dataset, raw, features / "monday")
    first_table = _tree(features / "monday")
    users = (raw / "ml-100k.user").read_text("utf-8")
    (raw / "ml-100k.user").write_text(users + "u900\told\tF\tjob1\t10005\n" * 3, "utf-8")
    with pytest.raises(WorkloadError, match=r"ml-100k.user: 3 of 203 lines"):
        prepare(spark, dataset, raw, features / "tuesday")
    assert _tree(features / "monday") == first_table
    assert list(_tree(features / "tuesday")) == [f"{REJECTED}/lines.jsonl"]
    assert {row["reason"] for row in _rejected(features / "tuesday")} == {"age is not an integer"}

    (raw / "ml-100k.user").write_text(users, "utf-8")
    prepare(spark, dataset, raw, features / "tuesday")
    assert (features / "tuesday" / PREPARED).exists()
    assert not (features / "tuesday" / REJECTED).exists()


def test_path_of_a_missing_file_is_named(spark: SparkSession, tmp_path: Path) -> None:
    raw = write_shop(tmp_path / "raw", 10)
    (raw / "ml-100k.item").unlink()
    with pytest.raises(WorkloadError, match=f"items: no file {raw}/ml-100k.item"):
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")
    with pytest.raises(WorkloadError, match=f"no folder {tmp_path}/nowhere"):
        prepare(spark, spec.load("movielens"), tmp_path / "nowhere", tmp_path / "features")


@pytest.mark.parametrize(
    ("written", "instead", "complaint"),
    [
        (
            "release_year:token",
            "year:token",
            "ml-100k.item: no column 'release_year'; there are: item_id, movie_title, year, class. "
            "Land a file that has it, or name another column in the spec",
        ),
        (
            "release_year:token",
            "release_year:token_seq",
            "ml-100k.item: column 'release_year' has type token_seq in the header, and the spec reads it as integer. "
            "Land it as token or float, or change its type in the spec",
        ),
        ("item_id:token", "item_id:float", "column 'item_id' has type float in the header, and the spec reads it as"),
        ("movie_title:token_seq", "Class:token_seq", "ml-100k.item: column 'Class' exists twice"),
    ],
    ids=["renamed", "list type", "id became a number", "duplicate"],
)
def test_changed_column_is_named_with_the_remedy(
    spark: SparkSession, tmp_path: Path, written: str, instead: str, complaint: str
) -> None:
    raw = write_shop(tmp_path / "raw", 10)
    items = (raw / "ml-100k.item").read_text("utf-8")
    (raw / "ml-100k.item").write_text(items.replace(written, instead), "utf-8")
    with pytest.raises(WorkloadError) as fault:
        prepare(spark, spec.load("movielens"), raw, tmp_path / "features")
    assert complaint in str(fault.value)


def test_missing_column_in_a_file_without_header_is_refused(
    spark: SparkSession, criteo_raw: Path, tmp_path: Path
) -> None:
    lines = (criteo_raw / synthesize.FILE).read_text("utf-8").splitlines()[:50]
    (tmp_path / "train.txt").write_text("".join(line.rpartition("\t")[0] + "\n" for line in lines), "utf-8")
    with pytest.raises(WorkloadError, match=r"(?s)50 of 50 lines \(100.00%\).*50 x 39 columns, not 40"):
        prepare(spark, spec.load("criteo"), tmp_path, tmp_path / "features")


def test_additional_column_is_ignored_and_reported(spark: SparkSession, shop: Trained, tmp_path: Path) -> None:
    raw = shutil.copytree(shop.raw, tmp_path / "raw")
    header, *lines = (raw / "ml-100k.user").read_text("utf-8").splitlines()
    wider = [f"a.b:token\t{header}", *(f"x\t{line}" for line in lines)]
    (raw / "ml-100k.user").write_text("\n".join(wider) + "\n", "utf-8")
    prepared = prepare(spark, shop.dataset, raw, tmp_path / "features")
    assert prepared["tables"]["users"]["unused_columns"] == ["a.b", "zip_code"]
    assert prepared["digest"] == json.loads((shop.features / PREPARED).read_text("utf-8"))["digest"]


def test_two_files_that_match_one_table_are_refused(
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


def test_bookshop_of_the_docs_can_be_prepared(spark: SparkSession, tmp_path: Path) -> None:
    raw = Path(__file__).parents[3] / "docs" / "own-dataset"
    dataset = spec.parse((raw / "bookshop.yaml").read_text("utf-8"), "bookshop.yaml")
    prepared = prepare(spark, dataset, raw, tmp_path / "features")
    assert (prepared["rows"], prepared["clicks"], prepared["orphans"]) == (12, 6, 0)
    assert all(table["rejected"] == 0 for table in prepared["tables"].values())
    first = spark.read.parquet(str(tmp_path / "features")).orderBy("time").first()
    assert first is not None
    assert (first.country, first.price, first.kinds, first.device) == ("NO", 9.5, ["books", "children"], "phone")
    assert first.hour == datetime.fromtimestamp(first.time, UTC).hour
