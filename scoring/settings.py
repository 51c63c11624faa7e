"""Settings of the service, read once from the environment. An error names the variable, its value and the rule.

Every variable is declared once, with its default, its rule and its meaning; `docs/reference/scoring-environment.md` is
generated from `VARIABLES`. Does not read JAVA_HOME: the Spark engine does, to find Java.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

Value = TypeVar("Value", int, float)


class SettingsError(ValueError):
    """An environment variable that a person must correct."""


@dataclass(frozen=True)
class Limits:
    """Limits on the contents of one request."""

    rows: int = 1000
    string: int = 1000
    """Characters of a string."""
    strings: int = 100
    """Strings in one list, and combinations of the lists that a cross joins."""


@dataclass(frozen=True)
class Text:
    """An environment variable that is text. An empty value counts as not set."""

    name: str
    default: str | None
    """None where the variable must be set."""
    pattern: str
    rule: str
    """The pattern in words."""
    meaning: str

    def read(self, environment: Mapping[str, str]) -> str:
        """Return its value. Raises `SettingsError` for one that does not match the pattern."""
        value = environment.get(self.name) or self.default
        if value is None or not re.fullmatch(self.pattern, value):
            raise SettingsError(f"{self.name}={'' if value is None else value}: expected {self.rule}")
        return value


@dataclass(frozen=True)
class Number(Generic[Value]):
    """An environment variable that is a number of its default's type. An empty value counts as not set."""

    name: str
    default: Value
    low: Value
    high: Value
    meaning: str

    @property
    def rule(self) -> str:
        kind = "an integer" if isinstance(self.default, int) else "a number"
        return f"{kind} from {self.low} to {self.high}"

    def read(self, environment: Mapping[str, str]) -> Value:
        """Return its value. Raises `SettingsError` for one that is not a number within the bounds."""
        value = environment.get(self.name) or str(self.default)
        try:
            parsed = type(self.default)(value)
        except ValueError:
            parsed = None
        if parsed is None or not self.low <= parsed <= self.high:
            raise SettingsError(f"{self.name}={value}: expected {self.rule}")
        return parsed


_NAME = (r"[\w.-]+", "letters, digits, - _ and .")
MODEL_DIR = Text(
    "AZUREML_MODEL_DIR",
    None,
    r".+",
    "the folder that holds the model artefact",
    "Folder of the model. Azure ML sets it.",
)
MODEL_NAME = Text("MODEL_NAME", "model", *_NAME, "Name of the model, first part of `model` in every answer.")
MODEL_VERSION = Text("MODEL_VERSION", "0", *_NAME, "Version of the model, second part of `model` in every answer.")
ENGINE = Text("SCORING_ENGINE", "native", r"native|spark", "native or spark", "Scoring engine. The image sets it.")
HOST = Text(
    "SCORING_HOST",
    "127.0.0.1",
    r"\S+",
    "an address to listen on",
    "Address to listen on. The image sets 0.0.0.0: all addresses.",
)
PORT = Number("SCORING_PORT", 5001, 1, 65535, "Port to listen on.")
MAX_ROWS = Number(
    "SCORING_MAX_ROWS", Limits.rows, 1, 100_000, "Most rows, or items to rank, in a request. More: status 413."
)
MAX_STRING = Number(
    "SCORING_MAX_STRING", Limits.string, 1, 1_000_000, "Most characters of a string in a request. More: status 400."
)
MAX_STRINGS = Number(
    "SCORING_MAX_STRINGS",
    Limits.strings,
    1,
    100_000,
    "Most strings in one list, and most combinations of the lists that a cross joins. More: status 400.",
)
MAX_BYTES = Number(
    "SCORING_MAX_BYTES",
    2 * 1024 * 1024,
    1024,
    256 * 1024 * 1024,
    "Most bytes of a request's body, before and after decompression. More: status 413.",
)
MAX_CONNECTIONS = Number(
    "SCORING_MAX_CONNECTIONS",
    512,
    1,
    100_000,
    "Most open connections. A new one above it replaces the connection that has been idle longest. If none is idle, "
    "its requests get status 503, except those to /live and /ready.",
)
MAX_IN_FLIGHT = Number(
    "SCORING_MAX_IN_FLIGHT",
    64,
    1,
    10_000,
    "Most requests at once: those whose body is being read, and those that the engine works on. More: status 503.",
)
QUEUE_SECONDS = Number(
    "SCORING_QUEUE_SECONDS",
    0.02,
    0.001,
    60.0,
    "Longest wait of a request for its turn, in seconds. A request that waited longer gets status 503, unless few "
    "requests are ahead of it.",
)
HEAD_SECONDS = Number(
    "SCORING_HEAD_SECONDS",
    5.0,
    0.1,
    300.0,
    "Time for a request's head to arrive, in seconds, from its first byte or from the opening of the connection. "
    "Later: status 408.",
)
BODY_SECONDS = Number(
    "SCORING_BODY_SECONDS", 5.0, 0.1, 300.0, "Time for a request's body to arrive, in seconds. Later: status 408."
)
ANSWER_SECONDS = Number(
    "SCORING_ANSWER_SECONDS",
    10.0,
    0.1,
    300.0,
    "Time to make an answer, in seconds, and as long again for the client to receive it. Later: the connection is "
    "closed.",
)
WARM_UP_SECONDS = Number(
    "SCORING_WARM_UP_SECONDS",
    900.0,
    1.0,
    7200.0,
    "Time for the engine to start and to reproduce the golden rows, in seconds. Later: the service exits with code 1.",
)
DRAIN_SECONDS = Number(
    "SCORING_DRAIN_SECONDS",
    0.0,
    0.0,
    300.0,
    "Seconds after SIGTERM in which the service still answers but /ready returns 503, so that load balancers stop "
    "sending requests. The image sets 5.",
)
STOP_SECONDS = Number(
    "SCORING_STOP_SECONDS", 10, 1, 300, "Time for the requests in flight to finish when the service stops, in seconds."
)
SPARK_JARS = Text(
    "SCORING_SPARK_JARS",
    "jars",
    r".+",
    "the folder of the SynapseML jars",
    "Folder of the SynapseML jars, for the engine spark. The image sets it.",
)
SPARK_MEMORY = Text(
    "SCORING_SPARK_MEMORY",
    "1g",
    r"[1-9]\d*[mg]",
    "a heap size such as 1g or 1500m",
    "Heap of the JVM, for the engine spark.",
)
SPARK_CONNECTIONS = Number(
    "SCORING_SPARK_CONNECTIONS", 8, 1, 64, "Rows that Spark Serving works on at once, for the engine spark."
)
SPARK_ROW_SECONDS = Number(
    "SCORING_SPARK_ROW_SECONDS", 2.0, 0.05, 60.0, "Time for one row in Spark Serving, in seconds, for the engine spark."
)

