# Databricks notebook source
# MAGIC %md
# MAGIC # Operationalize
# MAGIC The live endpoint, called as a website calls it: click probabilities of rows, and one user's ranking of items.
# MAGIC Each answer is compared with the batch probability, that of the deployed model's Spark pipeline. They must be
# MAGIC equal.

# COMMAND ----------

# ruff: noqa: F821
# mypy: disable-error-code="name-defined"
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from pyspark.sql import functions as F

from workloads import session, spec
from workloads.data import split
from workloads.tasks import prepare
from workloads.training import pipeline, spark_ml_io

spark = session.start()
settings = json.loads(Path("settings.json").read_text())
for name in ("dataset", "features", "artefact", "scoring_uri", "model"):
    dbutils.widgets.text(name, settings[name])
key = dbutils.secrets.get(settings["secret_scope"], settings["secret_key"])

dataset = spec.load(dbutils.widgets.get("dataset"))
features, artefact = (Path(dbutils.widgets.get(name)) for name in ("features", "artefact"))
TOLERANCE = 1e-9  # that of golden rows


def call(body: dict[str, Any]) -> dict[str, Any]:
    """Return the endpoint's answer. Raises `RuntimeError` with the service's message."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(dbutils.widgets.get("scoring_uri"), json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            document: dict[str, Any] = json.load(answer)
            return document
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"the endpoint answered {error.code}: {error.read().decode().strip()}") from None


def batch(rows: list[dict[str, Any]]) -> list[float]:
    """Return the probabilities of the deployed model's Spark pipeline, in the order of `rows`."""
    numbered = pipeline.raw_schema(dataset).add("number", "long")
    values = [(*(row.get(name) for name in dataset.features), number) for number, row in enumerate(rows)]
    scored = deployed.transform(spark.createDataFrame(values, numbered))
    probability = spark_ml_io.vector_to_array("probability")[1].alias("probability")
    return [row.probability for row in scored.select("number", probability).orderBy("number").collect()]


deployed = pipeline.load(artefact / "pipeline")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Score
# MAGIC Rows of the test set, which training never saw.

# COMMAND ----------

table = spark.read.parquet(str(features))
test = split.by_time(table, prepare.prepared(features, dataset), dataset).test.select(*dataset.features)
rows = [row.asDict() for row in test.orderBy(F.xxhash64(*dataset.features)).limit(200).collect()]
answer = call({"rows": rows})
wanted = dbutils.widgets.get("model")
assert answer["model"] == wanted, f"{answer['model']} answers, not {wanted}: run `pulumi up`, or name its artefact"
probabilities, expected = answer["probabilities"], batch(rows)
difference = max(abs(one - other) for one, other in zip(probabilities, expected, strict=True))
assert difference <= TOLERANCE, f"endpoint and batch differ by {difference}"
print(f"{answer['model']} answered {len(rows)} rows; mean probability {sum(probabilities) / len(rows):.4f}")
print(f"largest difference from the batch probability: {difference:.1e}")

# COMMAND ----------

figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
axes.plot([0, 1], [0, 1], color="#9aa3af", linewidth=1, linestyle="--")
axes.scatter(expected, probabilities, s=10, color="#1f5fbf")
axes.set(title="The same rows, scored twice", xlabel="batch probability", ylabel="endpoint's probability")
plt.show()

# COMMAND ----------

# MAGIC %md
# MAGIC ## Rank
# MAGIC One user and 200 items in one request. The batch pipeline scores the same pairs row by row.

# COMMAND ----------

item_features = [name for name, feature in dataset.features.items() if feature.side == "item"]
user = {name: value for name, value in rows[0].items() if name not in item_features}
items: list[dict[str, Any]] = []
if item_features:  # a click log without item columns has nothing to rank
    catalogue = table.select(*item_features).distinct().orderBy(F.xxhash64(*item_features))
    items = [row.asDict() for row in catalogue.limit(200).collect()]
body = {"user": user, "items": [{"id": str(number), **item} for number, item in enumerate(items)]}
ranking = call(body)["ranking"] if items else []
by_batch = batch([user | item for item in items])
ranking_difference = max((abs(entry["probability"] - by_batch[int(entry["id"])]) for entry in ranking), default=0.0)
assert ranking_difference <= TOLERANCE, f"ranking and batch differ by {ranking_difference}"
assert [entry["probability"] for entry in ranking] == sorted((entry["probability"] for entry in ranking), reverse=True)
print(f"{len(ranking)} items ranked; largest difference from the batch probability: {ranking_difference:.1e}")

# COMMAND ----------

figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
axes.plot(sorted(by_batch, reverse=True), color="#9aa3af", linewidth=5, label="batch")
axes.plot([entry["probability"] for entry in ranking], color="#1f5fbf", linewidth=1.5, label="endpoint")
axes.set(title="One user's items, best first", xlabel="place in the ranking", ylabel="click probability")
axes.legend(frameon=False)
plt.show()

# COMMAND ----------

dbutils.notebook.exit(
    json.dumps({"rows": len(rows), "items": len(ranking), "largest_difference": max(difference, ranking_difference)})
)
