"""Tests of the native encoder: its vectors, the limits of its cache, and the memory for a million levels."""

import json
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.artefact import ArtefactError
from scoring.contract import Row, read_contract
from scoring.engines.encoder import _CACHED_KEYS, RowEncoder
from testing.scoring import COLUMNS, FEATURES, LEVELS, contract, make_artefact, random_row, reference_vector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artefact(tmp_path_factory.mktemp("encoder") / "toys").folder


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, dict[str, Any]]:
    arrays = numpy.load(folder / "encoder.npz")
    tables = {}
    for i, name in enumerate(LEVELS):
        text = arrays[f"levels_{i}"].tobytes()
        words = [text[start:end].decode() for start, end in pairwise(arrays[f"offsets_{i}"].tolist())]
        tables[name] = dict(zip(words, arrays[f"values_{i}"], strict=True))
    return tables


def encoder_of(folder: Path, cached_keys: int = _CACHED_KEYS, **changes: Any) -> RowEncoder:
    """The encoder of the artefact in `folder`, with `changes` to its contract."""
    return RowEncoder(read_contract(json.dumps(contract() | changes).encode()), folder / "encoder.npz", cached_keys)


def plain(row: dict[str, Any]) -> Row:
    """The row as the parser returns it: a tuple of values in which every number is a float."""
    values = [row.get(str(feature["name"])) for feature in FEATURES]
    return tuple(float(value) if isinstance(value, int) else value for value in values)


def matrix(vectors: bytes | numpy.ndarray) -> numpy.ndarray:
    return numpy.frombuffer(vectors).reshape(1, -1) if isinstance(vectors, bytes) else vectors


def test_single_rows_and_batches_equal_the_reference_encoder_to_the_bit(
    folder: Path, tables: dict[str, dict[str, Any]]
) -> None:
    rng = random.Random(3)
    rows = [random_row(rng) for _ in range(500)]
    row_encoder = encoder_of(folder)
    expected = numpy.array([reference_vector(row, tables) for row in rows])
    together = matrix(row_encoder.vectors([plain(row) for row in rows]))
    alone = numpy.concatenate([matrix(row_encoder.vectors([plain(row)])) for row in rows])
    numpy.testing.assert_array_equal(together, expected)
    numpy.testing.assert_array_equal(alone, expected)


def test_rows_that_share_a_user_are_encoded_like_single_rows(folder: Path) -> None:
    user = {"age": 31, "gender": "F", "hour": 4}
    rows = [plain({**user, "price": float(i), "genres": ["Drama", f"{i % 3}"]}) for i in range(50)]
    row_encoder = encoder_of(folder)
    alone = numpy.concatenate([matrix(row_encoder.vectors([row])) for row in rows])
    numpy.testing.assert_array_equal(matrix(row_encoder.vectors(rows)), alone)


@given(st.permutations(COLUMNS), st.integers(1, len(COLUMNS)))
def test_columns_follow_the_order_of_the_contract(
    folder: Path, tables: dict[str, dict[str, Any]], columns: list[tuple[str, str]], used: int
) -> None:
    rng = random.Random(5)
    rows = [random_row(rng) for _ in range(3)]
    chosen = columns[:used]
    row_encoder = encoder_of(folder, model_columns=[{"feature": feature, "value": value} for feature, value in chosen])
    places = [COLUMNS.index(column) for column in chosen]
    expected = numpy.array([reference_vector(row, tables) for row in rows])[:, places]
    numpy.testing.assert_array_equal(matrix(row_encoder.vectors([plain(row) for row in rows])), expected)
    numpy.testing.assert_array_equal(matrix(row_encoder.vectors([plain(rows[0])])), expected[:1])


def test_cache_stays_small_for_a_client_that_sends_new_and_longer_levels(folder: Path) -> None:
    row_encoder = encoder_of(folder, cached_keys=500)
    for i in range(1000):
        many = [f"{i} {n}" for n in range(200)]
        row_encoder.vectors([plain({"gender": f"new {i}", "maker name": " " * 1000 + str(i), "genres": many})])
    cached = [key for block in row_encoder._blocks if isinstance(block.values, dict) for key in block.values]
    assert len(cached) <= 500
    assert max(len(repr(key)) for key in cached) < 300


def test_cache_that_is_cleared_all_the_time_gives_the_same_vectors(folder: Path) -> None:
    rng = random.Random(9)
    rows = [plain(random_row(rng)) for _ in range(300)]
    expected = matrix(encoder_of(folder).vectors(rows))
    small = encoder_of(folder, cached_keys=len(LEVELS))
    numpy.testing.assert_array_equal(matrix(small.vectors(rows)), expected)


