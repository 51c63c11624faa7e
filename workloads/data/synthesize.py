"""Generate SYNTHETIC click rows in the format of Criteo's table, for tests and for measuring speed.

    synthesize --rows 40000 --output <snapshot folder> [--seed 1] [--gzip]

The file has forty tab separated columns with Criteo's shares of missing values, numbers of distinct levels and about
25 % clicks. A formula determines the clicks: a model can learn it, and it holds no information about people.
`SYNTHETIC.json` is written last; it marks the rows as synthetic and holds the best AUC and log loss that a model can
reach. The same seed gives the same bytes, and a longer file begins with the rows of a shorter one. Does not use Spark.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import workloads
from workloads.data.raw_file import SYNTHETIC
from workloads.errors import WorkloadError
from workloads.evaluation.metrics import log_loss
from workloads.tasks.command import run

FILE = "synthetic_criteo.tsv"
CLICK_RATE = 0.25
_CHUNK = 50_000
_OWN_EFFECT = 100
"""Number of a column's most frequent levels that have their own effect; all other levels share one.

A model cannot learn the effect of a level that occurs once or twice, so the best AUC would be out of reach.
"""


@dataclass(frozen=True)
class _Integer:
    """floor(exp(normal(location, spread))) + lowest."""

    missing: float
    location: float
    spread: float
    lowest: int = 0
    slope: float = 0.0
    """Change of the log odds per unit of the standard normal variable."""


@dataclass(frozen=True)
class _Category:
    """`levels` levels by a power law: the r-th has a frequency proportional to r ** -exponent; exponent is not 1."""

    missing: float
    levels: int
    exponent: float
    strength: float
    """Standard deviation of the levels' log odds."""


# Missing shares and distinct levels as in the first 8,000 rows of Criteo's table; the rest is made up.
_INTEGERS = [
    _Integer(0.452, 0.3, 1.2, 0, 0.25),
    _Integer(0.0, 2.5, 1.8, -2, 0.20),
    _Integer(0.203, 2.0, 1.4),
    _Integer(0.203, 1.6, 1.0, 0, -0.15),
    _Integer(0.050, 7.5, 2.2, 0, -0.20),
    _Integer(0.252, 3.8, 1.5, 0, -0.25),
    _Integer(0.050, 1.5, 1.5, 0, 0.25),
    _Integer(0.001, 1.9, 1.2),
    _Integer(0.050, 3.9, 1.3),
    _Integer(0.452, -0.6, 0.8, 0, 0.20),
    _Integer(0.050, 0.6, 1.0, 0, 0.25),
    _Integer(0.777, -0.8, 1.2),
    _Integer(0.203, 1.5, 1.1, 0, -0.10),
]
_CATEGORIES = [
    _Category(0.0, 1_460, 2.01, 0.20),
    _Category(0.0, 583, 1.49, 0.30),
    _Category(0.033, 10_131_227, 1.03, 0.25),
    _Category(0.033, 2_202_608, 1.10, 0.25),
    _Category(0.0, 305, 2.66, 0.10),
    _Category(0.131, 7, 1.20, 0.20),
    _Category(0.0, 12_517, 0.98, 0.30),
    _Category(0.0, 633, 2.36, 0.10),
    _Category(0.0, 3, 0.50, 0.15),
    _Category(0.0, 93_145, 1.12, 0.25),
    _Category(0.0, 5_683, 1.05, 0.30),
    _Category(0.033, 8_351_593, 1.04, 0.25),
    _Category(0.0, 3_194, 1.04, 0.30),
    _Category(0.0, 22, 1.50, 0.30),
    _Category(0.0, 14_992, 1.15, 0.25),
    _Category(0.033, 5_461_306, 1.06, 0.20),
    _Category(0.0, 9, 1.01, 0.30),
    _Category(0.0, 5_652, 1.28, 0.30),
    _Category(0.453, 2_173, 1.38, 0.15),
    _Category(0.453, 3, 1.01, 0.20),
    _Category(0.033, 7_046_547, 1.05, 0.20),
    _Category(0.817, 7, 1.50, 0.20),
    _Category(0.0, 12, 1.30, 0.20),
    _Category(0.033, 286_181, 1.18, 0.25),
    _Category(0.453, 37, 1.50, 0.15),
    _Category(0.453, 142_572, 1.12, 0.20),
]


