"""A small model artefact made without Spark, and a scoring service started on it.

The golden probabilities are an independent oracle: the Python lightgbm package on a deliberately plain encoder.
"""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import IO, Any

import httpx
import lightgbm
import numpy

REPOSITORY = Path(__file__).parents[1]
MISSING = "\u0000"
FEATURES: list[dict[str, Any]] = [
    {"name": "age", "type": "integer", "side": "user"},
    {"name": "gender", "type": "string", "side": "user"},
    {"name": "hour", "type": "integer", "side": "context", "minimum": 0, "maximum": 23},
    {"name": "price", "type": "number", "side": "item"},
    {"name": "genres", "type": "strings", "side": "item"},
    {"name": "maker name", "type": "string", "side": "item"},
]
CATEGORICALS = ["gender", "genres", "maker name"]
CROSSES = {"gender__genres": ["gender", "genres"], "age__maker name": ["age", "maker name"]}
BANDS = {"age": [18, 30.5, 50]}
BETWEEN = "\u0001"
COLUMNS = [
    ("age", "number"),
    ("hour", "number"),
    ("price", "number"),
    *((name, value) for name in (*CATEGORICALS, *CROSSES) for value in ("rate", "count")),
]
LEVELS = {
    "gender": ["M", "F", MISSING],
    "genres": ["Drama", "Comédie", "Sci-Fi", "Film Noir", "😀", MISSING],
    "maker name": [f"maker {i}" for i in range(40)],
}
LEVELS |= {
    "gender__genres": [BETWEEN.join(pair) for pair in product(LEVELS["gender"], LEVELS["genres"])],
    "age__maker name": [BETWEEN.join(pair) for pair in product(["0", "1", "2", "3", MISSING], LEVELS["maker name"])],
}
Row = dict[str, Any]
Tables = dict[str, dict[str, Any]]


def contract(crosses: bool = True) -> dict[str, Any]:
    """Version 1.2, or the version before it, without crosses and limits."""
    columns = [column for column in COLUMNS if crosses or column[0] not in CROSSES]
    crossing = {
        "crosses": [{"name": name, "of": of} for name, of in CROSSES.items()],
        "bands": BANDS,
        "between": BETWEEN,
    }
    return {
        "contract_version": "1.2" if crosses else "1.0",
        "dataset": "toys",
        "label": "click",
        "features": FEATURES if crosses else [{key: of[key] for key in ("name", "type", "side")} for of in FEATURES],
        "model_columns": [{"feature": feature, "value": value} for feature, value in columns],
        "encoder": {
            "categoricals": CATEGORICALS,
            "missing_level": MISSING,
            "width": 2,
            **(crossing if crosses else {}),
        },
        "item_id": None,
    }


def reference_levels(name: str, row: Row) -> list[str]:
    if name in CROSSES:
        return [BETWEEN.join(several) for several in product(*(reference_levels(of, row) for of in CROSSES[name]))]
    sent = row.get(name)
    if name in BANDS:
        return [MISSING if sent is None else str(sum(bound <= sent for bound in BANDS[name]))]
    levels = sent if isinstance(sent, list) else [sent]
    return [(level or "").strip(" ") or MISSING for level in levels or [None]]


def reference_vector(row: Row, tables: Tables) -> list[float]:
    vector = []
    for feature, value in COLUMNS:
        if value == "number":
            sent = row.get(feature)
            vector.append(float("nan") if sent is None else float(sent))
            continue
        levels = reference_levels(feature, row)
        total = numpy.float64(0.0)
        for level in levels:
            pair = tables[feature].get(level)
            total += numpy.float64(0.0 if pair is None else pair["rate count".split().index(value)])
        vector.append(float(total * (numpy.float64(1.0) / len(levels))))
    return vector


