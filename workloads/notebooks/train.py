# Databricks notebook source
# MAGIC %md
# MAGIC # Train
# MAGIC A model from a share of the rows with few trees, evaluated as the training job evaluates: to try an idea before
# MAGIC the job trains on all rows. Writes no artefact and does not change the live model.

# COMMAND ----------

# ruff: noqa: F821
# mypy: disable-error-code="name-defined"
import json
import shutil
import uuid
from contextlib import ExitStack
from pathlib import Path

import matplotlib.pyplot as plt

from workloads import session, spec
from workloads.data import split
from workloads.evaluation import evaluation
from workloads.evaluation.metrics import roc
from workloads.features import encode_split
from workloads.tasks import prepare
from workloads.training import baseline, fit, pipeline

spark = session.start()
session.check_for_training(spark)
settings = json.loads(Path("settings.json").read_text())
dbutils.widgets.text("dataset", settings["dataset"])
dbutils.widgets.text("features", settings["features"], "folder of the joined table")
dbutils.widgets.text("artefact", settings["artefact"], "live model to compare with")
dbutils.widgets.text("share", "0.2", "share of the rows")
dbutils.widgets.text("trees", "40")

features, artefact = (Path(dbutils.widgets.get(name)) for name in ("features", "artefact"))
trees = int(dbutils.widgets.get("trees"))
# Without early stopping no validation set is needed.
dataset = spec.load(dbutils.widgets.get("dataset")).with_model(num_iterations=trees, early_stopping_round=0)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Encode and fit
# MAGIC The test set is the last rows by time. The pipeline is saved and loaded again, as in serving, before it is
# MAGIC evaluated.

# COMMAND ----------

prepared = prepare.prepared(features, dataset)
table = spark.read.parquet(str(features)).sample(float(dbutils.widgets.get("share")), seed=dataset.model.seed)
rows = split.by_time(table, prepared, dataset)
scratch = features.parent / f"notebook-{uuid.uuid4().hex}"
try:
    with ExitStack() as cached:
        encoded = cached.enter_context(encode_split.encode_learning_rows(rows, dataset))
        laid_out = cached.enter_context(fit.laid_out(encoded.rows, tasks=0))
        model = fit.fit(laid_out, dataset)
        reloaded = pipeline.save(scratch, dataset, encoded.judged, model, spark)
        rows_train = encoded.rows_train
        baseline_model = baseline.fit(laid_out, rows_train, dataset)
        scored = evaluation.score(rows.test, dataset, model=reloaded, baseline_model=baseline_model)
finally:
    shutil.rmtree(scratch, ignore_errors=True)
print(f"{rows_train:,} training rows, {model.getBoosterNumTotalIterations()} trees, {len(scored.labels):,} test rows")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Evaluate

# COMMAND ----------

metrics = evaluation.metrics_document(scored, live=None, drift={}, prepared=prepared, seed=dataset.model.seed)
live = json.loads((artefact / "metrics.json").read_text())
print(f"{'':24}{'AUC':>8}{'log loss':>10}")
for name, figures in (("this model", metrics), ("logistic regression", metrics["baseline"]), ("live model", live)):
    print(f"{name:24}{figures['auc']:8.4f}{figures['log_loss']:10.4f}")
print(f"{'base rate alone':24}{0.5:8.4f}{metrics['base_log_loss']:10.4f}")

# COMMAND ----------

figure, (ranking, calibration) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for axes in (ranking, calibration):
    axes.plot([0, 1], [0, 1], color="#9aa3af", linewidth=1, linestyle="--")
ranking.plot(*roc(scored.labels, scored.probabilities), color="#1f5fbf", label="this model")
ranking.plot(*roc(scored.labels, scored.baseline), color="#d97706", label="logistic regression")
ranking.set(title="ROC", xlabel="share of non-clicks", ylabel="share of clicks")
ranking.legend(frameon=False)
for name, figures, colour in (("this model", metrics, "#1f5fbf"), ("live model", live, "#9aa3af")):
    tenths = figures["calibration"]
    points = [tenth["mean_probability"] for tenth in tenths], [tenth["rate"] for tenth in tenths]
    calibration.plot(*points, marker="o", color=colour, label=name)
calibration.set(title="Calibration", xlabel="mean probability of a tenth", ylabel="click rate")
calibration.legend(frameon=False)
plt.show()

# COMMAND ----------

gain = dict(zip(map(" ".join, dataset.model_columns), model.getFeatureImportances("gain"), strict=True))
most = sorted(gain.items(), key=lambda item: item[1])[-12:]
figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
axes.barh([name for name, _ in most], [value / (sum(gain.values()) or 1.0) for _, value in most], color="#1f5fbf")
axes.set(title="Importance by gain", xlabel="share of the trees' gain")
plt.show()

# COMMAND ----------

dbutils.notebook.exit(json.dumps({name: metrics[name] for name in ("auc", "log_loss", "rows_test")}))
