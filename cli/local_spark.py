"""Settings of local Spark like those of the training job's cluster, for evaluations and benchmarks without a stack.

Also checks the prerequisites. Does not start Spark.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from cli import packages, paths
from cli.errors import UserError
from infra.release.training_stage import job
from sandbox import class_archive, java

_OTHERS = ("SPARK_", "PYSPARK_", "HADOOP_", "YARN_")
"""SPARK_HOME, SPARK_CONF_DIR, SPARK_LOCAL_DIRS, SPARK_REMOTE, PYSPARK_PYTHON, PYSPARK_GATEWAY_PORT, HADOOP_CONF_DIR"""


def require_java() -> None:
    """Raise `UserError` if packages of the local run are missing, or no Java runtime is in JAVA_HOME or on PATH."""
    packages.require_local()
    home = os.environ.get("JAVA_HOME")
    if not (home and (Path(home) / "bin" / "java").exists()) and not shutil.which("java"):
        raise UserError(
            "no Java runtime was found: training runs on Spark, which needs Java 17 or 11. `make local` installs one "
            "if JAVA_HOME and PATH have none; or install one and set JAVA_HOME."
        )


def require_no_pattern(folder: Path, remedy: str) -> None:
    """Refuse paths with pattern characters: Spark ML loads a model by a list of patterns (SparkContext.textFile)."""
    if special := next((character for character in str(folder) if character in ",{}[]*?\\"), None):
        raise UserError(f"{folder}: Spark cannot load a model from a path with {special!r} in it. {remedy}")


def settings(scratch: Path, cores: int | None = None, heap: str = "4g") -> dict[str, str]:
    """Return the Spark settings.

    scratch: folder for temporary files of Spark and the JVM. cores: None for all. heap: of the driver.
    """
    temporary = scratch / "java"
    temporary.mkdir(exist_ok=True)  # the JVM does not create it, and fails without it
    return {
        **job.spark_conf(workers=0),
        "spark.master": f"local[{cores or os.cpu_count()}]",
        "spark.driver.memory": heap,
        "spark.jars.packages": job.SYNAPSEML,
        "spark.jars.excludes": ",".join(job.SYNAPSEML_EXCLUSIONS),
        "spark.jars.ivy": str(paths.folder() / "ivy"),
        "spark.driver.defaultJavaOptions": f'{java_options()} "-Djava.io.tmpdir={temporary}"',
        "spark.driver.extraLibraryPath": str(scratch / "native"),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(scratch / "spark"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }


def java_options() -> str:
    """Return the JVM options of the sandbox, with the archive of Spark's classes if it exists."""
    return f"{java.COLLECTOR} {class_archive.use_option()}".strip()


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process whose Spark session has these settings, and none of another Spark."""
    options = [option for name, value in settings.items() for option in ("--conf", f"{name}={value}")]
    submit = shlex.join([*options, "pyspark-shell"])
    own = {"PYSPARK_SUBMIT_ARGS": submit, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    return {**without_others(os.environ), **java.locale(os.environ), **own}


def without_others(environment: Mapping[str, str]) -> dict[str, str]:
    """Remove the variables of another Spark or Hadoop installation: home, settings, Python and running gateway.

    Keeps JAVA_TOOL_OPTIONS, with which a machine configures proxies and certificates of all JVMs.
    """
    return {name: value for name, value in environment.items() if not name.startswith(_OTHERS)}
