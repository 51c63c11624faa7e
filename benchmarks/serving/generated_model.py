"""Generate a model artefact without the training job: real trees, and any number of levels.

The rows are those of `workloads.data.synthesize`, in Criteo's shape. Every second feature belongs to the user, the
others to the items. Levels that do not occur in the rows are random, in the columns that have many levels.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from pyspark.sql import SparkSession
from synapse.ml.lightgbm import LightGBMClassificationModel

from cli import local_spark
from workloads import artefact, spec
from workloads.data import synthesize
from workloads.features.categories import MISSING_LEVEL
from workloads.features.encode import Levels
from workloads.spec import Spec
from workloads.training import pipeline

TREES, LEAVES = 200, 64
ROWS = 30_000
_MANY = 1_000
"""Columns with at least this number of levels get additional ones."""
_SMOOTHING = 20

Row = dict[str, Any]


@dataclass(frozen=True)
class GeneratedModel:
    folder: Path
    dataset: Spec
    rows: list[Row]
    """Rows that took no part in training."""
    vectors: np.ndarray
    """The encoded rows, (rows, columns)."""
    probabilities: np.ndarray
    without_missing: np.ndarray
    """Probabilities of the rows with -1 for every missing number."""
    levels: dict[str, Levels]

    @property
    def user(self) -> list[str]:
        return [name for name, feature in self.dataset.features.items() if feature.side == "user"]


def dataset() -> Spec:
    criteo = spec.load("criteo")
    names = list(criteo.features)
    sides = {name: "user" if place % 2 else "item" for place, name in enumerate(names)}
    features = {name: dataclasses.replace(feature, side=sides[name]) for name, feature in criteo.features.items()}
    return dataclasses.replace(criteo, features=features)


def generate(
    folder: Path, scratch: Path, with_pipeline: bool, wanted: int, kept: int = 2_000, seed: int = 1
) -> GeneratedModel:
    """Write an artefact with `wanted` levels in total, or more if the rows have more.

    `with_pipeline` also writes the pipeline that Spark Serving loads; it starts Spark.
    """
    of = dataset()
    table = synthesize.synthesize(scratch, ROWS, seed).read_text().splitlines()
    cells = np.array([line.split("\t") for line in table])
    labels, cells = cells[:, 0].astype(np.float64), cells[:, 1:]
    random = np.random.default_rng(seed)
    levels: dict[str, Levels] = {}
    columns = []
    for place, (name, feature) in enumerate(of.features.items()):
        text = cells[:, place]
        if feature.categorical:
            words, at, counts = np.unique(text, return_inverse=True, return_counts=True)
            clicks = np.bincount(at, labels)
            rate = (clicks - counts * labels.mean()) / (counts + _SMOOTHING)
            pairs = np.stack([rate, np.log1p(counts)], axis=1).astype(np.float32)
            columns += [pairs[at, 0], pairs[at, 1]]
            # Only here, because texts in numpy end at a zero character, with which the missing level begins.
            levels[name] = Levels([word or MISSING_LEVEL for word in words.tolist()], pairs)
        else:
            columns.append(np.where(text == "", "nan", text).astype(np.float64))
    _fill(levels, wanted, random)
    vectors = np.stack(columns, axis=1).astype(np.float64)
    parameters = {"objective": "binary", "num_leaves": LEAVES, "min_data_in_leaf": 20, "verbosity": -1, "seed": seed}
    learned = lightgbm.Dataset(vectors[kept:], labels[kept:])
    booster = lightgbm.train({**parameters, "num_threads": 1}, learned, TREES)
    probabilities = booster.predict(vectors[:kept], num_threads=1)
    without = booster.predict(np.where(np.isnan(vectors[:kept]), -1.0, vectors[:kept]), num_threads=1)
    rows = [_row(of, cells[i]) for i in range(kept)]
    golden = [{"row": row, "probability": p} for row, p in zip(rows[:100], probabilities.tolist(), strict=False)]
    trees = booster.model_to_string()
    with artefact.new(folder):
        (folder / "encoder.npz").write_bytes(artefact.encoder_arrays(levels))
        (folder / "model.txt").write_text(trees)
        artefact.write_json(folder / "contract.json", artefact.contract(of))
        (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))
        if with_pipeline:
            _write_pipeline(folder / "pipeline", scratch, of, levels, trees)
    return GeneratedModel(folder, of, rows, vectors[:kept], probabilities, without, levels)


def _write_pipeline(folder: Path, scratch: Path, of: Spec, levels: dict[str, Levels], trees: str) -> None:
    spark = SparkSession.builder.config(map=local_spark.settings(scratch)).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    model = LightGBMClassificationModel.loadNativeModelFromString(trees)
    model.setFeaturesCol("features").setRawPredictionCol("").setPredictionCol("").setProbabilityCol("probability")
    model.setNumIterations(-1)
    pipeline.save(folder, of, levels, model, spark)
    spark.stop()


def _row(of: Spec, cells: np.ndarray) -> Row:
    return {
        name: None if cell == "" else cell if feature.categorical else int(cell)
        for (name, feature), cell in zip(of.features.items(), cells.tolist(), strict=True)
    }


def _fill(levels: dict[str, Levels], wanted: int, random: np.random.Generator) -> None:
    """Add random levels until there are `wanted` in total; levels stay in the sorted order of training."""
    many = [name for name, of in levels.items() if len(of.levels) >= _MANY]
    missing = max(wanted - sum(len(of.levels) for of in levels.values()), 0)
    for left, name in zip(range(len(many), 0, -1), many, strict=True):
        before = levels[name]
        enough = len(before.levels) + missing // left
        missing -= missing // left
        words = set(before.levels)
        while len(words) < enough:
            more = random.integers(0, 2**32, enough - len(words))
            words.update(f"{number:08x}" for number in more.tolist())
        pairs = dict(zip(before.levels, before.values.tolist(), strict=True))
        ordered = sorted(words)
        values = np.array([pairs.get(word) or (0.0, 0.7) for word in ordered], np.float32)
        levels[name] = Levels(ordered, values)
