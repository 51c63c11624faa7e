"""A typical score.py of azureml-inference-server-http: a data frame for each request."""

import json
from typing import Any

import lightgbm
import pandas
from tables import FEATURES, FOLDER, MISSING, UNKNOWN, levels


def init() -> None:
    global booster, tables
    booster = lightgbm.Booster(model_file=FOLDER / "model.txt")
    tables = {}
    for name, table in levels().items():
        table[""] = table.pop(MISSING, UNKNOWN)  # texts in pandas end at a zero character
        tables[name] = pandas.DataFrame(list(table.values()), index=list(table), columns=["rate", "count"])


def run(raw_data: str) -> dict[str, Any]:
    frame = pandas.DataFrame(json.loads(raw_data)["rows"])
    columns = {}
    for name, kind in FEATURES:
        if kind == "string":
            # A column of None only has another dtype than the index, and pandas would convert the whole index.
            words = frame[name].fillna("").astype(tables[name].index.dtype)
            values = tables[name].reindex(words).fillna(0.0)
            columns |= {f"{name}_rate": values["rate"].to_numpy(), f"{name}_count": values["count"].to_numpy()}
        else:
            columns[name] = frame[name].astype(float).to_numpy()
    probabilities = booster.predict(pandas.DataFrame(columns), num_threads=1)
    return {"probabilities": probabilities.tolist()}
