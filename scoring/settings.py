"""Everything that can be set, read once from the environment; a wrong value names the variable and what would do."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

Number = TypeVar("Number", int, float)


class SettingsError(ValueError):
    """An environment variable that a person must correct."""


@dataclass(frozen=True)
class Limits:
    """What one request may hold."""

    rows: int = 1000
    string: int = 1000
    """Characters of a string."""
    strings: int = 100
    """Strings in one list, and combinations of the lists that a cross joins."""


@dataclass(frozen=True)
class Settings:
    model_dir: Path
    model: str
    """What answers are labelled with: `name:version`."""
    engine: str
    host: str
    port: int
    limits: Limits
    max_bytes: int
    max_connections: int
    max_in_flight: int
    """Requests whose body is being read, or which the engine works on."""
    queue_seconds: float
    """How long a request may have waited for its turn; one that waited longer is told to come back."""
    head_seconds: float
    """For a request's head to arrive, from its first byte or from the opening of the connection."""
    body_seconds: float
    """For a request's body to arrive."""
    answer_seconds: float
    """For an answer to be made, and as long again for the client to take it."""
    warm_up_seconds: float
    """Time limit for the engine to start and to reproduce the golden rows; then the service ends with code 1."""
    drain_seconds: float
    """Still answering, but no longer ready, between SIGTERM and stop: time for a load balancer to notice."""
    stop_seconds: int
    """For requests in flight at the stop."""
    spark_jars: Path
    spark_memory: str
    spark_connections: int
    """Rows that Spark Serving works on at the same time."""
    spark_row_seconds: float

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        def text(name: str, default: str | None, pattern: str, rule: str) -> str:
            value = environment.get(name) or default
            if value is None or not re.fullmatch(pattern, value):
                raise SettingsError(f"{name}={'' if value is None else value}: expected {rule}")
            return value

        def number(name: str, default: Number, low: Number, high: Number) -> Number:
            value = environment.get(name) or str(default)
            try:
                parsed = type(default)(value)
            except ValueError:
                parsed = None
            if parsed is None or not low <= parsed <= high:
                kind = "an integer" if isinstance(default, int) else "a number"
                raise SettingsError(f"{name}={value}: expected {kind} from {low} to {high}")
            return parsed

        name = text("MODEL_NAME", "model", r"[\w.-]+", "letters, digits, - _ and .")
        version = text("MODEL_VERSION", "0", r"[\w.-]+", "letters, digits, - _ and .")
        return cls(
            model_dir=Path(text("AZUREML_MODEL_DIR", None, r".+", "the folder that holds the model artefact")),
            model=f"{name}:{version}",
            engine=text("SCORING_ENGINE", "native", r"native|spark", "native or spark"),
            host=text("SCORING_HOST", "127.0.0.1", r"\S+", "an address to listen on"),
            port=number("SCORING_PORT", 5001, 1, 65535),
            limits=Limits(
                rows=number("SCORING_MAX_ROWS", Limits.rows, 1, 100_000),
                string=number("SCORING_MAX_STRING", Limits.string, 1, 1_000_000),
                strings=number("SCORING_MAX_STRINGS", Limits.strings, 1, 100_000),
            ),
            max_bytes=number("SCORING_MAX_BYTES", 2 * 1024 * 1024, 1024, 256 * 1024 * 1024),
            max_connections=number("SCORING_MAX_CONNECTIONS", 512, 1, 100_000),
            max_in_flight=number("SCORING_MAX_IN_FLIGHT", 64, 1, 10_000),
            queue_seconds=number("SCORING_QUEUE_SECONDS", 0.02, 0.001, 60.0),
            head_seconds=number("SCORING_HEAD_SECONDS", 5.0, 0.1, 300.0),
            body_seconds=number("SCORING_BODY_SECONDS", 5.0, 0.1, 300.0),
            answer_seconds=number("SCORING_ANSWER_SECONDS", 10.0, 0.1, 300.0),
            warm_up_seconds=number("SCORING_WARM_UP_SECONDS", 900.0, 1.0, 7200.0),
            drain_seconds=number("SCORING_DRAIN_SECONDS", 0.0, 0.0, 300.0),
            stop_seconds=number("SCORING_STOP_SECONDS", 10, 1, 300),
            spark_jars=Path(text("SCORING_SPARK_JARS", "jars", r".+", "the folder of the SynapseML jars")),
            spark_memory=text("SCORING_SPARK_MEMORY", "1g", r"[1-9]\d*[mg]", "a heap size such as 1g or 1500m"),
            spark_connections=number("SCORING_SPARK_CONNECTIONS", 8, 1, 64),
            spark_row_seconds=number("SCORING_SPARK_ROW_SECONDS", 2.0, 0.05, 60.0),
        )
