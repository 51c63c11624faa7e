"""The platform's Spark session, and the checks of settings that distributed LightGBM depends on.

Does not add jars or size the cluster: the job definition does. Refuses wrong settings instead of changing them, so
that the job definition is corrected.
"""

from typing import Any

from pyspark.sql import SparkSession

from workloads.errors import WorkloadError
from workloads.training import native_library

# LightGBM's ring breaks if the set of tasks changes during a fit (microsoft/SynapseML#319, #1836). Adaptive execution
# changes partitions after SynapseML counted their rows (#2278).
_MUST_BE_OFF = {
    "spark.sql.adaptive.enabled": "true",
    "spark.speculation": "false",
    "spark.dynamicAllocation.enabled": "false",
}
# A worker that waits in LightGBM's native code for a lost worker cannot be interrupted: only killing its process frees
# its cores for the next fit.
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
"""JVM names that PySpark, SynapseML and the workload use most often: a few thousand times in a training run."""


def start() -> SparkSession:
    spark = SparkSession.builder.getOrCreate()
    # Above this number of folders Spark lists them in a separate job, one task per folder: slow for a table by day.
    spark.conf.set("spark.sql.sources.parallelPartitionDiscovery.threshold", "1000")
    for name in _NAMES:
        _cache_jvm_name(spark._jvm, name)
    native_library.unpack(spark, executors=not _one_process(spark))
    return spark


def _cache_jvm_name(jvm: Any, name: str) -> None:
    """Store the resolved name. Otherwise py4j resolves it at every use, and the JVM searches all jars for the class."""
    for part in name.split("."):
        member = getattr(jvm, part)
        setattr(jvm, part, member)
        jvm = member


def check_for_training(spark: SparkSession) -> None:
    """Raise `WorkloadError` if a setting would break a fit, or SynapseML is missing."""
    for setting, default in _MUST_BE_OFF.items():
        if str(spark.conf.get(setting, default)).lower() != "false":
            raise WorkloadError(
                f"{setting} is on: LightGBM's workers cannot gain, lose or repeat a task mid-fit. "
                f"Set {setting} to false in the job's Spark configuration."
            )
    for setting, (wanted, default) in _REAPER.items():
        if not _one_process(spark) and str(spark.conf.get(setting, default)).lower() in ("false", "-1"):
            raise WorkloadError(
                f"{setting} is off: if a worker were lost mid-fit, the others would wait for it and keep their cores. "
                f"Set {setting} to {wanted} in the job's Spark configuration."
            )
    # Without the jar, py4j takes the class name for a package and fails only when the model is created.
    if type(spark._jvm.com.microsoft.azure.synapse.ml.lightgbm.LightGBMClassifier).__name__ == "JavaPackage":
        raise WorkloadError(
            "SynapseML is not on the cluster: add the Maven library com.microsoft.azure:synapseml-lightgbm to the job."
        )


def cores(spark: SparkSession) -> tuple[int, int]:
    """Return the cores of all executors and of one executor. In local mode the driver is the only executor."""
    context = spark.sparkContext
    executors = max(1, len(context._jsc.sc().statusTracker().getExecutorInfos()) - 1)
    return context.defaultParallelism, max(1, context.defaultParallelism // executors)


def _one_process(spark: SparkSession) -> bool:
    return spark.sparkContext.master.partition("[")[0] == "local"


def lightgbmlib_version(spark: SparkSession) -> str:
    """Return the version of the native library: it is only in the name of its jar."""
    jars = spark.sparkContext._jsc.sc().listJars().mkString("\n").splitlines()
    versions = [jar.rsplit("lightgbmlib-", 1)[1].removesuffix(".jar") for jar in jars if "lightgbmlib-" in jar]
    return versions[0] if versions else "unknown"
