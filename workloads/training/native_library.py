"""Unpack LightGBM's native library once per JVM, into the folder in which the JVM looks for it.

SynapseML loads the library at every fit and in every task. It searches `java.library.path` first; if the library is not
there, it unpacks 7 MB into a new folder `mml-natives…` of the temporary directory and maps another copy
(`loadLibraryByName` in microsoft/SynapseML
core/src/main/java/com/microsoft/azure/synapse/ml/core/env/NativeLoader.java). These folders are deleted only when the
JVM exits normally, and an hour of cross-validation creates a thousand.

The job's settings name the folder: `spark.driver.extraLibraryPath`, and for executors their working directory, into
which they copy the files of `SparkContext.addFile` (`SparkFiles.getRootDirectory` in apache/spark
core/src/main/scala/org/apache/spark/SparkFiles.scala). On a platform that ignores these settings SynapseML unpacks as
before.
"""

from typing import Any

from pyspark.sql import SparkSession

FOLDER = "spark.driver.extraLibraryPath"
_RESOURCES = "com/microsoft/ml/lightgbm/linux/x86_64"
_NAMES = ("lib_lightgbm.so", "lib_lightgbm_swig.so")


def unpack(spark: SparkSession, *, executors: bool) -> None:
    """Unpack the library for the driver and, with `executors`, copy it to each executor.

    Does nothing without SynapseML on the class path or without the setting `FOLDER`.
    """
    folder = spark.sparkContext.getConf().get(FOLDER)
    if not folder:
        return
    for name in _NAMES:
        path = _unpacked(spark, folder, name)
        if path and executors:
            spark.sparkContext.addFile(path)


def _unpacked(spark: SparkSession, folder: str, name: str) -> str:
    """Return the path of the unpacked file; empty without SynapseML.

    The JVM writes the file, because a relative folder is relative to the JVM's working directory.
    """
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
