"""The usual score.py of azureml-inference-server-http: a data frame for each request."""

import json
from typing import Any

import lightgbm
import pandas
from tables import FEATURES, FOLDER, MISSING, UNKNOWN, levels


def init() -> None:
    global booster, tables
    booster = lightgbm.Booster(model_file=FOLDER / "model.txt")
    tables = {}
    for name, of in levels().items():
        of[""] = of.pop(MISSING, UNKNOWN)  # pandas' texts end at a zero character
        tables[name] = pandas.DataFrame(list(of.values()), index=list(of), columns=["rate", "count"])


def run(raw_data: str) -> dict[str, Any]:
    frame = pandas.DataFrame(json.loads(raw_data)["rows"])
    columns = {}
    for name, kind in FEATURES:
        if kind == "string":
            # A column of nothing but None would be of another kind than the index, and all of that converted.
            words = frame[name].fillna("").astype(tables[name].index.dtype)
            found = tables[name].reindex(words).fillna(0.0)
            columns |= {f"{name}_rate": found["rate"].to_numpy(), f"{name}_count": found["count"].to_numpy()}
        else:
            columns[name] = frame[name].astype(float).to_numpy()
    probabilities = booster.predict(pandas.DataFrame(columns), num_threads=1)
    return {"probabilities": probabilities.tolist()}
