"""Rows to model vectors, from the artefact's `encoder.npz`; the arithmetic is that of Spark's Word2VecModel.

A categorical level has a pair of float32 values; a row's value is the sum over its levels, in order and in
float64, times 1.0 / number of levels. An unknown level adds nothing, which is the prior. Text is trimmed of
spaces only, as Spark SQL's `trim` does.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy

from scoring.artefact import ArtefactError
from scoring.contract import Contract, Row

Pair = tuple[float, float]


class Categorical:
    """One categorical feature: where it stands in a row, and its levels."""

    def __init__(self, place: int, levels: Mapping[str, Pair], missing_level: str) -> None:
        self.place = place
        self._levels = levels
        self._missing_level = missing_level
        self._missing = levels.get(missing_level, (0.0, 0.0))

    def encode(self, value: Any) -> Pair:
        if not value:
            return self._missing
        if isinstance(value, str):
            return self._levels.get(value.strip(" ") or self._missing_level, (0.0, 0.0))
        rate = count = 0.0
        for level in value:
            pair = self._levels.get(level.strip(" ") or self._missing_level)
            if pair is not None:
                rate += pair[0]
                count += pair[1]
        scale = 1.0 / len(value)
        return rate * scale, count * scale


class RowEncoder:
    def __init__(self, contract: Contract, encoder_file: Path) -> None:
        places = {feature.name: i for i, feature in enumerate(contract.features)}
        missing_level = contract.encoder.missing_level
        tables = _read_levels(encoder_file, contract.encoder.categoricals)
        columns: dict[tuple[str, str], int] = {
            (column.feature, column.value): i for i, column in enumerate(contract.model_columns)
        }
        self.width = len(contract.model_columns)
        self._numbers = [(i, places[name]) for (name, value), i in columns.items() if value == "number"]
        # A component that the model does not use goes to a spare cell behind the vector.
        self._categoricals = [
            (
                Categorical(places[name], tables[name], missing_level),
                columns.get((name, "rate"), self.width),
                columns.get((name, "count"), self.width),
            )
            for name in contract.encoder.categoricals
        ]
        self._vector = [0.0] * (self.width + 1)

    def vectors(self, rows: Sequence[Row]) -> "array[float]":
        """Row-major float64 matrix; NaN where a number is missing."""
        matrix = array("d")
        vector = self._vector
        for row in rows:
            for column, place in self._numbers:
                value = row[place]
                vector[column] = math.nan if value is None else value  # type: ignore[assignment]
            for categorical, rate, count in self._categoricals:
                vector[rate], vector[count] = categorical.encode(row[categorical.place])
            matrix.extend(vector[:-1])
        return matrix


def _read_levels(file: Path, categoricals: Sequence[str]) -> dict[str, dict[str, Pair]]:
    try:
        with numpy.load(file, allow_pickle=False) as arrays:
            return {
                name: _table(arrays[f"levels_{i}"], arrays[f"offsets_{i}"], arrays[f"values_{i}"])
                for i, name in enumerate(categoricals)
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
