"""LightGBM on Spark through SynapseML 1.1.3, with a guard for each way in which it goes wrong in silence.

Takes encoded rows and returns a model whose trees were counted. Does not encode, split or judge.
"""

from dataclasses import asdict

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from synapse.ml.lightgbm import LightGBMClassificationModel, LightGBMClassifier

from workloads import session
from workloads.errors import WorkloadError
from workloads.spec import Spec


def fit(rows: DataFrame, dataset: Spec, tasks: int) -> LightGBMClassificationModel:
    """`rows` holds (label, features) in the order of the spec's model columns; 0 tasks means one for each core."""
    all_cores, executor_cores = session.cores(rows.sparkSession)
    tasks = tasks or all_cores
    # The driver waits for ever for a task without a partition. Kept, because each pass must see the same rows.
    rows = rows.repartition(tasks).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        model = _classifier(dataset, tasks, executor_cores).fit(rows)
    finally:
        rows.unpersist()
    check_trees(model.getBoosterNumTotalIterations(), dataset.model.num_iterations)
    # Otherwise scoring takes the number that training noted, which after an early stop is one tree too few.
    return model.setNumIterations(-1).setRawPredictionCol("").setPredictionCol("")


def check_trees(trees: int, wanted: int) -> None:
    """1.1.3 catches a native failure and builds a model of the trees it has (microsoft/SynapseML#2695)."""
    if trees != wanted:
        raise WorkloadError(
            f"LightGBM returned {trees} trees of {wanted}: a worker failed mid-fit, or no split improves the model. "
            "The log of the first failed task says which."
        )


def _classifier(dataset: Spec, tasks: int, executor_cores: int) -> LightGBMClassifier:
    parameters = asdict(dataset.model)
    seed = parameters.pop("seed")
    return LightGBMClassifier(
        objective="binary",
        labelCol="label",
        featuresCol="features",
        slotNames=[f"{feature}_{value}" for feature, value in dataset.model_columns],
        **{_camel(name): value for name, value in parameters.items()},
        baggingFreq=int(parameters["bagging_fraction"] < 1),
        isUnbalance=False,  # it would shift every probability
        numTasks=tasks,
        numThreads=executor_cores,
        maxStreamingOMPThreads=max(16, executor_cores),
        microBatchSize=10_000,
        samplingMode="global",  # the default draws bin edges from about 900 rows of 45 million
        matrixType="dense",
        deterministic=True,
        seed=seed,
        passThroughArgs="force_row_wise=true",
    )


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)
