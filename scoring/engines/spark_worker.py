"""Worker process of Spark Serving: `spark_worker ARTEFACT JARS PORT MEMORY`, run in a scratch folder.

Answers `{"token": n, "row": {...}}` with `{"token": n, "probability": p}` on a loopback port, one row per request.
Restarts the query when it fails, clears the request history that the source never clears, and exits when its standard
input closes, so that it cannot outlive the service. Does not validate, time out or retry: `spark_serving` does.
"""

import logging
import os
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import synapse.ml.io  # noqa: F401  adds continuousServer() and replyTo() to Spark's readers and writers
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql.functions import col, from_json, lit, struct, to_json, when
from pyspark.sql.streaming import StreamingQuery
from pyspark.sql.types import ArrayType, DataType, DoubleType, LongType, StringType, StructType

from scoring.contract import Contract, read_contract
from scoring.logs import configure, event

PATH = "score"
_ID, _TOKEN, _ROW, _CORRUPT = "__id", "__token", "__row", "__corrupt"
_TYPES: dict[str, DataType] = {
    "integer": DoubleType(),
    "number": DoubleType(),
    "string": StringType(),
    "strings": ArrayType(StringType()),
}
_EARLY_DEATHS = 3
log = logging.getLogger("scoring.spark")


def spark_session(jars: Path, memory: str) -> SparkSession:
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    scratch = Path.cwd()
    java_options = (
        # The JDK's server sends head and body separately; without this a reply waits 40 ms for a delayed ACK.
        "-Dsun.net.httpserver.nodelay=true",
        # The source requests this machine's public address from an external service; a closed proxy blocks that.
        "-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=1",
        f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties')}",
        "-XX:+ExitOnOutOfMemoryError",
    )
    builder = SparkSession.builder.master("local[1]").appName("scoring")
    for name, value in {
        "spark.jars": ",".join(str(jar) for jar in sorted(jars.glob("*.jar"))),
        # SynapseML searches this path before it unpacks another copy of LightGBM's library into a new folder.
        "spark.driver.extraLibraryPath": str(_native_library(jars, scratch / "native")),
        "spark.driver.memory": memory,
        "spark.driver.extraJavaOptions": " ".join(java_options),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(scratch),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def _native_library(jars: Path, folder: Path) -> Path:
    """Unpack LightGBM's library from its jar into `folder`, once for all tasks of the JVM, and return the folder.

    See `loadLibraryByName` in microsoft/SynapseML
    core/src/main/java/com/microsoft/azure/synapse/ml/core/env/NativeLoader.java.
    """
    folder.mkdir(exist_ok=True)
    for jar in jars.glob("*lightgbmlib*.jar"):
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                if name.startswith("com/microsoft/ml/lightgbm/linux/x86_64/") and name.endswith(".so"):
                    (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


class ServingQuery:
    """The streaming query that answers requests, with its restarts and clean-up."""

    def __init__(self, spark: SparkSession, artefact: Path, port: int) -> None:
        self._jvm: Any = spark.sparkContext._jvm
        # Loaded by the JVM: pyspark's loader starts Python workers, and would accept a Python stage.
        model = self._jvm.org.apache.spark.ml.PipelineModel.load(str(artefact / "pipeline"))
        contract = read_contract((artefact / "contract.json").read_bytes())
        requests = (
            spark.readStream.continuousServer()
            .address("127.0.0.1", port, PATH)
            .option("name", PATH)
            # With two partitions, the default, the source's shared encoder mixes up answers.
            .option("numPartitions", 1)
            .load()
        )
        scored = DataFrame(model.transform(_parsed(requests, contract)._jdf), spark)
        self._replies = self._replying(scored)
        self.query = self._start()

    def _replying(self, scored: DataFrame) -> DataFrame:
        understood = col(_TOKEN).isNotNull() & col(_CORRUPT).isNull()
        # Not pyspark.ml.functions: it imports pandas.
        probabilities = self._jvm.org.apache.spark.ml.functions.vector_to_array(col("probability")._jc, "float64")
        answer = to_json(struct(col(_TOKEN).alias("token"), Column(probabilities)[1].alias("probability")))
        text = when(understood, answer).otherwise(lit("not understood"))
        code = when(understood, lit(200)).otherwise(lit(400))
        reply = self._jvm.com.microsoft.azure.synapse.ml.io.http.HTTPSchema.string_to_response(
            text._jc, code._jc, lit("")._jc
        )
        return scored.select(_ID, Column(reply).alias("reply"))

    def _start(self) -> StreamingQuery:
        self._state().cleanUp(PATH)
        return (
            self._replies.writeStream.continuousServer()
            .replyTo(PATH)
            .option("idCol", _ID)
            .option("checkpointLocation", f"checkpoint-{time.time_ns()}")
            # Replies stall at every change of epoch, and this query does not use epochs: make them long.
            .trigger(continuous="60 seconds")
            .start()
        )

    def _state(self) -> Any:
        holder = getattr(self._jvm.org.apache.spark.sql.execution.streaming.continuous, "HTTPSourceStateHolder$")
        return getattr(holder, "MODULE$")

    def _tidy(self) -> None:
        """Undo two side effects of the source: its request history and its listener on all addresses."""
        if not self._state().hasServer(PATH):
            return
        try:
            # The source stores every request for a replay, which continuous mode never does.
            server = self._state().getServer(PATH)
            _private(server, server.getClass(), "historyQueues").clear()
            # It also listens on every address of the machine, for workers on other machines, which do not exist here.
            reader = self.query._jsq.streamingQuery().sources().head()
            _private(reader, reader.getClass().getSuperclass(), "driverService").stop(0)
        except Py4JJavaError as error:
            # Harmless once, if the query failed after the check above. Repeated warnings need a diagnosis.
            event(log, logging.WARNING, "the clean-up failed", error=str(error.java_exception))

    def keep_running(self) -> None:
        """Restart the query whenever it fails. Return after several failures within ten seconds of their start."""
        early_deaths = 0
        while early_deaths < _EARLY_DEATHS:
            started = time.monotonic()
            while self.query.isActive:
                self._tidy()
                time.sleep(1)
            early_deaths = early_deaths + 1 if time.monotonic() - started < 10 else 0
            event(log, logging.ERROR, "the query died; starting it again", early_deaths=early_deaths)
            self.query = self._start()


def _private(owner: Any, declaring_class: Any, name: str) -> Any:
    field = declaring_class.getDeclaredField(name)
    field.setAccessible(True)
    return field.get(owner)


def _parsed(requests: DataFrame, contract: Contract) -> DataFrame:
    row = StructType()
    for feature in contract.features:
        row.add(feature.name, _TYPES[feature.type])
    body = StructType().add("token", LongType()).add("row", row).add(_CORRUPT, StringType())
    content = col("request.entity.content").cast("string")
    options = {"columnNameOfCorruptRecord": _CORRUPT}
    return requests.select(col("id").alias(_ID), from_json(content, body, options).alias("body")).select(
        _ID, col("body.token").alias(_TOKEN), col(f"body.{_CORRUPT}").alias(_CORRUPT), "body.row.*"
    )


def _end_with_front() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def main(artefact: str, jars: str, port: str, memory: str) -> int:
    configure()
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_front, daemon=True).start()
    serving = ServingQuery(spark_session(Path(jars), memory), Path(artefact), int(port))
    try:
        serving.keep_running()
    except (Py4JError, OSError) as error:
        event(log, logging.ERROR, "the JVM has ended", error=type(error).__name__)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
