"""LightGBM's native library, unpacked once for each JVM, where the JVM looks for it.

SynapseML loads it at every fit and in every task. It asks `java.library.path` first; where that has none it unpacks
7 MB into a new folder `mml-natives…` of the temporary directory and maps another copy (`loadLibraryByName` in
microsoft/SynapseML core/src/main/java/com/microsoft/azure/synapse/ml/core/env/NativeLoader.java). Those folders go
only when the JVM ends by itself, and an hour of cross-validation makes a thousand.

The job's settings name the folder: `spark.driver.extraLibraryPath`, and for executors their working directory, which
is where they put the files of `SparkContext.addFile` (`SparkFiles.getRootDirectory` in apache/spark
core/src/main/scala/org/apache/spark/SparkFiles.scala). A platform that honours neither behaves as before.
"""

from typing import Any

from pyspark.sql import SparkSession

FOLDER = "spark.driver.extraLibraryPath"
_RESOURCES = "com/microsoft/ml/lightgbm/linux/x86_64"
_NAMES = ("lib_lightgbm.so", "lib_lightgbm_swig.so")


def unpack(spark: SparkSession, *, executors: bool) -> None:
    """Into the driver's folder, and from there into that of each executor. Without SynapseML or a folder: nothing."""
    folder = spark.sparkContext.getConf().get(FOLDER)
    if not folder:
        return
    for name in _NAMES:
        path = _unpacked(spark, folder, name)
        if path and executors:
            spark.sparkContext.addFile(path)


def _unpacked(spark: SparkSession, folder: str, name: str) -> str:
    """Path of the file. The JVM writes it, because a relative folder is relative to its working directory."""
    gateway: Any = spark.sparkContext._gateway
    java = gateway.jvm.java
    file = java.io.File(folder, name).getAbsoluteFile()
    if not file.exists():
        resource = java.lang.Thread.currentThread().getContextClassLoader().getResourceAsStream(f"{_RESOURCES}/{name}")
        if resource is None:
            return ""
        file.getParentFile().mkdirs()
        partial = java.io.File.createTempFile(name, None, file.getParentFile())
        options = gateway.new_array(gateway.jvm.java.nio.file.CopyOption, 1)
        options[0] = java.nio.file.StandardCopyOption.REPLACE_EXISTING
        java.nio.file.Files.copy(resource, partial.toPath(), options)
        resource.close()
        java.nio.file.Files.move(partial.toPath(), file.toPath(), options)
    return str(file.getPath())
