"""Spark on this machine, set as the training job's cluster sets it: for what is judged or measured without a stack.

Gives settings and says what is missing, and starts nothing.
"""

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from infra.release import job
from operations import cache
from operations.errors import UserError
from sandbox import class_archive, java


def require_java() -> None:
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
    """Of all `cores` if not given; `scratch` is a folder for what Spark spills."""
    return {
        **job.spark_conf(workers=0),
        "spark.master": f"local[{cores or os.cpu_count()}]",
        "spark.driver.memory": heap,
        "spark.jars.packages": job.SYNAPSEML,
        "spark.jars.excludes": ",".join(job.SYNAPSEML_EXCLUSIONS),
        "spark.jars.ivy": str(cache.folder() / "ivy"),
        "spark.driver.defaultJavaOptions": java_options(),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(scratch / "spark"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }


def java_options() -> str:
    """As in the sandbox, with Spark's classes where they are kept."""
    return f"{java.COLLECTOR} {class_archive.option()}".strip()


def environment(of: Mapping[str, str]) -> dict[str, str]:
    """Of a process whose Spark session is to have these settings."""
    options = [option for name, value in of.items() for option in ("--conf", f"{name}={value}")]
    submit = shlex.join([*options, "pyspark-shell"])
    return {**os.environ, **java.locale(os.environ), "PYSPARK_SUBMIT_ARGS": submit, "SPARK_LOCAL_IP": "127.0.0.1"}
