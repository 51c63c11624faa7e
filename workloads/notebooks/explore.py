# Databricks notebook source
# MAGIC %md
# MAGIC # Explore
# MAGIC The joined table that training reads, and its encoded columns: rows and clicks by day, the number of levels of
# MAGIC each encoding, and the AUC of each column of the model by itself. Changes nothing.

# COMMAND ----------

# ruff: noqa: F821
# mypy: disable-error-code="name-defined"
import dataclasses
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from pyspark.sql import functions as F

from workloads import session, spec
from workloads.data import split
from workloads.evaluation import metrics
from workloads.features import encode_split
from workloads.tasks import prepare
from workloads.training import spark_ml_io

spark = session.start()
settings = json.loads(Path("settings.json").read_text())
dbutils.widgets.text("dataset", settings["dataset"])
dbutils.widgets.text("features", settings["features"], "folder of the joined table")
dbutils.widgets.text("share", "0.2", "share of the rows to encode here")

dataset = spec.load(dbutils.widgets.get("dataset"))
features = Path(dbutils.widgets.get("features"))
print(dataset.title, "·", dataset.terms)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The joined table
# MAGIC One row for each interaction, with the columns of its user and its item. `label` is the click.

# COMMAND ----------

prepared = prepare.prepared(features, dataset)
table = spark.read.parquet(str(features))
table.printSchema()
print(f"{prepared['rows']:,} rows, {prepared['clicks']:,} clicks, {prepared['orphans']:,} without a user or an item")
for name, report in prepared["tables"].items():
    print(f"{name}: {report['rows']:,} lines read, {report['rejected']:,} rejected")

# COMMAND ----------

days = table.groupBy("day").agg(F.count("*").alias("rows"), F.avg("label").alias("rate")).orderBy("day").collect()
figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 4), layout="constrained")
above.bar(range(len(days)), [day.rows for day in days], width=1.0, color="#1f5fbf")
above.set(ylabel="rows", title="Rows and click rate by day")
below.plot([day.rate for day in days], color="#1f5fbf")
below.set(ylabel="click rate", ylim=(0, 1), xlabel="days from the first to the last")
plt.show()

# COMMAND ----------

# MAGIC %md
# MAGIC ## The encoded features
# MAGIC Target encoding: a level becomes its smoothed click rate, less that of all rows, and the log of its count; each
# MAGIC row is encoded from earlier rows. A share of the training rows is encoded here, by the code of the training job.

# COMMAND ----------

share = float(dbutils.widgets.get("share"))
whole = split.by_time(table, prepared, dataset)
sampled = dataclasses.replace(whole, learning=whole.learning.sample(share, seed=dataset.model.seed))
with encode_split.encode_learning_rows(sampled, dataset) as encoded:
    level_counts = [len(table.levels) for table in encoded.judged.values()]
    vector = spark_ml_io.vector_to_array("features").alias("vector")
    rows = encoded.rows.select("label", vector).sample(min(1.0, 20_000 / (share * prepared["rows"])), seed=1).toPandas()
labels, values = rows["label"].to_numpy(), np.stack(rows["vector"].to_numpy())
print(f"{len(rows):,} encoded rows, {values.shape[1]} columns of the model")

# COMMAND ----------

figure, axes = plt.subplots(figsize=(8, 0.28 * len(dataset.encodings) + 1.2), layout="constrained")
axes.barh([" and ".join(features) for features in dataset.encodings.values()], level_counts)
axes.set(xscale="log", xlabel="levels kept", title="Levels of each feature and each cross")
axes.invert_yaxis()
plt.show()

# COMMAND ----------

# MAGIC %md
# MAGIC AUC of each column alone on these rows. 0.5 means no information; below 0.5, higher values mean fewer clicks.

# COMMAND ----------

column_auc = [metrics.auc(labels, np.nan_to_num(column, nan=np.nanmean(column))) or 0.5 for column in values.T]
order = np.argsort(column_auc)[::-1]
figure, axes = plt.subplots(figsize=(8, 0.22 * len(order) + 1.2), layout="constrained")
axes.barh([" ".join(dataset.model_columns[i]) for i in order], [column_auc[i] - 0.5 for i in order], left=0.5)
axes.set(xlabel="AUC", title="Each column of the model by itself")
axes.invert_yaxis()
plt.show()
