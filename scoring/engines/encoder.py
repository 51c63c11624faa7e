"""Rows to model vectors, from the artefact's `encoder.npz`; the arithmetic is that of Spark's Word2VecModel.

A level has a pair of float32 values; an encoding's value is the sum over the row's levels, in order and in float64,
times 1.0 / number of levels. An unknown level adds nothing, which is the prior. Text is trimmed of spaces only, as
Spark SQL's `trim` does; a number has the level of its band; a cross has all combinations of its features' levels.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy

from scoring.artefact import ArtefactError
from scoring.contract import Contract, Row

Pair = tuple[float, float]
_UNKNOWN = (0.0, 0.0)


class RowEncoder:
    def __init__(self, contract: Contract, encoder_file: Path) -> None:
        encoder = contract.encoder
        places = {feature.name: i for i, feature in enumerate(contract.features)}
        encodings = {name: [name] for name in encoder.categoricals} | {
            cross.name: cross.of for cross in encoder.crosses
        }
        tables = _read_levels(encoder_file, list(encodings))
        columns: dict[tuple[str, str], int] = {
            (column.feature, column.value): i for i, column in enumerate(contract.model_columns)
        }
        self.width = len(contract.model_columns)
        self._between = encoder.between
        self._numbers = [(i, places[name]) for (name, value), i in columns.items() if value == "number"]
        with_levels = list(dict.fromkeys(name for of in encodings.values() for name in of))
        self._levels = [
            (places[name], _levels_of(encoder.bands.get(name), encoder.missing_level)) for name in with_levels
        ]
        # A component that the model does not use goes to a spare cell behind the vector.
        self._encodings = [
            (
                tables[name],
                columns.get((name, "rate"), self.width),
                columns.get((name, "count"), self.width),
                [with_levels.index(feature) for feature in of],
            )
            for name, of in encodings.items()
        ]
        self._vector = [0.0] * (self.width + 1)

    def vectors(self, rows: Sequence[Row]) -> "array[float]":
        """Row-major float64 matrix; NaN where a number is missing."""
        matrix = array("d")
        vector, join = self._vector, self._between.join
        for row in rows:
            for column, place in self._numbers:
                value = row[place]
                vector[column] = math.nan if value is None else value  # type: ignore[assignment]
            levels = [levels_of(row[place]) for place, levels_of in self._levels]
            for table, rate, count, of in self._encodings:
                if len(of) == 1:
                    vector[rate], vector[count] = _mean(table, levels[of[0]])
                else:
                    crossed = [join(several) for several in product(*(levels[feature] for feature in of))]
                    vector[rate], vector[count] = _mean(table, crossed)
            matrix.extend(vector[:-1])
        return matrix


def _levels_of(bands: Sequence[float] | None, missing: str) -> Callable[[Any], list[str]]:
    """From a feature's value, which is never empty-handed: a missing one has the missing level."""

    def of_number(value: float | None) -> list[str]:
        return [missing if value is None else str(bisect_right(bands or (), value))]

    def of_text(value: str | list[str] | None) -> list[str]:
        if not value:
            return [missing]
        if isinstance(value, str):
            return [value.strip(" ") or missing]
        return [level.strip(" ") or missing for level in value]

    return of_text if bands is None else of_number


def _mean(table: Mapping[str, Pair], levels: Sequence[str]) -> Pair:
    if len(levels) == 1:
        return table.get(levels[0], _UNKNOWN)
    rate = count = 0.0
    for level in levels:
        pair = table.get(level)
        if pair is not None:
            rate += pair[0]
            count += pair[1]
    scale = 1.0 / len(levels)
    return rate * scale, count * scale


def _read_levels(file: Path, encodings: Sequence[str]) -> dict[str, dict[str, Pair]]:
    try:
        with numpy.load(file, allow_pickle=False) as arrays:
            return {
                name: _table(arrays[f"levels_{i}"], arrays[f"offsets_{i}"], arrays[f"values_{i}"])
                for i, name in enumerate(encodings)
            }
    except (KeyError, ValueError, OSError) as error:
        raise ArtefactError(f"{file.name}: {error}") from None


def _table(levels: numpy.ndarray, offsets: numpy.ndarray, values: numpy.ndarray) -> dict[str, Pair]:
    if values.dtype != numpy.float32 or values.shape != (len(offsets) - 1, 2) or offsets[-1] != len(levels):
        raise ValueError(f"offsets {offsets.shape}, values {values.shape} {values.dtype} do not fit each other")
    text = levels.tobytes()
    bounds = offsets.tolist()
    rates, counts = values.astype(numpy.float64).T.tolist()
    names = (text[start:end].decode() for start, end in pairwise(bounds))
    return dict(zip(names, zip(rates, counts, strict=True), strict=True))
