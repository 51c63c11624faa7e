"""The Spark session that the platform gives, and the settings under which distributed LightGBM may run on it.

Never brings jars or sizes the cluster: the job definition does. Refuses settings instead of changing them, because
a job whose definition allows them would break in the next place that does not look.
"""

from typing import Any

from pyspark.sql import SparkSession

from workloads.errors import WorkloadError
from workloads.training import native_library

# A task list that changes mid-fit breaks LightGBM's ring (microsoft/SynapseML#319, #1836), and adaptive execution
# changes the partitions under its row counts (#2278).
_MUST_BE_OFF = {
    "spark.sql.adaptive.enabled": "true",
    "spark.speculation": "false",
    "spark.dynamicAllocation.enabled": "false",
}
# A worker that waits for a lost one in LightGBM's native code hears of nothing: only the end of its process frees its
# cores for the next fit.
_REAPER = {"spark.task.reaper.enabled": ("true", "false"), "spark.task.reaper.killTimeout": ("20s", "-1")}

_NAMES = (
    "Column",
    "PythonUtils",
    "SparkSession",
    "SparkSession$",
    "functions",
    "com.fasterxml.jackson.databind.ObjectMapper",
    "com.microsoft.azure.synapse.ml.core.serialize.ComplexParam",
    "com.microsoft.azure.synapse.ml.param.ServiceParam",
    "java.nio.ByteBuffer",
    "java.util.HashMap",
    "org.apache.spark.ml.feature.Word2VecModel",
    "org.apache.spark.ml.functions",
    "org.apache.spark.mllib.feature.Word2VecModel",
    "org.apache.spark.sql.catalyst.expressions.UnresolvedNamedLambdaVariable",
)
"""What PySpark, SynapseML and the workload name most often: a few thousand times in a training."""


def start() -> SparkSession:
    spark = SparkSession.builder.getOrCreate()
    # Above this many folders Spark lists them in a job of its own, one task a folder: slow for a table of days.
    spark.conf.set("spark.sql.sources.parallelPartitionDiscovery.threshold", "1000")
    for name in _NAMES:
        _remember(spark._jvm, name)
    native_library.unpack(spark, executors=not _one_process(spark))
    return spark


def _remember(jvm: Any, name: str) -> None:
    """Python asks the JVM at every use of a name what it is, and the JVM then looks for such a class in all jars."""
    for part in name.split("."):
        found = getattr(jvm, part)
        setattr(jvm, part, found)
        jvm = found


def check_for_training(spark: SparkSession) -> None:
    for setting, default in _MUST_BE_OFF.items():
        if str(spark.conf.get(setting, default)).lower() != "false":
            raise WorkloadError(
                f"{setting} is on: LightGBM's workers cannot gain, lose or repeat a task mid-fit. "
                f"Set {setting} to false in the job's Spark configuration."
            )
    for setting, (wanted, default) in _REAPER.items():
        if not _one_process(spark) and str(spark.conf.get(setting, default)).lower() in ("false", "-1"):
            raise WorkloadError(
                f"{setting} is off: were a worker lost mid-fit, the others would wait for it and keep their cores. "
                f"Set {setting} to {wanted} in the job's Spark configuration."
            )
    # Without the jar, py4j takes the class name for a package and fails only when the model is made.
    if type(spark._jvm.com.microsoft.azure.synapse.ml.lightgbm.LightGBMClassifier).__name__ == "JavaPackage":
        raise WorkloadError(
            "SynapseML is not on the cluster: add the Maven library com.microsoft.azure:synapseml-lightgbm to the job."
        )


def cores(spark: SparkSession) -> tuple[int, int]:
    """(of all executors, of one executor). In local mode the driver is the one executor."""
    context = spark.sparkContext
    executors = max(1, len(context._jsc.sc().statusTracker().getExecutorInfos()) - 1)
    return context.defaultParallelism, max(1, context.defaultParallelism // executors)


def _one_process(spark: SparkSession) -> bool:
    return spark.sparkContext.master.partition("[")[0] == "local"


def lightgbmlib_version(spark: SparkSession) -> str:
    """Of the native library, from the name of its jar; SynapseML says it nowhere else."""
    jars = spark.sparkContext._jsc.sc().listJars().mkString("\n").splitlines()
    found = [jar.rsplit("lightgbmlib-", 1)[1].removesuffix(".jar") for jar in jars if "lightgbmlib-" in jar]
    return found[0] if found else "unknown"
