"""The native encoder by itself: what it gives, what it refuses to remember, and what a million levels cost."""

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
from scoring.engines import encoder
from scoring.engines.encoder import RowEncoder
from testing.scoring import COLUMNS, FEATURES, LEVELS, contract, make_artefact, random_row, reference_vector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artefact(tmp_path_factory.mktemp("encoder") / "toys").folder


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, dict[str, Any]]:
    arrays = numpy.load(folder / "encoder.npz")
    found = {}
    for i, name in enumerate(LEVELS):
        text = arrays[f"levels_{i}"].tobytes()
        words = [text[start:end].decode() for start, end in pairwise(arrays[f"offsets_{i}"].tolist())]
        found[name] = dict(zip(words, arrays[f"values_{i}"], strict=True))
    return found


def encoder_of(folder: Path, **changed: Any) -> RowEncoder:
    return RowEncoder(read_contract(json.dumps(contract() | changed).encode()), folder / "encoder.npz")


def plain(row: dict[str, Any]) -> Row:
    """As the parser gives it: numbers are floats."""
    values = [row.get(str(feature["name"])) for feature in FEATURES]
    return tuple(float(value) if isinstance(value, int) else value for value in values)


def matrix(vectors: bytes | numpy.ndarray) -> numpy.ndarray:
    return numpy.frombuffer(vectors).reshape(1, -1) if isinstance(vectors, bytes) else vectors


def test_rows_alone_rows_together_and_the_plain_reference_agree_to_the_bit(
    folder: Path, tables: dict[str, dict[str, Any]]
) -> None:
    rng = random.Random(3)
    rows = [random_row(rng) for _ in range(500)]
    of = encoder_of(folder)
    expected = numpy.array([reference_vector(row, tables) for row in rows])
    together = matrix(of.vectors([plain(row) for row in rows]))
    alone = numpy.concatenate([matrix(of.vectors([plain(row)])) for row in rows])
    numpy.testing.assert_array_equal(together, expected)
    numpy.testing.assert_array_equal(alone, expected)


def test_one_side_in_common_changes_nothing(folder: Path) -> None:
    user = {"age": 31, "gender": "F", "hour": 4}
    rows = [plain({**user, "price": float(i), "genres": ["Drama", f"{i % 3}"]}) for i in range(50)]
    of = encoder_of(folder)
    alone = numpy.concatenate([matrix(of.vectors([row])) for row in rows])
    numpy.testing.assert_array_equal(matrix(of.vectors(rows)), alone)


@given(st.permutations(COLUMNS), st.integers(1, len(COLUMNS)))
def test_columns_come_in_the_contract_s_order_whatever_it_is(
    folder: Path, tables: dict[str, dict[str, Any]], columns: list[tuple[str, str]], used: int
) -> None:
    rng = random.Random(5)
    rows = [random_row(rng) for _ in range(3)]
    chosen = columns[:used]
    of = encoder_of(folder, model_columns=[{"feature": feature, "value": value} for feature, value in chosen])
    places = [COLUMNS.index(column) for column in chosen]
    expected = numpy.array([reference_vector(row, tables) for row in rows])[:, places]
    numpy.testing.assert_array_equal(matrix(of.vectors([plain(row) for row in rows])), expected)
    numpy.testing.assert_array_equal(matrix(of.vectors([plain(rows[0])])), expected[:1])


def test_a_sender_of_ever_new_or_ever_longer_levels_fills_no_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_RECENT", 500)
    of = encoder_of(folder)
    for i in range(1000):
        many = [f"{i} {n}" for n in range(200)]
        of.vectors([plain({"gender": f"new {i}", "maker name": " " * 1000 + str(i), "genres": many})])
    kept = [key for block in of._blocks if isinstance(block.values, dict) for key in block.values]
    assert len(kept) <= 500
    assert max(len(repr(key)) for key in kept) < 300


def test_levels_forgotten_and_looked_up_again_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(9)
    rows = [plain(random_row(rng)) for _ in range(300)]
    expected = matrix(encoder_of(folder).vectors(rows))
    monkeypatch.setattr(encoder, "_RECENT", len(LEVELS))
    numpy.testing.assert_array_equal(matrix(encoder_of(folder).vectors(rows)), expected)


@pytest.mark.parametrize("level", ["\ud800", "M\ud800", "\U0010ffff", "x" * 100_000])
def test_text_that_no_table_can_hold_is_an_unknown_level(folder: Path, level: str) -> None:
    of = encoder_of(folder)
    unknown = matrix(of.vectors([plain({"gender": "unseen"})]))
    numpy.testing.assert_array_equal(matrix(of.vectors([plain({"gender": level})])), unknown)


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("offsets_1", lambda of: of[:-1]),
        ("offsets_1", lambda of: of + 1),
        ("offsets_1", lambda of: of[[0, 2, 1, *range(3, len(of))]]),
        ("offsets_1", lambda of: of.astype(float)),
        ("offsets_1", lambda of: of[:0]),
        ("levels_1", lambda of: of[:-1]),
        ("values_1", lambda of: of.astype(float)),
        ("values_1", lambda of: of[:, :1]),
    ],
)
def test_tables_whose_parts_do_not_fit_are_refused(folder: Path, tmp_path: Path, array: str, change: Any) -> None:
    arrays = dict(numpy.load(folder / "encoder.npz"))
    numpy.savez(tmp_path / "encoder.npz", **arrays | {array: change(arrays[array])})
    with pytest.raises(ArtefactError, match=r"^encoder\.npz: "):
        encoder_of(tmp_path)


def test_a_table_is_read_in_whatever_order_its_levels_stand(folder: Path, tmp_path: Path) -> None:
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
from scoring.engines.encoder import RowEncoder
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
def test_a_million_levels_take_80_megabytes(tmp_path: Path) -> None:
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


def test_a_text_that_is_longer_than_any_level_costs_no_more_than_a_short_one(folder: Path) -> None:
    """A cross joins it with each of a hundred thousand strings; only what could be a level is looked for."""
    of = encoder_of(folder)

    def seconds(gender: str) -> float:
        lists = [[f"{item:x}.{place:x}" for place in range(100)] for item in range(500)]
        rows = [plain({"gender": gender, "genres": genres}) for genres in lists]
        times = []
        for _ in range(3):
            started = time.process_time()
            of.vectors(rows)
            times.append(time.process_time() - started)
        return min(times)

    assert seconds("😀" * 1000) < 2 * seconds("M")