@pytest.mark.parametrize("level", ["\ud800", "M\ud800", "\U0010ffff", "x" * 100_000])
def test_text_that_a_table_cannot_hold_is_an_unknown_level(folder: Path, level: str) -> None:
    row_encoder = encoder_of(folder)
    unknown = matrix(row_encoder.vectors([plain({"gender": "unseen"})]))
    numpy.testing.assert_array_equal(matrix(row_encoder.vectors([plain({"gender": level})])), unknown)


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("offsets_1", lambda offsets: offsets[:-1]),
        ("offsets_1", lambda offsets: offsets + 1),
        ("offsets_1", lambda offsets: offsets[[0, 2, 1, *range(3, len(offsets))]]),
        ("offsets_1", lambda offsets: offsets.astype(float)),
        ("offsets_1", lambda offsets: offsets[:0]),
        ("levels_1", lambda levels: levels[:-1]),
        ("values_1", lambda values: values.astype(float)),
        ("values_1", lambda values: values[:, :1]),
    ],
)
def test_tables_with_inconsistent_arrays_are_refused(folder: Path, tmp_path: Path, array: str, change: Any) -> None:
    arrays = dict(numpy.load(folder / "encoder.npz"))
    numpy.savez(tmp_path / "encoder.npz", **arrays | {array: change(arrays[array])})
    with pytest.raises(ArtefactError, match=r"^encoder\.npz: "):
        encoder_of(tmp_path)


def test_tables_may_list_their_levels_in_any_order(folder: Path, tmp_path: Path) -> None:
    arrays = dict(numpy.load(folder / "encoder.npz"))
    words = [f"maker {i}".encode() for i in reversed(range(40))]
    before = sorted(words)
    place = list(LEVELS).index("maker name")
    arrays[f"levels_{place}"] = numpy.frombuffer(b"".join(words), numpy.uint8)
    arrays[f"offsets_{place}"] = numpy.cumsum([0, *map(len, words)], dtype=numpy.int64)
    arrays[f"values_{place}"] = arrays[f"values_{place}"][[before.index(word) for word in words]]
    numpy.savez_compressed(tmp_path / "encoder.npz", **arrays)
    rows = [plain({"maker name": f"maker {i}"}) for i in range(45)]
    numpy.testing.assert_array_equal(
        matrix(encoder_of(tmp_path).vectors(rows)), matrix(encoder_of(folder).vectors(rows))
    )


MILLION = """
import json, sys
from pathlib import Path
import numpy
from scoring.contract import read_contract
from scoring.engines.encoder import _CACHED_KEYS, RowEncoder
contract = {
    "contract_version": "1.1", "dataset": "many", "label": "click",
    "features": [{"name": "who", "type": "string", "side": "user"}],
    "model_columns": [{"feature": "who", "value": "rate"}, {"feature": "who", "value": "count"}],
    "encoder": {"categoricals": ["who"], "missing_level": "\\u0000", "width": 2},
}
def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1000
before = resident()
encoder = RowEncoder(read_contract(json.dumps(contract).encode()), Path(sys.argv[1]))
for i in range(0, 1_000_000, 5):
    rate, count = numpy.frombuffer(encoder.vectors([(f"{i:08x}",)]))
    assert (rate, count) == (i, i + 0.5)
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_million_levels_take_80_megabytes(tmp_path: Path) -> None:
    numbers = numpy.arange(1_000_000)
    text = "".join(f"{i:08x}" for i in numbers.tolist()).encode()
    pairs = numpy.stack([numbers, numbers + 0.5], axis=1).astype(numpy.float32)
    bounds = numpy.arange(0, 8_000_001, 8)
    numpy.savez(
        tmp_path / "encoder.npz", levels_0=numpy.frombuffer(text, numpy.uint8), offsets_0=bounds, values_0=pairs
    )
    command = [sys.executable, "-c", MILLION, str(tmp_path / "encoder.npz")]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 80


def test_text_longer_than_every_level_costs_no_more_than_a_short_one(folder: Path) -> None:
    """A cross joins the text with each of a hundred thousand strings; too long results are not hashed."""
    row_encoder = encoder_of(folder)

    def seconds(gender: str) -> float:
        lists = [[f"{item:x}.{place:x}" for place in range(100)] for item in range(500)]
        rows = [plain({"gender": gender, "genres": genres}) for genres in lists]
        times = []
        for _ in range(3):
            started = time.process_time()
            row_encoder.vectors(rows)
            times.append(time.process_time() - started)
        return min(times)

    assert seconds("😀" * 1000) < 2 * seconds("M")