@dataclass(frozen=True)
class _Rows:
    """A chunk: integers and indices of levels, each with a mask of missing values, and log odds without intercept."""

    integers: np.ndarray
    integers_missing: np.ndarray
    levels: np.ndarray
    levels_missing: np.ndarray
    log_odds: np.ndarray


def synthesize(folder: Path, rows: int, seed: int = 1, zipped: bool = False) -> Path:
    """Write the file and its marker into `folder`; return the path of the file."""
    if rows < 1:
        raise WorkloadError(f"--rows must be 1 or more, not {rows}")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (SYNTHETIC, FILE, f"{FILE}.gz"):
        (folder / leftover).unlink(missing_ok=True)
    file = folder / (f"{FILE}.gz" if zipped else FILE)
    intercept = _intercept(seed)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    # Without a time stamp in the archive, the same rows give the same bytes.
    with gzip.GzipFile(file, "wb", compresslevel=3, mtime=0) if zipped else file.open("wb") as out:
        for chunk, (labels, probabilities, text) in enumerate(_chunks(rows, seed, intercept)):
            out.write(text)
            if chunk < 1_000_000 // _CHUNK:
                seen.append((labels, probabilities))
    labels, probabilities = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    marker = {
        "synthetic": True,
        "generator": f"workloads.data.synthesize {workloads.__version__}",
        "rows": rows,
        "seed": seed,
        "best_auc": round(_expected_auc(probabilities), 5),
        "best_log_loss": round(log_loss(probabilities, probabilities), 5),
        "click_rate": round(float(labels.mean()), 5),
    }
    (folder / SYNTHETIC).write_text(json.dumps(marker, indent=1) + "\n", "utf-8")
    return file


