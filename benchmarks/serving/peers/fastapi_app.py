"""A peer in FastAPI as in its tutorial: a pydantic model of the features, and `Booster.predict` on an array."""

from typing import Any

import lightgbm
import numpy
from fastapi import FastAPI
from pydantic import BaseModel, create_model
from tables import FEATURES, FOLDER, levels, vector

KINDS = {"string": str, "integer": float, "number": float}
fields: dict[str, Any] = {name: (KINDS[kind] | None, None) for name, kind in FEATURES}
Row = create_model("Row", **fields)


class Rows(BaseModel):
    rows: list[Row]


app = FastAPI()
tables = levels()
booster = lightgbm.Booster(model_file=FOLDER / "model.txt")


@app.post("/score")
async def score(sent: Rows) -> dict[str, list[float]]:
    matrix = numpy.array([vector(row.__dict__, tables) for row in sent.rows])
    return {"probabilities": booster.predict(matrix, num_threads=1).tolist()}
