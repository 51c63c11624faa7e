"""Copy the jars of SynapseML's LightGBM module to a folder, at build time: `spark_jars FOLDER IVY_CACHE`.

Spark's resolver selects them, as on Databricks; no Spark session is started. Nothing is resolved at run time.
"""

import shutil
import sys
from pathlib import Path

from pyspark import SparkConf
from pyspark.java_gateway import launch_gateway

COORDINATE = "com.microsoft.azure:synapseml-lightgbm_2.12:1.1.3"
# Already part of Spark, or test libraries; SynapseML's README lists these exclusions.
EXCLUDES = (
    "org.scala-lang:scala-reflect",
    "org.apache.spark:spark-tags_2.12",
    "org.scalactic:scalactic_2.12",
    "org.scalatest:scalatest_2.12",
    "com.fasterxml.jackson.core:jackson-databind",
)


def main(folder: Path, ivy_cache: Path) -> None:
    conf = SparkConf(loadDefaults=False)
    conf.set("spark.jars.packages", COORDINATE).set("spark.jars.excludes", ",".join(EXCLUDES))
    conf.set("spark.jars.ivy", str(ivy_cache))
    gateway = launch_gateway(conf)
    jars = gateway.jvm.java.lang.System.getProperty("spark.jars")
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for jar in jars.split(","):
        shutil.copy(jar.removeprefix("file://"), partial)
    partial.rename(folder)
    gateway.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