def _chunks(rows: int, seed: int, intercept: float) -> Iterator[tuple[np.ndarray, np.ndarray, bytes]]:
    for chunk in range(-(-rows // _CHUNK)):
        random = np.random.default_rng([seed, chunk])
        chunk_rows = _draw(random, seed)
        probabilities = _probability(chunk_rows.log_odds + intercept)
        labels = (random.random(_CHUNK) < probabilities).astype(np.int64)
        count = min(_CHUNK, rows - chunk * _CHUNK)
        text = _text(chunk_rows, labels)[:count].tobytes().replace(b"\0", b"")
        yield labels[:count], probabilities[:count], text


def _probability(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-log_odds))


def _intercept(seed: int) -> float:
    """Return the intercept for a click rate of `CLICK_RATE`, found by bisection."""
    log_odds = _draw(np.random.default_rng([seed, 2**32 - 1]), seed).log_odds
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(log_odds + middle).mean() < CLICK_RATE else (low, middle)
    return low


def _draw(random: np.random.Generator, seed: int) -> _Rows:
    log_odds = np.zeros(_CHUNK)
    # In Criteo's table, values of columns with the same share of missing values are missing together.
    shares = {integer.missing for integer in _INTEGERS} | {category.missing for category in _CATEGORIES}
    uniform = {share: random.random(_CHUNK) for share in sorted(shares)}
    integers, integers_missing, levels, levels_missing = [], [], [], []
    for integer in _INTEGERS:
        normal, missing = random.standard_normal(_CHUNK), uniform[integer.missing] < integer.missing
        integers.append(np.floor(np.exp(integer.location + integer.spread * normal)).astype(np.int64) + integer.lowest)
        integers_missing.append(missing)
        log_odds += np.where(missing, 0.1, integer.slope * normal)
    for index, category in enumerate(_CATEGORIES):
        level, missing = _level(random.random(_CHUNK), category), uniform[category.missing] < category.missing
        levels.append(level)
        levels_missing.append(missing)
        log_odds += np.where(missing, -0.1, category.strength * _effect(np.minimum(level, _OWN_EFFECT), index, seed))
    # An interaction that no single column shows: the level of one column sets the sign and size of a number's effect.
    taste = _effect(levels[8], 100, seed) * np.log1p(np.maximum(integers[6], 0))
    log_odds += np.where(integers_missing[6], 0.0, 0.2 * taste)
    return _Rows(
        np.stack(integers, axis=1),
        np.stack(integers_missing, axis=1),
        np.stack(levels, axis=1),
        np.stack(levels_missing, axis=1),
        log_odds,
    )


def _level(uniform: np.ndarray, category: _Category) -> np.ndarray:
    power = 1 - category.exponent
    top = (category.levels + 1.0) ** power - 1
    return np.minimum((top * uniform + 1) ** (1 / power) - 1, category.levels - 1).astype(np.int64)


def _hash(level: np.ndarray, column: int, seed: int) -> np.ndarray:
    """Return splitmix64 of (seed, column, level)."""
    x = level.astype(np.uint64) + np.uint64((seed * 1_000_003 + column) % 2**32 << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _effect(level: np.ndarray, column: int, seed: int) -> np.ndarray:
    """Return each level's effect: mean 0, deviation 1, nearly normal, the sum of the four 16-bit words of its hash."""
    words = _hash(level, column, seed).view(np.uint16).reshape(-1, 4).astype(np.float64)
    return (words.sum(axis=1) / 2**16 - 2) * np.sqrt(3)


def _text(rows: _Rows, labels: np.ndarray) -> np.ndarray:
    """Return a table of bytes, one line per row; zero bytes are padding."""
    hexadecimal = np.stack(
        [(_hash(rows.levels[:, c], c, 0) >> np.uint64(32)).astype(">u4") for c in range(len(_CATEGORIES))], axis=1
    )
    tokens = np.frombuffer(hexadecimal.tobytes().hex().encode(), np.uint8).reshape(*hexadecimal.shape, 8).copy()
    tokens[rows.levels_missing] = 0
    numbers = _decimal(rows.integers)
    numbers[rows.integers_missing] = 0
    tab, end = ord("\t"), ord("\n")

    def after_tabs(fields: np.ndarray) -> np.ndarray:
        tabs = np.full((*fields.shape[:2], 1), tab, np.uint8)
        return np.concatenate([tabs, fields], axis=2).reshape(len(fields), -1)

    label, line_end = labels.astype(np.uint8)[:, None] + ord("0"), np.full((len(labels), 1), end, np.uint8)
    return np.concatenate([label, after_tabs(numbers), after_tabs(tokens), line_end], axis=1)


def _decimal(values: np.ndarray, digits: int = 10) -> np.ndarray:
    """Return ASCII digits, padded with zero bytes on the left; the first byte is for the sign."""
    out = np.zeros((*values.shape, digits + 1), np.uint8)
    rest = np.abs(values)
    for digit in range(digits, 0, -1):
        out[..., digit] = np.where((rest > 0) | (digit == digits), rest % 10 + ord("0"), 0)
        rest = rest // 10
    out[..., 0] = np.where(values < 0, ord("-"), 0)
    return out


def _expected_auc(probabilities: np.ndarray) -> float:
    """Return the expected AUC of the true probabilities over random labels: the best that a model can reach."""
    p = np.sort(probabilities)
    below = np.cumsum(1 - p) - (1 - p)
    return float((p * (below + (1 - p) / 2)).sum() / (p.sum() * (1 - p).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="synthesize", description="Write SYNTHETIC rows in Criteo's format.")
    parser.add_argument("--rows", required=True, type=int)
    parser.add_argument("--output", required=True, type=Path, help="folder of the raw snapshot to write")
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--gzip", action="store_true")
    arguments = parser.parse_args()

    def work() -> None:
        file = synthesize(arguments.output, arguments.rows, arguments.seed, arguments.gzip)
        print(f"{file}: {arguments.rows} SYNTHETIC rows", file=sys.stderr)

    run(work)


if __name__ == "__main__":
    main()
