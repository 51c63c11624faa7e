"""Encode rows as model vectors, from the tables in the artefact's `encoder.npz`.

The arithmetic is that of Spark's Word2VecModel. A level has a pair of float32 values; an encoding's value is the sum
over the row's levels, in order and in float64, times 1.0 / number of levels. An unknown level adds zero, which is the
prior. Text is trimmed of spaces only, as Spark SQL's `trim` does; a number has the level of its band; a cross has all
combinations of its features' levels.

Tables stay in the compact form of the file, with a hash index; a dict would take five times the memory. Recently used
values are cached in the form in which they enter the vector (`_Values`). Does not score: the engine does.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import groupby, product
from math import nan
from operator import itemgetter
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy

from scoring.artefact import ArtefactError
from scoring.contract import Contract, Encoder, Row

Key = Any
"""Hashable part of a row that determines an encoding's value: text, a tuple of texts, the number of a band, or None for
a missing value; for a cross, a tuple of such keys."""
Columns = Sequence[tuple[Any, ...]]
"""One tuple per feature with its values in all rows."""

_DOUBLE = 8
_PAIR = Struct("2d")
_PRIOR = _PAIR.pack(0.0, 0.0)
"""Value of a level that is not in the table."""
_CACHED_KEYS = 65_536
"""Most cached keys of all encodings together, some 20 MB."""
_CACHED_KEY_SIZE = 100
"""Most characters and parts of a cached key. Longer keys would let a client fill the memory."""
_MAX_INFLATION = 20
"""Most bytes of the unpacked `encoder.npz` per byte of the file."""


class RowEncoder:
    """Encoder of the rows of one artefact. `cached_keys` bounds the cache of all its encodings together."""

    def __init__(self, contract: Contract, encoder_file: Path, cached_keys: int = _CACHED_KEYS) -> None:
        encoder = contract.encoder
        places = {feature.name: place for place, feature in enumerate(contract.features)}
        encodings = {name: [name] for name in encoder.categoricals} | {
            cross.name: cross.of for cross in encoder.crosses
        }
        tables = _read_tables(encoder_file, list(encodings))
        self.width = len(contract.model_columns)
        self._blocks: list[_Block] = []
        for name, group in groupby(contract.model_columns, lambda c: None if c.value == "number" else c.feature):
            columns = list(group)
            if name is None:
                keys = _Keys.of_numbers([places[column.feature] for column in columns])
                self._blocks.append(_Block(len(columns), *keys, _Numbers(len(columns))))
                continue
            parts = [_Keys.of_value(places[feature], _hashable(contract, feature)) for feature in encodings[name]]
            crossed = len(parts) > 1
            picks = [("rate", "count").index(column.value) for column in columns]
            values = _Values(tables[name], crossed, encoder, picks, cached_keys // len(encodings))
            self._blocks.append(_Block(len(columns), *(_together(parts) if crossed else parts[0]), values))
        self._by_row = [(block.key, block.values) for block in self._blocks]

    def vectors(self, rows: Sequence[Row]) -> bytes | numpy.ndarray:
        """Return (rows, width) float64, row-major, or the bytes of that matrix if there is one row.

        A missing number is NaN.
        """
        if len(rows) == 1:
            row = rows[0]
            return b"".join([values[key(row)] for key, values in self._by_row])
        features = list(zip(*rows, strict=True))
        matrix = numpy.empty((len(rows), self.width))
        start = 0
        for block in self._blocks:
            matrix[:, start : start + block.width] = block.values.many(block.keys(features))
            start += block.width
        return matrix


class _Keys(NamedTuple):
    """Two functions that extract an encoding's key: from one row, and from the columns of many rows."""

    key: Callable[[Row], Key]
    keys: Callable[[Columns], Sequence[Key]]

    @classmethod
    def of_numbers(cls, places: Sequence[int]) -> "_Keys":
        """Extract the values of several numeric features."""
        values = itemgetter(*places)
        if len(places) == 1:
            return cls(lambda row: (values(row),), lambda columns: (values(columns),))
        return cls(values, values)

    @classmethod
    def of_value(cls, place: int, convert: Callable[[Any], Key] | None) -> "_Keys":
        if convert is None:
            return cls(itemgetter(place), itemgetter(place))
        return cls(lambda row: convert(row[place]), lambda columns: list(map(convert, columns[place])))


