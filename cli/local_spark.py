"""Spark on this machine, set as the training job's cluster sets it: for what is judged or measured without a stack.

Gives settings and says what is missing, and starts nothing.
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
    packages.require_local()
    home = os.environ.get("JAVA_HOME")
    if not (home and (Path(home) / "bin" / "java").exists()) and not shutil.which("java"):
        raise UserError(
            "no Java is here: training runs on Spark, which needs a Java 17 or 11 runtime. `make local` brings one "
            "where JAVA_HOME and PATH have none; or install one and set JAVA_HOME."
        )


def require_no_pattern(folder: Path, remedy: str) -> None:
    """Spark ML loads a saved model by a list of patterns (SparkContext.textFile), and so does not find it there."""
    if found := next((character for character in str(folder) if character in ",{}[]*?\\"), None):
        raise UserError(f"{folder}: Spark cannot load a model from a path with {found!r} in it. {remedy}")


def settings(scratch: Path, cores: int | None = None, heap: str = "4g") -> dict[str, str]:
    """Settings for all `cores` if not given; `scratch` is a folder for Spark's and the JVM's temporary files."""
    temporary = scratch / "java"
    temporary.mkdir(exist_ok=True)  # where there is none, the JVM cannot make a temporary file
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
    """As in the sandbox, with Spark's classes where they are kept."""
    return f"{java.COLLECTOR} {class_archive.use_option()}".strip()


def environment(of: Mapping[str, str]) -> dict[str, str]:
    """Variables of a process whose Spark session is to have these settings, and those of no other Spark."""
    options = [option for name, value in of.items() for option in ("--conf", f"{name}={value}")]
    submit = shlex.join([*options, "pyspark-shell"])
    own = {"PYSPARK_SUBMIT_ARGS": submit, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    return {**without_others(os.environ), **java.locale(os.environ), **own}


def without_others(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out the variables of another Spark or Hadoop: its home, its settings, its Python, its running gateway.

    JAVA_TOOL_OPTIONS stays: it is how a machine gives every JVM its proxy and its certificates.
    """
    return {name: value for name, value in environment.items() if not name.startswith(_OTHERS)}
