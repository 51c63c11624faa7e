"""Fit LightGBM on Spark through SynapseML 1.1.3, with a guard against each of its silent failures.

Takes encoded rows and returns a model whose trees were counted. Does not encode, split or evaluate, and does not
decide which model is served: `tasks/train.py` does, and fits that one on the test rows, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from synapse.ml.lightgbm import LightGBMClassificationModel, LightGBMClassifier

from workloads import session
from workloads.errors import UndefinedError, WorkloadError
from workloads.features.sampling import in_sample
from workloads.spec import Model, Spec
from workloads.training import fit_watchdog, warm_start

VALIDATION_ROWS = 500_000
"""SynapseML collects validation rows on the driver and sends them to every worker. A larger set is sampled down."""

BIN_SAMPLE = 50_000
"""Rows from which the edges of bins are computed: 200 for each of 255 bins. They go to the driver one by one."""


@contextmanager
def laid_out(rows: DataFrame, tasks: int) -> Iterator[DataFrame]:
    """Repartition encoded rows for `fit`: one partition per task, cached, because each pass must see the same rows.

    LightGBM's driver waits for a task without a partition forever. `tasks` 0 means one task per core.
    """
    tasks = tasks or session.cores(rows.sparkSession)[0]
    cached = rows.repartition(tasks).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        cached.count()
        yield cached
    finally:
        cached.unpersist()


def fit(rows: DataFrame, dataset: Spec, earlier_model: str = "") -> LightGBMClassificationModel:
    """Fit the spec's model.

    rows: result of `laid_out` with (label, features) in the order of the spec's model columns. With a column
        `validation` and the spec's `early_stopping_round`, trees after the best one are removed.
    earlier_model: LightGBM's text of an earlier model. Its trees come first; the spec's `num_iterations` are added.

    Raises `WorkloadError` if LightGBM stopped for any reason but early stopping or the number of trees.
    """
    spark, tasks = rows.sparkSession, rows.rdd.getNumPartitions()
    cores, executor_cores = session.cores(spark)
    if tasks > cores:
        raise WorkloadError(
            f"{tasks} tasks cannot run at once on {cores} cores, and LightGBM's tasks wait for one another: "
            f"give at most {cores} tasks"
        )
    classifier = _classifier(dataset, tasks, executor_cores)
    if dataset.model.early_stopping_round and "validation" in rows.columns:
        rows = _limit_validation_rows(rows)
        classifier.setValidationIndicatorCol("validation")
        classifier.setEarlyStoppingRound(dataset.model.early_stopping_round)
    if earlier_model:
        rows = warm_start.with_initial_score(rows, earlier_model, dataset)
        classifier.setInitScoreCol(warm_start.SCORE)
    with fit_watchdog.watch_fit(spark.sparkContext):
        model = classifier.fit(rows)
    check_trees(model.getBoosterNumTotalIterations(), model.getBoosterBestIteration(), dataset.model)
    if earlier_model:
        model = warm_start.join_models(spark, earlier_model, model)
    # -1 scores with all trees. The default is the number recorded in training, one too few after an early stop.
    return model.setNumIterations(-1).setRawPredictionCol("").setPredictionCol("")


@dataclass(frozen=True)
class Fits:
    chosen: LightGBMClassificationModel
    """Fitted on the training set; the validation set chose its number of trees."""
    judged: LightGBMClassificationModel
    """Fitted again, with that number of trees, on the training and the validation set; `chosen` itself if there was
    only one fit."""


def fit_twice(rows: DataFrame, dataset: Spec, earlier_model: str = "", *, continued: bool = False) -> Fits:
    """Fit on the training set, and then again on training and validation set with the number of trees chosen there.

    The test rows are held out, so the validation rows are the newest that the judged model may learn from. Without
    early stopping there is no validation set, and only one fit.

    rows: as for `fit`, with a column `validation`.
    continued: whether a later warm start will add trees to the judged model. There is only one fit then, because that
        warm start stops early on nearly the same validation rows, which this model must not have seen.
    """
    chosen = fit(rows, dataset, earlier_model)
    if continued or not dataset.model.early_stopping_round:
        return Fits(chosen, chosen)
    return Fits(chosen, refit(rows, chosen, dataset, earlier_model))


def refit(
    rows: DataFrame, model: LightGBMClassificationModel, dataset: Spec, earlier_model: str = ""
) -> LightGBMClassificationModel:
    """Fit on all `rows`, without early stopping, as many trees as `model` has."""
    trees = model.getBoosterNumTotalIterations() - warm_start.count_trees(earlier_model)
    return fit(rows, dataset.with_model(num_iterations=trees, early_stopping_round=0), earlier_model)


def check_trees(trees: int, best: int, wanted: Model) -> None:
    """Raise `WorkloadError` if trees are missing.

    SynapseML 1.1.3 catches a native failure and returns a model of the trees built so far (microsoft/SynapseML#2695).
    It sets the index of the last tree to keep, `best`, only if early stopping saw `early_stopping_round` trees without
    an improvement. In every other case `best` is -1 and all trees must be there.
    """
    rounds = wanted.early_stopping_round
    if best >= 0:
        complete = trees == best + 1 and 0 < rounds < wanted.num_iterations - best
    else:
        complete = trees == wanted.num_iterations
    if not complete:
        raise WorkloadError(
            f"LightGBM returned {trees} trees of {wanted.num_iterations}: a worker failed mid-fit, or no split "
            "improves the model. The log of the first failed task has the cause."
        )


def _limit_validation_rows(rows: DataFrame) -> DataFrame:
    """Sample the validation rows down to about `VALIDATION_ROWS`; the choice depends on the rows alone."""
    count = rows.filter("validation").count()
    if not count:
        raise UndefinedError(
            "no rows for early stopping: the validation set is empty. Give more rows, a larger validation_share, or "
            "early_stopping_round: 0"
        )
    share = VALIDATION_ROWS / count
    if share >= 1:
        return rows
    return rows.filter(~F.col("validation") | in_sample(share))


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
        isUnbalance=False,  # True would shift every probability
        numTasks=tasks,
        numThreads=executor_cores,
        maxStreamingOMPThreads=max(16, executor_cores),
        microBatchSize=10_000,
        samplingMode="global",  # the default computes bin edges from about 900 rows of 45 million
        binSampleCount=BIN_SAMPLE,
        matrixType="dense",
        deterministic=True,
        metric="binary_logloss",
        seed=seed,
        # A tenth faster than row by row; letting LightGBM try both is not deterministic.
        passThroughArgs="force_col_wise=true",
    )


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)
