"""LightGBM on Spark through SynapseML 1.1.3, with a guard for each way in which it goes wrong in silence.

Takes encoded rows and returns a model whose trees were counted. Does not encode, split or judge.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from synapse.ml.lightgbm import LightGBMClassificationModel, LightGBMClassifier

from workloads import session
from workloads.errors import UndefinedError, WorkloadError
from workloads.spec import Model, Spec
from workloads.training import fit_watchdog, warm_start

VALIDATION_ROWS = 500_000
"""SynapseML collects validation rows to the driver and sends them to every worker; of more, a sample is taken."""

BIN_SAMPLE = 50_000
"""Rows that the bins' edges are drawn from: 200 to each of 255 bins. They go to the driver, row by row."""


@contextmanager
def laid_out(rows: DataFrame, tasks: int) -> Iterator[DataFrame]:
    """Encoded rows as `fit` wants them: one partition a task, and kept, because each pass must see the same rows.

    The driver waits for ever for a task without a partition. 0 tasks means one for each core.
    """
    tasks = tasks or session.cores(rows.sparkSession)[0]
    kept = rows.repartition(tasks).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        kept.count()
        yield kept
    finally:
        kept.unpersist()


def fit(rows: DataFrame, dataset: Spec, earlier_model: str = "") -> LightGBMClassificationModel:
    """`rows` is laid out and holds (label, features), features in the order of the spec's model columns.

    With a column `validation` and the spec's `early_stopping_round`, the trees after the best are not part of the
    model. `earlier_model` is the text of an earlier model: its trees come first, the spec's number of trees on top.
    Raises `WorkloadError` when LightGBM stopped for any other reason than those it was given.
    """
    spark, tasks = rows.sparkSession, rows.rdd.getNumPartitions()
    cores, executor_cores = session.cores(spark)
    if tasks > cores:
        raise WorkloadError(
            f"{tasks} tasks cannot run at once on {cores} cores, and LightGBM's wait for one another: "
            f"give at most {cores} tasks"
        )
    classifier = _classifier(dataset, tasks, executor_cores)
    if dataset.model.early_stopping_round and "validation" in rows.columns:
        rows = _bounded(rows)
        classifier.setValidationIndicatorCol("validation")
        classifier.setEarlyStoppingRound(dataset.model.early_stopping_round)
    if earlier_model:
        rows = warm_start.scored(rows, earlier_model, dataset)
        classifier.setInitScoreCol(warm_start.SCORE)
    with fit_watchdog.over_fit(spark.sparkContext):
        model = classifier.fit(rows)
    check_trees(model.getBoosterNumTotalIterations(), model.getBoosterBestIteration(), dataset.model)
    if earlier_model:
        model = warm_start.joined(spark, earlier_model, model)
    # Otherwise scoring takes the number that training noted, which after an early stop is one tree too few.
    return model.setNumIterations(-1).setRawPredictionCol("").setPredictionCol("")


def check_trees(trees: int, best: int, wanted: Model) -> None:
    """1.1.3 catches a native failure and builds a model of the trees it has (microsoft/SynapseML#2695).

    It notes the place of the last tree it keeps, `best`, only where early stopping found so many trees after it that
    were no better; in every other case `best` is -1 and all trees must be there.
    """
    patience = wanted.early_stopping_round
    if best >= 0:
        whole = trees == best + 1 and 0 < patience < wanted.num_iterations - best
    else:
        whole = trees == wanted.num_iterations
    if not whole:
        raise WorkloadError(
            f"LightGBM returned {trees} trees of {wanted.num_iterations}: a worker failed mid-fit, or no split "
            "improves the model. The log of the first failed task says which."
        )


def _bounded(rows: DataFrame) -> DataFrame:
    """No more than about `VALIDATION_ROWS` to validate with; which ones depends on the rows alone."""
    found = rows.filter("validation").count()
    if not found:
        raise UndefinedError(
            "no rows for early stopping: the validation part by time is empty. Give more rows, a larger "
            "validation_share, or early_stopping_round: 0"
        )
    share = VALIDATION_ROWS / found
    if share >= 1:
        return rows
    return rows.filter(~F.col("validation") | drawn(share))


def drawn(share: float) -> Column:
    """Whether an encoded row is of a share of all: by its content, so the same ones whatever the partitions."""
    return F.pmod(F.xxhash64("features"), F.lit(1_000_000)) < round(1_000_000 * min(1.0, share))


def _classifier(dataset: Spec, tasks: int, executor_cores: int) -> LightGBMClassifier:
    parameters = dataset.model.parameters
    seed = parameters.pop("seed")
    return LightGBMClassifier(
        objective="binary",
        labelCol="label",
        featuresCol="features",
        slotNames=dataset.slot_names,
        **{_camel(name): value for name, value in parameters.items()},
        baggingFreq=int(parameters["bagging_fraction"] < 1),
        isUnbalance=False,  # it would shift every probability
        numTasks=tasks,
        numThreads=executor_cores,
        maxStreamingOMPThreads=max(16, executor_cores),
        microBatchSize=10_000,
        samplingMode="global",  # the default draws bin edges from about 900 rows of 45 million
        binSampleCount=BIN_SAMPLE,
        matrixType="dense",
        deterministic=True,
        metric="binary_logloss",
        seed=seed,
        passThroughArgs="force_col_wise=true",  # a tenth quicker than row by row; to try out which is not deterministic
    )


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)