VARIABLES: tuple[Text | Number[int] | Number[float], ...] = (
    MODEL_DIR,
    MODEL_NAME,
    MODEL_VERSION,
    ENGINE,
    HOST,
    PORT,
    MAX_ROWS,
    MAX_STRING,
    MAX_STRINGS,
    MAX_BYTES,
    MAX_CONNECTIONS,
    MAX_IN_FLIGHT,
    QUEUE_SECONDS,
    HEAD_SECONDS,
    BODY_SECONDS,
    ANSWER_SECONDS,
    WARM_UP_SECONDS,
    DRAIN_SECONDS,
    STOP_SECONDS,
    SPARK_JARS,
    SPARK_MEMORY,
    SPARK_CONNECTIONS,
    SPARK_ROW_SECONDS,
)
"""Every variable that `Settings.from_environment` reads."""


@dataclass(frozen=True)
class Settings:
    """Values of `VARIABLES`. Each variable describes the meaning of its field."""

    model_dir: Path
    model: str
    """Label of the answers, `name:version`."""
    engine: str
    host: str
    port: int
    limits: Limits
    max_bytes: int
    max_connections: int
    max_in_flight: int
    queue_seconds: float
    head_seconds: float
    body_seconds: float
    answer_seconds: float
    warm_up_seconds: float
    drain_seconds: float
    stop_seconds: int
    spark_jars: Path
    spark_memory: str
    spark_connections: int
    spark_row_seconds: float

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read every variable. Raises `SettingsError` for the first wrong one."""
        return cls(
            model=f"{MODEL_NAME.read(environment)}:{MODEL_VERSION.read(environment)}",
            model_dir=Path(MODEL_DIR.read(environment)),
            engine=ENGINE.read(environment),
            host=HOST.read(environment),
            port=PORT.read(environment),
            limits=Limits(
                rows=MAX_ROWS.read(environment),
                string=MAX_STRING.read(environment),
                strings=MAX_STRINGS.read(environment),
            ),
            max_bytes=MAX_BYTES.read(environment),
            max_connections=MAX_CONNECTIONS.read(environment),
            max_in_flight=MAX_IN_FLIGHT.read(environment),
            queue_seconds=QUEUE_SECONDS.read(environment),
            head_seconds=HEAD_SECONDS.read(environment),
            body_seconds=BODY_SECONDS.read(environment),
            answer_seconds=ANSWER_SECONDS.read(environment),
            warm_up_seconds=WARM_UP_SECONDS.read(environment),
            drain_seconds=DRAIN_SECONDS.read(environment),
            stop_seconds=STOP_SECONDS.read(environment),
            spark_jars=Path(SPARK_JARS.read(environment)),
            spark_memory=SPARK_MEMORY.read(environment),
            spark_connections=SPARK_CONNECTIONS.read(environment),
            spark_row_seconds=SPARK_ROW_SECONDS.read(environment),
        )