def random_row(rng: random.Random) -> Row:
    def maybe(value: Any, missing: float = 0.15) -> Any:
        return None if rng.random() < missing else value

    return {
        "age": maybe(rng.randint(7, 80)),
        "gender": maybe(rng.choice(["M", "F", " F ", "", "unseen"])),
        "hour": rng.randint(0, 23),
        "price": maybe(rng.choice([0.0, -1.5, rng.lognormvariate(2, 1)])),
        "genres": maybe([rng.choice([*LEVELS["genres"][:-1], "unseen"]) for _ in range(rng.randint(0, 4))]),
        "maker name": maybe(f"maker {rng.randint(0, 45)}"),
    }


@dataclass(frozen=True)
class Toys:
    folder: Path
    tables: Tables
    booster: lightgbm.Booster
    rows: list[Row]

    def probability(self, row: Row) -> float:
        vector = reference_vector(row, self.tables)[: self.booster.num_feature()]
        return float(self.booster.predict(numpy.array([vector]), num_threads=1)[0])


def write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "MANIFEST.json")
    digests = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "MANIFEST.json").write_text(json.dumps({"files": digests}))


def make_artefact(folder: Path, seed: int = 7, crosses: bool = True) -> Toys:
    rng = random.Random(seed)
    tables: Tables = {
        name: {level: numpy.array([rng.gauss(0, 0.2), rng.uniform(1, 9)], dtype=numpy.float32) for level in levels}
        for name, levels in LEVELS.items()
    }
    rows = [random_row(rng) for _ in range(2000)]
    vectors = numpy.array([reference_vector(row, tables) for row in rows])
    score = numpy.nan_to_num(vectors[:, 0]) / 40 + 6 * vectors[:, 3] + 4 * vectors[:, 5] - 1
    score += 3 * ((vectors[:, 1] >= 18) & (vectors[:, 2] > 7))  # expensive items are clicked in the evening
    score += 9 * vectors[:, COLUMNS.index(("gender__genres", "rate"))]
    score += 9 * vectors[:, COLUMNS.index(("age__maker name", "rate"))]
    clicks = [rng.random() < 1 / (1 + numpy.exp(-value)) for value in score]
    parameters = {"objective": "binary", "num_leaves": 15, "verbosity": -1, "num_threads": 1, "seed": seed}
    of = contract(crosses)
    known = vectors[:, : len(of["model_columns"])]  # without the columns of crosses, which are last
    booster = lightgbm.train(parameters, lightgbm.Dataset(known, label=clicks), num_boost_round=30)

    folder.mkdir(parents=True)
    booster.save_model(folder / "model.txt")
    (folder / "contract.json").write_text(json.dumps(of))
    arrays = {}
    for i, name in enumerate(LEVELS if crosses else CATEGORICALS):
        levels = sorted((level.encode(), values) for level, values in tables[name].items())
        lengths = [len(level) for level, _ in levels]
        arrays[f"levels_{i}"] = numpy.frombuffer(b"".join(level for level, _ in levels), dtype=numpy.uint8)
        arrays[f"offsets_{i}"] = numpy.cumsum([0, *lengths], dtype=numpy.int64)
        arrays[f"values_{i}"] = numpy.stack([values for _, values in levels])
    numpy.savez(folder / "encoder.npz", **arrays)
    toys = Toys(folder, tables, booster, rows[:100])
    golden = [{"row": row, "probability": toys.probability(row)} for row in toys.rows]
    (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))
    write_manifest(folder)
    return toys


