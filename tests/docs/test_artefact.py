"""docs/reference/artefact.md names every file, key and array of an artefact, and its example reads one."""

import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest

from scoring import artefact as served
from scoring.artefact import Artefact, Golden, Manifest, open_artefact
from scoring.contract import Contract, Cross, Encoder, Feature, ModelColumn
from scoring.engines.encoder import RowEncoder
from scoring.golden import TOLERANCE
from testing.scoring import Row, contract, make_artefact, random_row
from testing.workloads.shop import Trained
from workloads import artefact, spec
from workloads.features.encode import Levels

pytest_plugins = ["testing.workloads.spark"]
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "artefact.md").read_text("utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artefact(tmp_path_factory.mktemp("artefact") / "toys").folder


@pytest.fixture(scope="module")
def example(folder: Path) -> Any:
    """The class `Model` of the page's example, on the artefact."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/reference/artefact.md", "exec"), names)
    return names["Model"](folder)


def _section(title: str) -> str:
    _, _, rest = PAGE.partition(f"\n## {title}\n")
    assert rest, title
    return rest.partition("\n## ")[0]


def _unnamed(names: Iterator[str] | list[str], text: str) -> list[str]:
    return [name for name in names if f"`{name}`" not in text]


def _keys(document: Any) -> Iterator[str]:
    if isinstance(document, list):
        for element in document:
            yield from _keys(element)
    elif isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from _keys(value)


def test_files_that_scoring_needs_are_named() -> None:
    assert _unnamed([*served.REQUIRED, served.MANIFEST, artefact.MANIFEST], _section("Files")) == []


def test_every_key_of_the_manifest_is_named(folder: Path) -> None:
    written = json.loads((folder / "MANIFEST.json").read_text("utf-8"))
    assert set(written) == set(Manifest.__struct_fields__)
    assert _unnamed(list(written), _section("MANIFEST.json")) == []


@pytest.mark.parametrize("name", spec.names())
def test_every_key_of_a_written_contract_is_named(name: str) -> None:
    document = artefact.contract(spec.load(name))
    del document["encoder"]["bands"]  # its keys are names of features
    keys = {*_keys(document), "bands"}
    assert len(keys) > 15
    assert _unnamed(sorted(keys), _section("contract.json")) == []


@pytest.mark.parametrize("kind", [Contract, Feature, ModelColumn, Encoder, Cross])
def test_every_key_that_scoring_reads_of_a_contract_is_named(kind: type[msgspec.Struct]) -> None:
    assert _unnamed(list(kind.__struct_fields__), _section("contract.json")) == []


def test_current_version_is_the_last_in_the_table_of_versions() -> None:
    versions = re.findall(r"^\| (\d+\.\d+) \|", _section("Compatibility"), re.MULTILINE)
    assert versions[-1] == artefact.CONTRACT_VERSION
    assert f"`{artefact.CONTRACT_VERSION}`" in _section("contract.json")


def test_every_array_of_the_encoder_is_named_with_its_dtype_and_shape() -> None:
    levels = Levels(["\0", "é"], numpy.array([[0, 0], [0.5, 1]], numpy.float32))
    with numpy.load(io.BytesIO(artefact.encoder_arrays({"a": levels, "b": levels}))) as arrays:
        found = {re.sub(r"\d+$", "<i>", name): arrays[name] for name in arrays.files}
    rows = re.findall(r"^\| `(\w+<i>)` \| `(\w+)` \| \((.*?)\) \|", _section("encoder.npz"), re.MULTILINE)
    assert {name: (dtype, len(shape.strip(",").split(","))) for name, dtype, shape in rows} == {
        name: (str(array.dtype), array.ndim) for name, array in found.items()
    }


def test_members_of_a_golden_row_are_named() -> None:
    assert all(f'"{name}"' in _section("golden.jsonl") for name in Golden.__struct_fields__)
    assert f"{TOLERANCE:g}".replace("e-0", "e-") in _section("golden.jsonl")


def test_example_gives_the_golden_probabilities(folder: Path, example: Any) -> None:
    golden = [json.loads(line) for line in (folder / "golden.jsonl").read_text("utf-8").splitlines()]
    assert len(golden) == 100
    assert [example.probability(line["row"]) for line in golden] == [line["probability"] for line in golden]


def test_example_gives_the_bits_of_the_native_encoder(folder: Path, example: Any) -> None:
    opened: Artefact = open_artefact(folder)
    encoder = RowEncoder(opened.contract, folder / "encoder.npz")
    features = [feature.name for feature in opened.contract.features]
    for row in _odd_rows():
        given: Any = tuple(float(v) if isinstance(v := row.get(name), int) else v for name in features)
        expected = numpy.frombuffer(encoder.vectors([given]))
        found = numpy.array(
            [
                _number(row.get(column["feature"]))
                if column["value"] == "number"
                else example.pair(column["feature"], row)[("rate", "count").index(column["value"])]
                for column in contract()["model_columns"]
            ]
        )
        numpy.testing.assert_array_equal(found, expected, str(row))


def _number(value: float | None) -> float:
    return numpy.nan if value is None else float(value)


def _odd_rows() -> Iterator[Row]:
    """Each rule of the page's list: missing, empty, blank, padded, repeated and unknown values, and bounds of bands."""
    whole = random_row(random.Random(3))
    for name, values in {
        "age": (None, 17, 18, 30, 31, 50, 51),
        "gender": (None, "", "  ", " F ", "\tF", "f", "\0"),
        "genres": (None, [], [""], ["Drama", "Drama"], [" Sci-Fi", "unseen"], ["Comédie", "😀", "Drama"]),
        "maker name": (None, "maker 3", "maker\u00a03"),
        "price": (None, 0.0, -1.5),
    }.items():
        for value in values:
            yield {**whole, name: value}


@pytest.mark.spark
def test_every_file_of_a_trained_artefact_is_named(shop: Trained) -> None:
    files = set(shop.read("MANIFEST.json")["files"])
    judged = {name for name in files if name.startswith("judged/")}
    # The judged model has the formats of the served one.
    assert judged
    files = files - judged | {name.removeprefix("judged/") for name in judged}
    own = {name for name in files if not name.startswith("pipeline/")}
    assert _unnamed(sorted(own), _section("Files")) == []
    cells = re.findall(r"^\| (`[^|]+) \|", _section("pipeline/"), re.MULTILINE)
    patterns = [_pattern(path) for cell in cells for path in re.findall(r"`([^`]+)`", cell)]
    assert [name for name in sorted(files - own) if not any(pattern.fullmatch(name) for pattern in patterns)] == []


def _pattern(path: str) -> re.Pattern[str]:
    """A path of the table: `<name>` is a part of a name, `...` any rest, and a name alone lies in any folder."""
    escaped = re.sub(r"<[^>]+>", "[^/]+", re.escape(path)).replace(r"\.\.\.", ".+").replace(r"\*", ".*")
    return re.compile(escaped if "/" in path else f"pipeline/(?:.+/)?{escaped}")


@pytest.mark.spark
@pytest.mark.parametrize("name", ["metrics.json", "lineage.json", "profile.json"])
def test_every_key_of_a_trained_artefact_s_documents_is_named(name: str, shop: Trained, synthetic: Trained) -> None:
    keys = {key for trained in (shop, synthetic) for key in trained.read(name)}
    assert _unnamed(sorted(keys), _section(name)) == []