def _together(parts: Sequence[_Keys]) -> _Keys:
    """Extract the key of a cross: a tuple of the keys of its features."""
    return _Keys(
        lambda row: tuple([part.key(row) for part in parts]),
        lambda columns: list(zip(*[part.keys(columns) for part in parts], strict=True)),
    )


def _hashable(contract: Contract, feature: str) -> Callable[[Any], Key] | None:
    """Conversion of a feature's value into its key; None if the value is the key."""
    bands = contract.encoder.bands.get(feature)
    if bands is not None:
        return lambda value: None if value is None else bisect_right(bands, value)
    if any(known.name == feature and known.type == "strings" for known in contract.features):
        return lambda value: tuple(value) if value else None
    return None


class _Numbers:
    """Numbers as doubles, NaN for None."""

    def __init__(self, width: int) -> None:
        self._pack = Struct(f"{width}d").pack

    def __getitem__(self, values: Sequence[float | None]) -> bytes:
        return self._pack(*[nan if value is None else value for value in values])

    def many(self, columns: Columns) -> numpy.ndarray:
        return numpy.array(columns, numpy.float64).T


class _Values(dict[Key, bytes]):
    """The values of one encoding, as the bytes of its columns' doubles: a cache in front of its table.

    A subscript that hits is a plain dict lookup without any Python code. One that misses calls `__missing__`, which
    computes the value from the table and stores it. A full cache is cleared as a whole: an LRU order would have to be
    updated on every hit, and a frequent key is back after one miss.

    Encoding 100 rows takes 0.84 ms of CPU with this cache, 1.8 ms with `functools.lru_cache` in its place and 12 ms
    without a cache; a single row takes 12 µs, a ratio of 1 to 1.5 to 10 (the benchmark's model with a million levels
    in 26 encodings, 2,000 different rows five times over, all keys fit; median of five runs on a busy machine).
    """

    def __init__(self, table: "_Table", crossed: bool, encoder: Encoder, picks: Sequence[int], capacity: int) -> None:
        self._table = table
        self._crossed = crossed
        self._missing = encoder.missing_level
        self._between = encoder.between
        self._picks = [slice(_DOUBLE * pick, _DOUBLE * (pick + 1)) for pick in picks]
        self._whole = list(picks) == [0, 1]
        self._capacity = capacity

    def many(self, keys: Sequence[Key]) -> numpy.ndarray:
        """(keys, columns), or (columns,) where all keys are the same, as on the user's side of a ranking."""
        if keys[0] is keys[-1] and keys.count(keys[0]) == len(keys):
            return numpy.frombuffer(self[keys[0]])
        return numpy.frombuffer(b"".join(map(self.__getitem__, keys))).reshape(len(keys), -1)

    def __missing__(self, key: Key) -> bytes:
        values = self._table.mean(self._crosses(key) if self._crossed else self._levels(key))
        if not self._whole:
            values = b"".join(map(values.__getitem__, self._picks))
        if _size(key) <= _CACHED_KEY_SIZE:
            if len(self) >= self._capacity:
                self.clear()
            self[key] = values
        return values

    def _crosses(self, key: Key) -> list[str]:
        return [self._between.join(levels) for levels in product(*map(self._levels, key))]

    def _levels(self, key: Key) -> list[str]:
        """The levels of a key, at least one: a missing or empty value has the missing level."""
        if isinstance(key, str):
            return [key.strip(" ") or self._missing]
        if isinstance(key, tuple):
            return [level.strip(" ") or self._missing for level in key]
        return [self._missing if key is None else str(key)]


