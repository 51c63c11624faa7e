"""A shop with unusual names and damaged files: prepared correctly or refused; the catalogue has the same rows."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from cli import catalogue
from workloads import spec
from workloads.data.rejected_lines import REJECTED
from workloads.errors import WorkloadError
from workloads.tasks.prepare import PREPARED, prepare

# A session fixture that is imported would be set up once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark

SHOP = spec.parse(
    """
name: odd
title: Our shop
terms: none
interactions: {files: [views.tsv, views.tsv.gz]}
users: {files: ["customers[1].tsv"], key: "customer`s.id"}
items: {files: [products.tsv], key: __key}
label: {column: event.clicked}
time: {column: "shown at"}
features:
  customer: {type: string, side: user, column: "customer`s.id"}
  zip: {type: string, side: user}
  malformed: {type: integer, side: user, column: zip}
  key: {type: number, side: user, column: zip}
  product: {type: string, side: item, column: __key}
  position: {type: number, side: item, column: item.price}
  kinds: {type: strings, side: item, column: "kinds (all), in `words`", separator: "|"}
  device: {type: string, side: context, column: __no_users}
  device_number: {type: integer, side: context, column: __no_users}
  clicks: {type: integer, side: context, column: "${clicks}\\\\"}
user_id: customer
item_id: product
limits: {malformed_share: 0.3}
encoder: {parts: 2}
model: {num_iterations: 2, num_leaves: 3, learning_rate: 0.1}
""",
    "odd.yaml",
)
NAMES = {
    "customers[1].tsv": ["customer`s.id", "zip", "Zip code"],
    "products.tsv": ["__key", "item.price", "kinds (all), in `words`", "movie_title"],
    "views.tsv": ["customer`s.id", "__key", "event.clicked", "shown at", "__no_users", "${clicks}\\"],
}
LINES: dict[str, list[list[Any]]] = {
    "customers[1].tsv": [["01", "00110", "x"], ["1", "7", ""], ["ö", "", "y"]],
    "products.tsv": [["p.1", "9.5", "a|b||", "Été"], ["p2", "", "|", "Two\u2028"], ["p3", "1", "", ""]],
    "views.tsv": [
        [customer, product, click, 1_767_600_000 + click, f"0{click}", click + 5]
        for customer, product, click in (("01", "p.1", 1), ("1", "p2", 0), ("ö", "p3", 1))
    ],
}


def write(folder: Path, file: str, *more: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, fields)).encode() + b"\n" for fields in (NAMES[file], *LINES[file])]
    (folder / file).write_bytes(b"".join([*lines, *more]))
    return folder / file


def write_shop(folder: Path) -> Path:
    for file in NAMES:
        write(folder, file)
    return folder


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders of files and table. Their names are also patterns, which match the folders next to them."""
    folder = tmp_path_factory.mktemp("odd")
    raw, features = write_shop(folder / "raw[1]"), folder / "features[1]"
    shutil.copytree(raw, folder / "raw1")
    (folder / "raw1" / "views.tsv").write_text("\t".join(NAMES["views.tsv"]) + "\n")
    prepare(spark, SHOP, raw, features)
    return raw, features


def test_features_have_the_right_type_for_any_column_name(spark: SparkSession, prepared: tuple[Path, Path]) -> None:
    features = str(prepared[1]).replace("[", "\\[")
    rows = {row.customer: row.asDict() for row in spark.read.parquet(features).collect()}
    assert rows["01"] == {
        **{"customer": "01", "zip": "00110", "malformed": 110, "key": 110.0},
        **{"product": "p.1", "position": 9.5, "kinds": ["a", "b"]},
        **{"device": "01", "device_number": 1, "clicks": 6},
        **{"time": 1_767_600_001, "label": 1.0, "day": rows["1"]["day"]},
    }
    assert [rows["ö"][name] for name in ("zip", "malformed", "kinds", "label")] == [None, None, None, 1.0]
    assert json.loads((prepared[1] / PREPARED).read_text("utf-8"))["tables"]["users"]["unused_columns"] == ["Zip code"]


def test_catalogue_holds_the_rows_that_training_joined(spark: SparkSession, prepared: tuple[Path, Path]) -> None:
    raw, features = prepared
    users, items = catalogue.side(SHOP, "user", raw), catalogue.side(SHOP, "item", raw)
    assert (list(users), list(items)) == (["01", "1", "ö"], ["p.1", "p2", "p3"])
    for row in spark.read.parquet(str(features).replace("[", "\\[")).collect():
        for features_of_side in (users[row.customer], items[row.product]):
            assert features_of_side == {name: row[name] for name in features_of_side}
    assert catalogue.titles(SHOP, raw) == {"p.1": "Été", "p2": "Two\u2028", "p3": ""}


@pytest.fixture
def small_chunks(spark: SparkSession) -> Iterator[None]:
    """Splits even small files into several partitions."""
    names = {"spark.sql.files.maxPartitionBytes": "40", "spark.sql.files.openCostInBytes": "1"}
    before = {name: spark.conf.get(name) for name in names}
    for name, value in names.items():
        spark.conf.set(name, value)
    yield
    for name, value in before.items():
        spark.conf.set(name, value or "")


@pytest.mark.usefixtures("small_chunks")
def test_line_that_is_not_utf8_is_left_out_and_its_position_named(spark: SparkSession, tmp_path: Path) -> None:
    raw, features = write_shop(tmp_path / "raw"), tmp_path / "features"
    write(raw, "customers[1].tsv", b"\n", "Malmö\t1\tx\n".encode("latin-1"))
    write(raw, "products.tsv", b"p4\t2\ta\t\xe9\n")
    assert prepare(spark, SHOP, raw, features)["tables"]["users"]["rejected"] == 1
    assert [json.loads(line) for line in (features / REJECTED / "lines.jsonl").read_text("utf-8").splitlines()] == [
        {"file": "customers[1].tsv", "number": 6, "reason": "not UTF-8", "byte": 5, "line": "Malm\\xf6\t1\tx"},
        {"file": "products.tsv", "number": 5, "reason": "not UTF-8", "byte": 8, "line": "p4\t2\ta\t\\xe9"},
    ]
    assert list(catalogue.side(SHOP, "user", raw)) == ["01", "1", "ö"]
    assert list(catalogue.titles(SHOP, raw)) == ["p.1", "p2", "p3"]

    write(raw, "customers[1].tsv", *["Malmö\t1\tx\n".encode("latin-1")] * 2)
    with pytest.raises(WorkloadError, match=r"2 of 5 lines .*(?s:.*)2 x not UTF-8, first in line 5, byte 5: 'Malm"):
        prepare(spark, SHOP, raw, features)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda packed: packed[:-100], "the gzip archive is cut short"),
        (lambda packed: packed + b"garbage", "something that is not gzip follows the gzip archive"),
    ],
)
def test_damaged_archive_is_named_with_its_cause_in_one_line(
    spark: SparkSession, tmp_path: Path, damage: Any, cause: str
) -> None:
    raw = write_shop(tmp_path / "raw")
    (raw / "views.tsv").rename(raw / "views")
    views = (raw / "views").read_bytes() + b"01\tp.1\t1\t1767600000\t01\t5\n" * 20_000
    (raw / "views.tsv.gz").write_bytes(damage(gzip.compress(views)))
    with pytest.raises(WorkloadError, match=rf"^{re.escape(str(raw))}/views.tsv.gz: {cause}[^\n]*$"):
        prepare(spark, SHOP, raw, tmp_path / "features")
    assert not (tmp_path / "features").exists()
