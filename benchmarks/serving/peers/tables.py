"""The artefact's features and levels as Python dictionaries, for the peers."""

import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy

FOLDER = Path(os.environ["AZUREML_MODEL_DIR"])
CONTRACT = json.loads((FOLDER / "contract.json").read_text())
FEATURES = [(feature["name"], feature["type"]) for feature in CONTRACT["features"]]
MISSING = CONTRACT["encoder"]["missing_level"]
UNKNOWN = (0.0, 0.0)


def levels() -> dict[str, dict[str, tuple[float, float]]]:
    arrays = numpy.load(FOLDER / "encoder.npz")
    tables = {}
    for i, name in enumerate(CONTRACT["encoder"]["categoricals"]):
        text = arrays[f"levels_{i}"].tobytes()
        words = (text[start:end].decode() for start, end in pairwise(arrays[f"offsets_{i}"].tolist()))
        tables[name] = dict(zip(words, map(tuple, arrays[f"values_{i}"].tolist()), strict=True))
    return tables


def vector(row: dict[str, Any], tables: dict[str, dict[str, tuple[float, float]]]) -> list[float]:
    values: list[float] = []
    for name, kind in FEATURES:
        value = row.get(name)
        if kind == "string":
            values += tables[name].get(value or MISSING, UNKNOWN)
        else:
            values.append(math.nan if value is None else value)
    return values