@dataclass(frozen=True)
class Running:
    process: "subprocess.Popen[str]"
    client: httpx.Client
    port: int

    def score(self, body: Any, **options: Any) -> httpx.Response:
        return self.client.post("/score", json=body, **options)

    def probabilities(self, rows: list[Row]) -> list[float]:
        response = self.score({"rows": rows})
        assert response.status_code == 200, response.text
        return list(response.json()["probabilities"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scoring_environment(model_dir: Path, **settings: object) -> dict[str, str]:
    chosen = {"AZUREML_MODEL_DIR": model_dir, "MODEL_NAME": "toys", "MODEL_VERSION": "3", **settings}
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **{name: str(value) for name, value in chosen.items()}}


def wait_until_ready(client: httpx.Client, process: "subprocess.Popen[str]", seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the service did not become ready within {seconds} s; exit code {process.poll()}")


@contextmanager
def serving(
    environment: Mapping[str, str],
    *,
    command: tuple[str, ...] = (sys.executable, "-m", "scoring"),
    seconds: float = 60,
    log: IO[str] | None = None,
) -> Iterator[Running]:
    port = free_port()
    process = subprocess.Popen(command, env={**environment, "SCORING_PORT": str(port)}, text=True, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
    try:
        wait_until_ready(client, process, seconds)
        yield Running(process, client, port)
    finally:
        client.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_pipeline(spark: Any, toys_folder: Path, scratch: Path) -> None:
    """The same model as a Spark pipeline, in the layout that training writes."""
    from pyspark.ml import PipelineModel
    from pyspark.ml.feature import SQLTransformer, VectorAssembler, Word2VecModel
    from synapse.ml.lightgbm import LightGBMClassificationModel

    level = f"coalesce(nullif(trim({{}}), ''), '{MISSING}')"
    selected, crossed, lookups, inputs = [], [], [], []
    arrays = numpy.load(toys_folder / "encoder.npz")
    column = {feature["name"]: f"c{i}" for i, feature in enumerate(FEATURES)}
    for name, kind in ((f["name"], f["type"]) for f in FEATURES):
        if kind in ("integer", "number"):
            selected.append(f"CAST(`{name}` AS DOUBLE) AS n_{column[name]}")
        elif kind == "string":
            selected.append(f"array({level.format(f'`{name}`')}) AS {column[name]}")
        else:
            missing = f"array('{MISSING}')"
            cleaned = f"transform(`{name}`, l -> {level.format('l')})"
            selected.append(f"IF(size(`{name}`) > 0, {cleaned}, {missing}) AS {column[name]}")
    for name, bounds in BANDS.items():
        reached = " + ".join(f"int(`{name}` >= {bound})" for bound in bounds)
        selected.append(f"array(coalesce(string({reached}), '{MISSING}')) AS {column[name]}")
    for name, (first, second) in CROSSES.items():
        column[name] = f"x{len(crossed)}"
        pairs = f"transform({column[second]}, b -> concat(a, '{BETWEEN}', b))"
        crossed.append(f"flatten(transform({column[first]}, a -> {pairs})) AS {column[name]}")
    for position, name in enumerate(LEVELS):
        text = arrays[f"levels_{position}"].tobytes()
        bounds = arrays[f"offsets_{position}"].tolist()
        words = [text[start:end].decode() for start, end in pairwise(bounds)]
        vectors = arrays[f"values_{position}"].tolist()
        path = scratch / str(position)
        data = list(zip(words, vectors, strict=True))
        spark.createDataFrame(data, "word string, vector array<float>").coalesce(1).write.parquet(str(path / "data"))
        metadata = {
            "class": "org.apache.spark.ml.feature.Word2VecModel",
            "timestamp": 0,
            "sparkVersion": spark.version,
            "uid": f"levels_{position}",
            "paramMap": {"inputCol": column[name], "outputCol": f"v_{column[name]}", "vectorSize": 2},
            "defaultParamMap": {},
        }
        (path / "metadata").mkdir()
        (path / "metadata" / "part-00000").write_text(json.dumps(metadata) + "\n")
        lookups.append(Word2VecModel.load(str(path)))
        inputs.append(f"v_{column[name]}")
    numbers = [f"n_{column[f['name']]}" for f in FEATURES if f["type"] in ("integer", "number")]
    assembler = VectorAssembler(inputCols=[*numbers, *inputs], outputCol="features", handleInvalid="keep")
    model = LightGBMClassificationModel.loadNativeModelFromString((toys_folder / "model.txt").read_text())
    model.setFeaturesCol("features").setRawPredictionCol("").setPredictionCol("").setProbabilityCol("probability")
    model.setNumIterations(-1)
    sql = SQLTransformer(
        statement=f"SELECT *, {', '.join(crossed)} FROM (SELECT *, {', '.join(selected)} FROM __THIS__)"
    )
    PipelineModel([sql, *lookups, assembler, model]).write().overwrite().save(str(toys_folder / "pipeline"))