def _size(key: Key) -> int:
    if isinstance(key, str):
        return len(key)
    return len(key) + sum(map(_size, key)) if isinstance(key, tuple) else 1


class _Block(NamedTuple):
    """Adjacent columns of the vector: the values of one encoding, or numbers that need no encoding."""

    width: int
    key: Callable[[Row], Key]
    keys: Callable[[Columns], Sequence[Key]]
    values: _Numbers | _Values


class _Table:
    """Hash table from a level to its pair of values. Levels with equal hashes share a bucket; texts are compared."""

    def __init__(self, levels: numpy.ndarray, offsets: numpy.ndarray, values: numpy.ndarray) -> None:
        count = len(offsets) - 1
        kinds = levels.dtype == numpy.uint8, offsets.dtype == numpy.int64, values.dtype == numpy.float32
        if not all(kinds) or values.shape != (count, 2):
            raise ValueError(f"offsets {offsets.shape}, values {values.shape} {values.dtype} do not fit each other")
        if (offsets[0], offsets[-1]) != (0, len(levels)) or (numpy.diff(offsets) < 0).any():
            raise ValueError(f"offsets do not divide {len(levels)} bytes")
        self._text = levels.tobytes()
        # Memory views: reading an element gives a Python number in half the time that an array takes.
        self._offsets = offsets.data
        self._longest = int(numpy.diff(offsets).max(initial=0))
        self._pairs = values.astype(numpy.float64).tobytes()
        self._mask = (1 << count.bit_length()) - 1
        hashes = map(hash, map(self._text.__getitem__, map(slice, self._offsets, self._offsets[1:])))
        buckets = numpy.fromiter(hashes, numpy.int64, count) & self._mask
        self._places = numpy.argsort(buckets, kind="stable").astype(numpy.uint32).data
        sizes = numpy.bincount(buckets, minlength=self._mask + 1)
        self._starts = numpy.concatenate(([0], numpy.cumsum(sizes))).astype(numpy.uint32).data

    def mean(self, levels: Sequence[str]) -> bytes:
        """Return the mean of the levels' pairs, as the bytes of two doubles."""
        if len(levels) == 1:
            at = self._find(levels[0])
            return _PRIOR if at is None else self._pairs[at : at + _PAIR.size]
        rate = count = 0.0
        for level in levels:
            at = self._find(level)
            if at is not None:
                pair = _PAIR.unpack_from(self._pairs, at)
                rate += pair[0]
                count += pair[1]
        scale = 1.0 / len(levels)
        return _PAIR.pack(rate * scale, count * scale)

    def _find(self, level: str) -> int | None:
        """Return the offset of the level's pair, or None for an unknown level."""
        if len(level) > self._longest:
            return None  # no hash for it: one request may cross its longest texts a hundred thousand times
        text = level.encode("utf-8", "surrogatepass")
        bucket = hash(text) & self._mask
        for at in range(self._starts[bucket], self._starts[bucket + 1]):
            place = self._places[at]
            if self._text[self._offsets[place] : self._offsets[place + 1]] == text:
                return place * _PAIR.size
        return None


def _read_tables(file: Path, encodings: Sequence[str]) -> dict[str, _Table]:
    try:
        _refuse_bomb(file)
        with numpy.load(file, allow_pickle=False) as arrays:
            return {
                name: _Table(arrays[f"levels_{i}"], arrays[f"offsets_{i}"], arrays[f"values_{i}"])
                for i, name in enumerate(encodings)
            }
    except Exception as error:  # zipfile and numpy raise a dozen exception types for damaged bytes
        raise ArtefactError(f"{file.name}: {type(error).__name__}: {error}") from None


def _refuse_bomb(file: Path) -> None:
    """Raise `ValueError` for an archive that unpacks to many times its size. Training writes it uncompressed."""
    with ZipFile(file) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > _MAX_INFLATION * file.stat().st_size:
        raise ValueError(f"it would unpack to {unpacked} bytes, more than {_MAX_INFLATION} times its size")
